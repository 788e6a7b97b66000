"""Terms of the objective: the solver's gradients, compared with the reference's autograd, and errors."""

import dataclasses

import pytest
import torch
from ragged import ragged_cohort
from tiny import tiny_backbone

from fedprofit.backbone import paths
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.backbone.fused import fuse
from fedprofit.core.errors import UserError
from fedprofit.local.objective import Correction, Kl, Proximal, Sharpness
from fedprofit.local.optimizer import Adam, Sgd
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import Vectorized


def drawn(seed, backbone, clients=4, length=4):
    generator = torch.Generator().manual_seed(seed)
    return {"prompt": torch.randn(clients, length, backbone.width, generator=generator) * 0.3}


def terms_of(backbone):
    return {
        "proximal": Proximal(0.5, drawn(1, backbone)),
        "correction": Correction(drawn(2, backbone)),
        "kl": Kl(0.7, drawn(3, backbone)),
        "kl without prompt": Kl(0.7, drawn(3, backbone, length=0)),
        "sharpness": Sharpness(0.05),
    }


@pytest.mark.parametrize(
    ("family", "path"),
    [("llama", "packed"), ("gpt2", "packed"), ("llama", "eager"), ("llama", "sdpa"), ("llama", "fused")],
)
@pytest.mark.parametrize("name", terms_of(tiny_backbone()))
def test_solver_matches_reference_for_every_term(family, path, name):
    backbone = tiny_backbone(family)
    cohort, start, term = ragged_cohort(), drawn(7, backbone), terms_of(backbone)[name]
    expected, kept = Sequential(backbone).solve(start, cohort, Sgd(rate=0.1), [term], [0, 1, 9])
    assert path != "fused" or fuse(backbone.model)
    for budget in (4096, 40):  # one forward pass, and many micro-batches
        solver = Vectorized(Engine(backbone, path, budget))
        result, points = solver.solve(start, cohort, Sgd(rate=0.1), [term], [0, 1, 9])
        torch.testing.assert_close(result.params, expected.params, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(points, kept, rtol=1e-5, atol=2e-5)
        assert (result.steps, result.tokens) == (expected.steps, expected.tokens)
        for ours, theirs in zip(result.losses, expected.losses, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)
    without, _ = Sequential(backbone).solve(start, cohort, Sgd(rate=0.1))
    assert not torch.allclose(without.params["prompt"], expected.params["prompt"], atol=1e-3), "it matters"


def test_divergence_equals_definition():
    backbone = tiny_backbone()
    backbone.use_own_attention()  # this test calls the model itself
    (batch, *_) = ragged_cohort()[0].batches
    now, before = (drawn(seed, backbone, clients=1)["prompt"] for seed in (1, 2))
    expected = []
    for example in batch:
        logs = [
            torch.log_softmax(
                backbone.model(
                    inputs_embeds=torch.cat(
                        [
                            prompt[0],
                            backbone.embed(torch.tensor([*example.prefix, *example.source, *example.target])),
                        ]
                    )[None]
                ).logits[0, -len(example.target) - 1 : -1],
                dim=-1,
            )
            for prompt in (before, now)
        ]
        expected.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
    rows = [Row(0, example) for example in batch]
    for path in ("packed", "eager", "single"):
        found = paths.divergences(backbone, path, now, before, rows)
        assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_divergence_from_itself_is_zero():
    backbone = tiny_backbone()
    start = drawn(1, backbone)
    batches = [client.batches[0] if client.batches else () for client in ragged_cohort()]
    for solver in (Vectorized(Engine(backbone, "packed")), Sequential(backbone)):
        found = solver.divergences(start, start, batches)
        assert found.losses.tolist() == pytest.approx([0] * 4, abs=1e-6)
        assert found.gradients["prompt"].abs().max() < 1e-5


def test_divergence_is_the_same_from_workers():
    backbone = tiny_backbone()
    now, before = drawn(1, backbone), drawn(2, backbone)
    batches = [client.batches[0] if client.batches else () for client in ragged_cohort()]
    single, together = (
        Vectorized(Engine(backbone, "packed", 60, workers)).divergences(now, before, batches)
        for workers in (1, 2)
    )
    torch.testing.assert_close(single.gradients, together.gradients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single.losses, together.losses)


class Broken:
    """A term whose gradient the test defines."""

    def __init__(self, change):
        self.change = change

    def gradient(self, step):
        return self.change({key: tensor.clone() for key, tensor in step.params.items()})

    def value(self, step):
        return self.gradient(step)["prompt"].square().sum()


def nan_of(place):
    def change(params):
        params["prompt"][place] = float("nan")
        return params

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nan_of(1), "returned NaN, though loss and parameters are finite, at local step 1 of client 'c1'"),
        (lambda p: {"prompt": p["prompt"][:1]}, "returned a gradient of shapes {'prompt': [1, 4, 32]}"),
        (lambda p: {"other": p["prompt"]}, "returned a gradient of shapes {'other': "),
        (lambda p: p["prompt"], "returned Tensor, not a dictionary of tensors, at local step 1"),
    ],
)
def test_broken_term_is_named(change, said):
    backbone = tiny_backbone()
    solver = Vectorized(Engine(backbone, "packed"))
    with pytest.raises(UserError) as caught:
        solver.solve(drawn(7, backbone), ragged_cohort(), Sgd(rate=0.1), [Broken(change)])
    assert f"{__file__}:" in str(caught.value)
    assert f"the objective term Broken {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda step: step.params["prompt"], r"has a value of \[4, 32\], not a scalar tensor"),
        (lambda step: 0.0, "has a value of float, not a scalar tensor"),
        (lambda step: step.params["prompt"].sum() * float("nan"), "returned NaN"),
    ],
)
def test_broken_value_is_named_by_reference(value, said):
    backbone, term = tiny_backbone(), Broken(None)
    term.value = value
    with pytest.raises(UserError, match=f"term Broken {said}.* at local step 1 of client 'c0'"):
        Sequential(backbone).solve(drawn(7, backbone), ragged_cohort(), Sgd(rate=0.1), [term])


