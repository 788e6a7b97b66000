"""Soft prompts: where they start, what others read of them, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from ragged import ragged_batch
from tiny import tiny_backbone, tiny_folder

from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.core.errors import UserError
from fedprofit.tuner.prompt import SoftPrompt


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


def test_text_is_repeated_or_cut_to_length(backbone):
    tokens = backbone.tokenizer("red house", add_special_tokens=False)["input_ids"]
    tuner = SoftPrompt(length=len(tokens) + 1, init="text", text="red house").build()
    expected = backbone.embed(torch.tensor([*tokens, tokens[0]]))
    assert torch.equal(tuner.apply_one(tuner.init(backbone, 0)), expected)


def test_text_without_tokens_is_refused(backbone):
    with pytest.raises(UserError, match=r"tuner\.text: '' has no tokens"):
        SoftPrompt(length=2, init="text", text="").build().init(backbone, 0)


def test_export_computes_the_same_in_peft(tmp_path, backbone):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    tuner = SoftPrompt(length=3).build()
    params = {key: tensor + 0.1 for key, tensor in tuner.init(backbone, 1).items()}
    tuner.export(params, backbone, tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(tmp_path, "llama"))
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    (example,) = ragged_batch(0, 1)
    ids = torch.tensor([[*example.prefix, *example.source, *example.target]])
    labels = torch.full_like(ids, -100)
    labels[0, -len(example.target) :] = ids[0, -len(example.target) :]
    with torch.no_grad():
        theirs = float(adapted(input_ids=ids, labels=labels).loss) * len(example.target)
    ours = float(plain_losses(backbone, tuner.apply_one(params)[None], [Row(0, example)]))
    assert theirs == pytest.approx(ours, rel=1e-5)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["num_virtual_tokens"] == 3
    with pytest.raises(UserError, match="adapter: exists"):
        tuner.export(params, backbone, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"step-1.prompt": 0, "step-2.other": 0},
            "the tensor 'step-2.other', which the tuner 'prompt' lacks",
        ),
        ({"weights": 0}, "holds the tensor 'weights'"),
    ],
)
def test_load_refuses_files_of_another_tuner(tensors, said):
    with pytest.raises(UserError, match=said) as caught:
        SoftPrompt().build().load({name: torch.zeros(1, 2) for name in tensors}, Path("mine.safetensors"))
    assert str(caught.value).startswith("mine.safetensors: ")


def test_load_names_the_tensor_that_a_file_lacks():
    pair = dataclasses.replace(SoftPrompt().build(), kind="pair", dimensions={"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"^mine: lacks the tensor 'step-2.b' of the tuner 'pair'"):
        pair.load({name: torch.zeros(1) for name in ("step-1.a", "step-1.b", "step-2.a")}, Path("mine"))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"lora": torch.zeros(2, 2)}, "the tuner 'prompt' has the tensors prompt, and .* have lora"),
        ({"prompt": torch.zeros(5)}, r"has the shape \[5\]"),
        ({"prompt": torch.zeros(3, 2, 5)}, r"has the shape \[3, 2, 5\]; give \[2, 4\]"),
        ({"prompt": torch.full((2, 4), torch.nan)}, "holds NaN or infinity"),
    ],
)
def test_check_names_what_is_wrong(params, said):
    with pytest.raises(UserError, match=f"predictor 'single': .*{said}"):
        SoftPrompt().build().check(params, "predictor 'single'", like={"prompt": torch.zeros(2, 4)})
