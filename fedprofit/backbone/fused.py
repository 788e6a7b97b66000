"""Decoder layers of Llama's shape, and the head, computed with few and large steps on a CPU.

Llama, Mistral, Qwen2 and SmolLM2 share one layer: norm, attention, norm, gated linear unit. For packed
batches such a layer is computed here instead of by the model's own code: projections of the same input as
one product, and everything between the products by the compiled loops in `kernels.py`. The weights are the
model's; what else the model is used for runs as before. Whether a model's layers mean the same as these
is not told from their names alone: `verify.py` compares them with the plain model before it relies on them.
"""

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from fedprofit.backbone.packing import NAME
from fedprofit.backbone.products import projected, widens
from fedprofit.backbone.segments import Rule

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Say why there are no loops for this device and type; "" where there are."""
    if device.type != "cpu":
        return f"compiled loops are for a CPU, not for {device.type}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"compiled loops take float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if find_spec("numba") is None:
        return "the package numba is not installed: pip install 'fedprofit[fast]'"
    try:
        import fedprofit.backbone.operations  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        return f"the package numba does not work here ({type(error).__name__}: {error})"
    return ""


def fuse(model: PreTrainedModel) -> bool:
    """Let a model be computed fused where a batch asks for it; tell whether it has such layers and head."""
    layers = [layer for layer in model.modules() if _has_shape(layer)] if _has_plain_head(model) else []
    if layers and not isinstance(layers[0].forward, partial):
        rules = _rules_of(model)
        made = [FusedLayer.of(layer, rules) for layer in layers]  # all, before any is changed
        for layer, fused in zip(layers, made, strict=True):
            layer.forward = partial(_forward, fused, layer.forward)
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if widens(head.weight):
            head.forward = partial(projected, weight=head.weight)
    return bool(layers)


def unfuse(model: PreTrainedModel) -> None:
    """Take back what `fuse` did: layers and head compute as they did before."""
    for module in [*model.modules()]:
        if isinstance(module.__dict__.get("forward"), partial):
            del module.forward


class _Listener:
    """A layout that hears by which rule each layer would attend."""

    fused = False

    def __init__(self) -> None:
        self.rules: dict[int, Rule] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: Rule) -> Tensor:
        self.rules[layer] = rule
        return query


def _rules_of(model: PreTrainedModel) -> dict[int, Rule]:
    """Return each layer's rule as the model's own code hands it over: some keep theirs out of the layer."""
    model.set_attn_implementation(NAME)
    listener, embedding = _Listener(), model.get_input_embeddings()
    with torch.no_grad():
        start = embedding(torch.zeros(1, 1, dtype=torch.long, device=model.device))
        where = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model(inputs_embeds=start, position_ids=where, use_cache=False, layout=listener)
    return listener.rules


def _has_plain_head(model: Any) -> bool:
    head = model.get_output_embeddings()
    return type(head) is Linear and head.bias is None


def _has_shape(layer: Module) -> bool:
    if {name for name, _ in layer.named_children()} != PARTS:
        return False
    attention: Any = layer.self_attn
    mlp: Any = layer.mlp
    linears = [getattr(attention, name, None) for name in PROJECTIONS]
    linears += [getattr(mlp, name, None) for name in GATED]
    norms: list[Any] = [layer.input_layernorm, layer.post_attention_layernorm]
    return (
        all(type(module) is Linear for module in linears)
        and {name for name, _ in attention.named_children()} == set(PROJECTIONS)
        and isinstance(getattr(mlp, "act_fn", None), torch.nn.SiLU | type(ACT2FN["silu"]))
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
    )


@dataclass(frozen=True)
class FusedLayer:
    """A decoder layer's weights as they are used; `W` is the model's width."""

    number: int
    last: bool  # whether no other layer follows
    size: int  # of a head
    rule: Rule  # its scale is applied as the queries are turned
    epsilons: tuple[float, float]
    norms: tuple[Tensor, Tensor]  # [W] each
    qkv: Tensor  # [(heads + 2 kv) * size, W]
    bias: Tensor | None  # of qkv
    kv: int
    out: Linear
    gate_up: Tensor  # [2 * inner, W]
    gate_up_bias: Tensor | None
    down: Linear

    @staticmethod
    def of(layer: Module, rules: dict[int, Rule]) -> "FusedLayer":
        """Lay a layer's projections of the same input together; the modules' weights become parts of them."""
        attention: Any = layer.self_attn
        mlp: Any = layer.mlp
        norms: list[Any] = [layer.input_layernorm, layer.post_attention_layernorm]
        qkv, bias = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        gate_up, gate_up_bias = _joined([mlp.gate_proj, mlp.up_proj])
        return FusedLayer(
            number=attention.layer_idx,
            last=attention.layer_idx == max(rules),
            size=attention.head_dim,
            rule=rules[attention.layer_idx],
            epsilons=(float(norms[0].variance_epsilon), float(norms[1].variance_epsilon)),
            norms=(norms[0].weight, norms[1].weight),
            qkv=qkv,
            bias=bias,
            kv=attention.k_proj.out_features // attention.head_dim,
            out=attention.o_proj,
            gate_up=gate_up,
            gate_up_bias=gate_up_bias,
            down=mlp.down_proj,
        )

    def __call__(self, hidden: Tensor, cos: Tensor, sin: Tensor, layout: Any) -> Tensor:
        """Compute the layer: hidden `[tokens, W]`, cos and sin `[tokens, size]`.

        Returns `[tokens, W]`; the last layer only those tokens that the layout says are read.
        """
        from fedprofit.backbone.operations import gated, normed, rotated

        hidden, read = normed(hidden, self.norms[0], self.epsilons[0])
        turned = rotated(projected(read, self.qkv, self.bias), cos, sin, self.rule.scale, self.kv)
        mixed = layout.attend(*turned, layer=self.number, rule=self.rule).flatten(1)
        if self.last and layout.read_at is not None:
            hidden, mixed = (flat[layout.read_at] for flat in (hidden, mixed))
            layout.read_at = None
        hidden = hidden + projected(mixed, self.out.weight, self.out.bias)
        hidden, read = normed(hidden, self.norms[1], self.epsilons[1])
        inner = gated(projected(read, self.gate_up, self.gate_up_bias))
        return hidden + projected(inner, self.down.weight, self.down.bias)


def _joined(modules: list[Linear]) -> tuple[Tensor, Tensor | None]:
    """Return the modules' weights as one, which then holds theirs too, and their biases as one."""
    weight = torch.cat([module.weight.detach() for module in modules])
    parts = torch.split(weight, [module.out_features for module in modules])
    for module, part in zip(modules, parts, strict=True):
        module.weight.data = part
    biases = [module.bias for module in modules if module.bias is not None]
    return weight, torch.cat([bias.detach() for bias in biases]) if biases else None


def _forward(layer: FusedLayer, plain: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for a decoder layer's own forward; without a layout that asks for it, be it."""
    layout = kwargs.get("layout")
    if layout is None or not layout.fused:
        own: Tensor = plain(hidden_states, *args, **kwargs)
        return own
    cos, sin = kwargs["position_embeddings"]
    return layer(hidden_states[0], cos[0], sin[0], layout).unsqueeze(0)
