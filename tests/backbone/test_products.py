"""Products in bfloat16: computed by the processor, or in float32 of the same numbers and rounded."""

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


def test_products_are_those_of_the_same_numbers_rounded_once(arithmetic):
    first, second, sum_ = drawn(3, 5, 40), drawn(3, 40, 7, seed=1), drawn(3, 5, 7, seed=2)
    exact = first.double() @ second.double()
    near = {"rtol": 2**-8, "atol": 1e-5}  # half a unit in bfloat16's last place
    assert product(first, second).dtype == torch.bfloat16
    torch.testing.assert_close(product(first, second).double(), exact, **near)
    added = sum_.clone()
    add_product(added, first, second)
    torch.testing.assert_close(added.double(), sum_.double() + exact, **near)


def test_a_projection_has_its_gradient(arithmetic):
    x, weight, bias, slope = drawn(6, 40).requires_grad_(), drawn(9, 40), drawn(9), drawn(6, 9, seed=3)
    found = projected(x, weight, bias)
    near = {"rtol": 2**-8, "atol": 1e-5}
    exact = x.detach().double() @ weight.double().T + bias.double()
    torch.testing.assert_close(found.double(), exact, **near)
    found.backward(slope)
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.double(), slope.double() @ weight.double(), **near)


def test_a_weight_is_widened_once_and_forgotten_with_it(monkeypatch):
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: False)
    weight = drawn(4, 4)
    wide = widened(weight)
    assert wide.dtype == torch.float32
    assert torch.equal(wide, weight.float())
    assert widened(weight) is wide
    kept = weakref.ref(wide)
    del weight, wide
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_left_alone(monkeypatch, dtype):
    monkeypatch.setattr(products, "computes_bfloat16", lambda device: False)
    weight = drawn(4, 4).to(dtype)
    assert widened(weight) is weight
    assert torch.equal(projected(weight, weight), weight @ weight.T)
