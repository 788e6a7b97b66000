"""Fused decoder layers of Llama's structure, and the head, for the CPU.

Llama, Mistral, Qwen2 and SmolLM2 share one layer structure: norm, attention, norm, gated linear unit. For
packed batches, this module replaces the forward of such layers. Projections of the same input become one
matrix product; the compiled kernels of `kernels.py` compute the rest. The weights remain those of the model,
and all other uses of the model are unchanged. Matching names do not prove that a layer computes the same:
`verify.py` compares fused layers with the plain model before they are used.
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
from fedprofit.backbone.segments import AttentionRule

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")


def unavailable(device: torch.device, dtype: torch.dtype) -> str:
    """Return why the kernels do not support this device and dtype; "" if they do."""
    if device.type != "cpu":
        return f"compiled kernels need a CPU, not {device.type}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"compiled kernels support float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if find_spec("numba") is None:
        return "the package numba is not installed: pip install 'fedprofit[fast]'"
    try:
        import fedprofit.backbone.operations  # noqa: F401
    except Exception as error:  # a broken installation can raise anything
        return f"the package numba does not work here ({type(error).__name__}: {error})"
    return ""


def fuse(model: PreTrainedModel) -> bool:
    """Replace the forward of Llama-like layers and of the head; return whether the model has them.

    A layer uses the fused forward only for batches whose layout requests it.
    """
    layers = [layer for layer in model.modules() if _is_llama_like(layer)] if _has_plain_head(model) else []
    if layers and not isinstance(layers[0].forward, partial):
        rules = _rules_of(model)
        fused_layers = [FusedLayer.of(layer, rules) for layer in layers]  # all, before any is changed
        for layer, fused in zip(layers, fused_layers, strict=True):
            layer.forward = partial(_forward, fused, layer.forward)
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if widens(head.weight):
            head.forward = partial(projected, weight=head.weight)
    return bool(layers)


def unfuse(model: PreTrainedModel) -> None:
    """Undo `fuse`: restore the forward of layers and head."""
    for module in [*model.modules()]:
        if isinstance(module.__dict__.get("forward"), partial):
            del module.forward


class _RuleRecorder:
    """A layout that records the attention rule of each layer."""

    fused = False

    def __init__(self) -> None:
        self.rules: dict[int, AttentionRule] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: AttentionRule) -> Tensor:
        self.rules[layer] = rule
        return query


def _rules_of(model: PreTrainedModel) -> dict[int, AttentionRule]:
    """Return the attention rule of each layer, recorded in a forward pass of the model."""
    model.set_attn_implementation(NAME)
    recorder, embedding = _RuleRecorder(), model.get_input_embeddings()
    with torch.no_grad():
        inputs = embedding(torch.zeros(1, 1, dtype=torch.long, device=model.device))
        positions = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model(inputs_embeds=inputs, position_ids=positions, use_cache=False, layout=recorder)
    return recorder.rules


def _has_plain_head(model: Any) -> bool:
    head = model.get_output_embeddings()
    return type(head) is Linear and head.bias is None


def _is_llama_like(layer: Module) -> bool:
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
    """The weights of a fused decoder layer; `W` is the width of the model."""

    number: int
    last: bool  # whether this is the last layer
    size: int  # of a head
    rule: AttentionRule  # its scale is applied together with the rotary embedding
    epsilons: tuple[float, float]
    norms: tuple[Tensor, Tensor]  # [W] each
    qkv: Tensor  # [(heads + 2 kv) * size, W]
    bias: Tensor | None  # of qkv
    kv: int  # key-value heads
    out: Linear
    gate_up: Tensor  # [2 * inner, W]
    gate_up_bias: Tensor | None
    down: Linear

    @staticmethod
    def of(layer: Module, rules: dict[int, AttentionRule]) -> "FusedLayer":
        """Concatenate a layer's projections of the same input; the module weights become views of them."""
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

        Returns `[tokens, W]`; in the last layer only the tokens of `layout.read_at`.
        """
        from fedprofit.backbone.operations import gated, normed, rotated

        hidden, read = normed(hidden, self.norms[0], self.epsilons[0])
        qkv = rotated(projected(read, self.qkv, self.bias), cos, sin, self.rule.scale, self.kv)
        attended = layout.attend(*qkv, layer=self.number, rule=self.rule).flatten(1)
        if self.last and layout.read_at is not None:
            hidden, attended = (flat[layout.read_at] for flat in (hidden, attended))
            layout.read_at = None
        hidden = hidden + projected(attended, self.out.weight, self.out.bias)
        hidden, read = normed(hidden, self.norms[1], self.epsilons[1])
        inner = gated(projected(read, self.gate_up, self.gate_up_bias))
        return hidden + projected(inner, self.down.weight, self.down.bias)


def _joined(modules: list[Linear]) -> tuple[Tensor, Tensor | None]:
    """Concatenate the weights and biases of modules; the module weights become views of the result."""
    weight = torch.cat([module.weight.detach() for module in modules])
    parts = torch.split(weight, [module.out_features for module in modules])
    for module, part in zip(modules, parts, strict=True):
        module.weight.data = part
    biases = [module.bias for module in modules if module.bias is not None]
    return weight, torch.cat([bias.detach() for bias in biases]) if biases else None


def _forward(layer: FusedLayer, plain: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Compute the fused layer if the layout requests it, else call the original forward."""
    layout = kwargs.get("layout")
    if layout is None or not layout.fused:
        output: Tensor = plain(hidden_states, *args, **kwargs)
        return output
    cos, sin = kwargs["position_embeddings"]
    return layer(hidden_states[0], cos[0], sin[0], layout).unsqueeze(0)
