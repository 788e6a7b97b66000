"""Errors of personalizations that break their contract name kind, client and step."""

import re

import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.config.component import FAMILIES
from fedprofit.core.errors import UserError
from fedprofit.local.solver import Vectorized
from fedprofit.personalization.base import broadcast, draw_batches, personalize, train_clients
from fedprofit.personalization.finetune import FineTune

CLIENTS = ["ann", "bob"]
DATA = {"ann": ragged_batch(1, 4), "bob": ragged_batch(2, 3)}


class NanTerm:
    """A term that returns NaN for the second client."""

    def gradient(self, step):
        found = {key: torch.zeros_like(tensor) for key, tensor in step.params.items()}
        found["prompt"][1] = float("nan")
        return found


def nothing(done):
    return None


def reversed_clients(done):
    done.clients.reverse()
    return done


def narrow(done):
    done.points[2] = {"prompt": done.points[2]["prompt"][:, :1]}
    return done


def infinite(done):
    done.points[2]["prompt"][1] = float("inf")
    return done


def no_points(done):
    done.points.clear()
    return done


@pytest.fixture
def solver():
    return Vectorized(Engine(tiny_backbone(), "packed"))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Remove components that a test registers."""
    family = FAMILIES["personalization"]
    monkeypatch.setattr(family, "kinds", dict(family.all_kinds()))


def start():
    return {"prompt": torch.randn(3, 32, generator=torch.Generator().manual_seed(7)) * 0.3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing, "returned NoneType, not Personalized"),
        (reversed_clients, "returned 2 clients, not the 2 given, in their order"),
        (narrow, "returned shapes {'prompt': [2, 1, 32]} after step 2, not {'prompt': [2, 3, 32]}"),
        (infinite, "returned parameters that are not finite for client 'bob' after step 2"),
        (no_points, "returned no points"),
    ],
)
def test_personalization_with_wrong_result_is_named(solver, change, said):
    class Wrong(FineTune, kind="wrong"):
        """Returns invalid values."""

        def build(self, solver):
            inner = super().build(solver)
            return lambda *given: change(inner(*given))

    settings = Wrong(name="mine", steps=2)
    with pytest.raises(UserError, match=re.escape(f"the personalization 'wrong' (mine): {said}")):
        personalize(settings, solver, start(), CLIENTS, DATA.__getitem__, 0)


def test_term_with_nan_names_personalization_client_and_step(solver):
    class WithTerm(FineTune, kind="with_term"):
        """Trains with a term that returns NaN."""

        def build(self, solver):
            def tune(start, clients, examples, seed):
                cohort = draw_batches(self.plan(), clients, examples, seed)
                return train_clients(solver, broadcast(start, 2), cohort, self.client, [NanTerm()])

            return tune

    settings = WithTerm(steps=2)
    said = "'with_term'.*the objective term NanTerm returned NaN.*at local step 1 of client 'bob'"
    with pytest.raises(UserError, match=said):
        personalize(settings, solver, start(), CLIENTS, DATA.__getitem__, 0)


def test_personalize_accepts_stopped_client(solver):
    broken = {"prompt": torch.full_like(start()["prompt"], float("inf"))}
    done = personalize(FineTune(steps=2), solver, broken, CLIENTS, DATA.__getitem__, 0)
    assert list(done.result.stopped) == CLIENTS
