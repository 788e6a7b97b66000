"""Some faults of `python tests/fuzz`: none causes a silent change or a traceback."""

from damaged_files import damaged_files, make
from faults import AGAIN, BAD, NOTICED, TRACEBACK, UNCHANGED, attempt
from mutated_configurations import mutated_configurations
from mutated_tables import mutated_tables

from fedprofit.core.errors import UserError


def test_damaged_files_are_reported_or_recreated(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", "")  # `make` sets it; monkeypatch restores it
    outcomes = list(damaged_files(make(tmp_path), seed=5, count=30))
    assert [one for one in outcomes if one.result in BAD] == []
    assert {one.result for one in outcomes} >= {NOTICED, AGAIN}, "faults were injected"


def test_mutated_configurations_load_or_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mutated_configurations.LIMIT", 60)  # no time limit here
    outcomes = list(mutated_configurations(tmp_path, seed=5, count=80))
    assert [one for one in outcomes if one.result in BAD] == []


def test_mutated_tables_load_correctly_or_are_refused(tmp_path):
    outcomes = list(mutated_tables(tmp_path, seed=1, count=120))
    assert [one for one in outcomes if one.result in BAD] == []


def test_attempt_classifies_exceptions():
    def fail(error):
        raise error

    assert attempt("x", "flip", lambda: UNCHANGED, "a.json").result == UNCHANGED
    assert attempt("x", "flip", lambda: fail(UserError("a.json: is damaged")), "a.json").result == NOTICED
    assert attempt("x", "flip", lambda: fail(UserError("something is")), "a.json").result == TRACEBACK
    assert attempt("x", "flip", lambda: fail(IndexError()), "a.json").result == TRACEBACK
