"""A few of the faults of `python tests/fuzz`: none changes anything in silence, or ends in a traceback."""

from damaged_files import damaged_files, make
from faults import AGAIN, BAD, NOTICED, TRACEBACK, UNCHANGED, attempt
from mutated_configurations import mutated_configurations
from mutated_tables import mutated_tables

from fedprofit.core.errors import UserError


def test_damaged_files_are_noticed_or_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", "")  # restored in the end: `make` sets it
    outcomes = list(damaged_files(make(tmp_path), seed=5, count=30))
    assert [one for one in outcomes if one.result in BAD] == []
    assert {one.result for one in outcomes} >= {NOTICED, AGAIN}, "faults were put in"


def test_mutated_configurations_load_or_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mutated_configurations.LIMIT", 60)  # here nothing is timed
    outcomes = list(mutated_configurations(tmp_path, seed=5, count=80))
    assert [one for one in outcomes if one.result in BAD] == []


def test_mutated_tables_load_what_was_written_or_are_refused(tmp_path):
    outcomes = list(mutated_tables(tmp_path, seed=1, count=120))
    assert [one for one in outcomes if one.result in BAD] == []


def test_attempt_classifies_what_is_raised():
    def fail(error):
        raise error

    assert attempt("x", "flip", lambda: UNCHANGED, "a.json").result == UNCHANGED
    assert attempt("x", "flip", lambda: fail(UserError("a.json: is damaged")), "a.json").result == NOTICED
    assert attempt("x", "flip", lambda: fail(UserError("something is")), "a.json").result == TRACEBACK
    assert attempt("x", "flip", lambda: fail(IndexError()), "a.json").result == TRACEBACK