def test_infinite_term_stops_the_client_only():
    backbone, cohort = tiny_backbone(), ragged_cohort()
    start = drawn(7, backbone)
    infinite = {"prompt": torch.zeros_like(start["prompt"])}
    infinite["prompt"][1] = float("inf")
    for solver in (Vectorized(Engine(backbone, "packed")), Sequential(backbone)):
        result, _ = solver.solve(start, cohort, Adam(rate=0.01), [Correction(infinite)])
        assert result.stopped == {"c1": "loss or gradient not finite at local step 1"}
        assert result.steps == [3, 0, 0, 2]


def test_term_ignores_clients_without_batches():
    backbone = tiny_backbone()
    cohort = [dataclasses.replace(client, batches=()) for client in ragged_cohort()[:2]]
    start = drawn(7, backbone, clients=2)
    for solver in (Vectorized(Engine(backbone, "packed")), Sequential(backbone)):
        result, kept = solver.solve(start, cohort, Sgd(), [Broken(nan_of(0))], [0])
        assert torch.equal(result.params["prompt"], start["prompt"])
        assert torch.equal(kept[0]["prompt"], start["prompt"])


def test_first_step_with_a_term_equals_its_formula():
    backbone, rate = tiny_backbone(), 0.1
    cohort, start = ragged_cohort(), drawn(7, backbone)
    firsts = [dataclasses.replace(client, batches=client.batches[:1]) for client in cohort]
    batches = [client.batches[0] if client.batches else () for client in firsts]
    slope = Sequential(backbone).gradients(start, batches).gradients["prompt"]
    given, radius, at = drawn(2, backbone)["prompt"], 0.05, start["prompt"].clone()
    for client in (0, 1, 3):  # client 2 has no data
        at[client] += radius * slope[client] / slope[client].square().sum().sqrt()
    ascended = Sequential(backbone).gradients({"prompt": at}, batches).gradients["prompt"]
    trained = torch.tensor([1.0, 1, 0, 1]).reshape(4, 1, 1)
    for term, total in ((Correction({"prompt": given}), slope + given), (Sharpness(radius), ascended)):
        result, _ = Vectorized(Engine(backbone, "packed")).solve(start, firsts, Sgd(rate=rate), [term])
        expected = start["prompt"] - rate * trained * total
        torch.testing.assert_close(result.params["prompt"], expected, rtol=1e-5, atol=1e-5)
