"""Test bfloat16 products, native or computed in float32 and rounded."""

import gc
import weakref

import pytest
import torch

from fedprofit.backbone import products
from fedprofit.backbone.products import add_product, product, projected, widened


@pytest.fixture(params=["native", "widened"])
def arithmetic(request, monkeypatch):
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: request.param == "native")
    return request.param


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_product_and_add_product_round_once(arithmetic):
    first, second, sum_ = drawn(3, 5, 40), drawn(3, 40, 7, seed=1), drawn(3, 5, 7, seed=2)
    exact = first.double() @ second.double()
    near = {"rtol": 2**-8, "atol": 1e-5}  # half a unit in the last place of bfloat16
    assert product(first, second).dtype == torch.bfloat16
    torch.testing.assert_close(product(first, second).double(), exact, **near)
    added = sum_.clone()
    add_product(added, first, second)
    torch.testing.assert_close(added.double(), sum_.double() + exact, **near)


def test_projected_matches_float64_in_value_and_gradient(arithmetic):
    x, weight, bias, gradient = drawn(6, 40).requires_grad_(), drawn(9, 40), drawn(9), drawn(6, 9, seed=3)
    found = projected(x, weight, bias)
    near = {"rtol": 2**-8, "atol": 1e-5}
    exact = x.detach().double() @ weight.double().T + bias.double()
    torch.testing.assert_close(found.double(), exact, **near)
    found.backward(gradient)
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.double(), gradient.double() @ weight.double(), **near)


def test_widened_caches_copy_during_lifetime_of_weight(monkeypatch):
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: False)
    weight = drawn(4, 4)
    wide = widened(weight)
    assert wide.dtype == torch.float32
    assert torch.equal(wide, weight.float())
    assert widened(weight) is wide
    reference = weakref.ref(wide)
    del weight, wide
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_widened_returns_other_dtypes_unchanged(monkeypatch, dtype):
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: False)
    weight = drawn(4, 4).to(dtype)
    assert widened(weight) is weight
    assert torch.equal(projected(weight, weight), weight @ weight.T)
