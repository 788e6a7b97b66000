"""Test loading backbones: frozen, cached, in the requested dtype; bad sources raise `UserError`."""

import json
import shutil

import pytest
import torch
from gguf_file import write_gguf
from safetensors.torch import load_file, save_file
from tiny import tiny_folder, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaModel, T5Config, T5Model
from transformers.utils import logging as transformers_logging

from fedprofit.backbone import device, load
from fedprofit.backbone.fingerprint import fingerprint_folder
from fedprofit.backbone.load import load_backbone
from fedprofit.core.errors import UserError

SIZES = {"vocab_size": 352, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_load_backbone_freezes_model_and_reads_sizes(family, tmp_path):
    backbone = load_backbone(str(tiny_folder(tmp_path, family)), dtype="float32", device="cpu")
    sizes = (backbone.width, backbone.vocabulary_size, backbone.context_length)
    assert sizes == (32, 352, 256)
    assert (backbone.eos_token_ids, backbone.bos_token_id) == ([1], 0)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    ids = torch.tensor([backbone.tokenizer("Input: France")["input_ids"]])
    assert torch.equal(backbone.model(ids).logits, tiny_model(family).eval()(ids).logits)


def test_load_backbone_returns_cached_object(folder, monkeypatch):
    first = load_backbone(str(folder), "float32", "cpu")
    assert load_backbone(str(folder), dtype="float32", device="cpu") is first
    assert load_backbone(str(folder), "bfloat16", "cpu") is not first


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_load_backbone_uses_requested_dtype(dtype, folder):
    backbone = load_backbone(str(folder), dtype, "cpu")
    assert backbone.dtype == getattr(torch, dtype)
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {backbone.dtype}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512f", "avx512_bf16"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        ({"avx2", "avx512f"}, torch.float32),
        (set(), torch.float32),
    ],
)
def test_resolve_dtype_auto_depends_on_processor(flags, expected, monkeypatch):
    monkeypatch.setattr(device, "_cpu_flags", lambda: frozenset(flags))
    assert device.resolve_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize("native", [True, False])
def test_resolve_dtype_auto_depends_on_gpu(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    expected = torch.bfloat16 if native else torch.float32
    assert device.resolve_dtype("auto", torch.device("cuda")) == expected


def test_load_backbone_reads_gguf_file(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    lines = []
    backbone = load_backbone(str(tmp_path / "tiny.gguf"), "float32", "cpu", progress=lines.append)
    ids = torch.tensor([tiny_tokenizer()("Input: the river\nOutput:")["input_ids"]])
    assert torch.equal(backbone.model(ids).logits, tiny_model("llama").eval()(ids).logits)
    assert len(lines) == 1
    assert "tiny.gguf" in lines[0]


def test_eos_token_ids_combine_tokenizer_and_generation_config(folder):
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [2, 1]}))
    assert load_backbone(str(folder), "float32", "cpu").eos_token_ids == [1, 2]


def test_load_backbone_is_quiet_and_restores_logging(folder, capfd):
    capfd.readouterr()
    transformers_logging.set_verbosity_info()
    try:
        load_backbone(str(folder), "float32", "cpu")
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


class TestFingerprint:
    def of(self, folder):
        return fingerprint_folder(folder, AutoTokenizer.from_pretrained(folder))

    def test_depends_only_on_content(self, folder, tmp_path):
        again = tiny_folder(tmp_path / "elsewhere")
        assert self.of(folder) == self.of(again)
        assert self.of(folder) == load_backbone(str(folder), "bfloat16", "cpu").fingerprint
        assert self.of(folder) != self.of(tiny_folder(tmp_path, seed=1))

    def test_is_independent_of_sharding(self, folder, tmp_path):
        shards = tmp_path / "shards"
        tiny_model("llama").save_pretrained(shards, max_shard_size="20KB")
        tiny_tokenizer().save_pretrained(shards)
        assert len(list(shards.glob("*.safetensors"))) > 2
        assert self.of(shards) == self.of(folder)

    def test_changes_with_every_tensor(self, folder):
        path = folder / "model.safetensors"
        weights, before = load_file(path), self.of(folder)
        for name in weights:
            changed = {**weights, name: weights[name] * 1.01}
            save_file(changed, path, metadata={"format": "pt"})
            assert self.of(folder) != before, name

    @pytest.mark.parametrize(("file", "key"), [("config.json", "rms_norm_eps"), ("tokenizer.json", "model")])
    def test_changes_with_configuration_and_tokenizer(self, folder, file, key):
        before, content = self.of(folder), json.loads((folder / file).read_text())
        if key == "model":
            content["model"]["merges"].pop()
        else:
            content[key] *= 10
        (folder / file).write_text(json.dumps(content))
        assert self.of(folder) != before

    def test_ignores_transformers_version(self, folder):
        before, content = self.of(folder), json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, "transformers_version": "9.0"}))
        assert self.of(folder) == before


def refused(source, pattern, **options):
    with pytest.raises(UserError, match=pattern) as caught:
        load_backbone(str(source), **{"dtype": "float32", "device": "cpu", **options})
    assert str(source) in str(caught.value) or options


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("smollm2-135", "did you mean 'smollm2-135m'"),
        ("", "known: smollm2-135m-q4, smollm2-135m"),
        ("./nowhere", "is not an existing file or folder"),
        ("models/nowhere.gguf", "is not an existing file or folder"),
    ],
)
def test_load_backbone_refuses_unknown_name(name, pattern):
    refused(name, pattern)


def test_load_backbone_refuses_unknown_dtype_and_device(folder):
    refused(folder, "'int8' is unknown. Use auto, float32", dtype="int8")
    refused(folder, "'gpu' cannot be used", device="gpu")
    refused(folder, "'meta' cannot be used: clients are averaged in float64", device="meta")


def test_load_backbone_names_remedy_when_hub_is_unreachable(monkeypatch):
    def offline(*arguments, **options):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(load.AutoConfig, "from_pretrained", offline)
    refused("someone/some-model", r"couldn't connect.*network.*local folder.*models get smollm2-135m-q4")


def test_load_backbone_refuses_folder_without_configuration_or_weights(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"no config\.json \(it contains: nothing\)")
    (folder / "model.safetensors").unlink()
    refused(folder, r"no weights \(\*\.safetensors\)")


@pytest.mark.parametrize("size", [0, 5, 5000, 60_000])
def test_load_backbone_refuses_truncated_weights(size, folder):
    path = folder / "model.safetensors"
    assert path.stat().st_size > size
    path.write_bytes(path.read_bytes()[:size])
    refused(folder, "could not be loaded.*truncated")


def test_load_backbone_refuses_missing_shard(tmp_path, folder):
    shards = tmp_path / "shards"
    tiny_model("llama").save_pretrained(shards, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(shards)
    sorted(shards.glob("*.safetensors"))[0].unlink()
    refused(shards, "could not be loaded.*unfinished downloads")


def test_load_backbone_refuses_missing_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"lack 1 tensors.*model\.layers\.1\.mlp\.up_proj\.weight")


def test_load_backbone_refuses_damaged_configuration(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "could not be loaded.*config.json")


def test_load_backbone_refuses_models_without_causal_head(tmp_path, folder):
    BertModel(BertConfig(**SIZES, intermediate_size=32)).save_pretrained(tmp_path / "bert")
    refused(tmp_path / "bert", "is BertModel, which has no causal")
    t5 = T5Config(vocab_size=352, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    T5Model(t5).save_pretrained(tmp_path / "t5")
    refused(tmp_path / "t5", r"encoder-decoder \(t5\)")
    LlamaModel(tiny_model("llama").config).save_pretrained(tmp_path / "headless")
    refused(tmp_path / "headless", "is LlamaModel, which has no causal")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_load_backbone_refuses_missing_tokenizer(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path / "model")
    refused(tmp_path / "model", "no (usable )?tokenizer.*tokenizer.save_pretrained")


def test_load_backbone_refuses_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("[]")
    refused(folder, "no usable tokenizer")


def test_load_backbone_refuses_tokenizer_of_another_model(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {f"word{i}": 352 + i for i in range(5)}
    path.write_text(json.dumps(content))
    refused(folder, "357 tokens, its model only 352 embeddings")


def test_load_backbone_requires_end_of_sequence_token(folder):
    for file, key in [
        ("tokenizer_config.json", "eos_token"),
        ("generation_config.json", "eos_token_id"),
        ("config.json", "eos_token_id"),
    ]:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, key: None}))
    refused(folder, "no end-of-sequence token")


def test_load_backbone_refuses_custom_code(folder):
    content = json.loads((folder / "config.json").read_text())
    content |= {
        "model_type": "novel",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (folder / "config.json").write_text(json.dumps(content))
    refused(folder, "needs custom code, which is not executed: choose a model")


def test_load_backbone_accepts_relative_folder(folder, monkeypatch):
    shutil.move(folder, folder.parent / "model")
    monkeypatch.chdir(folder.parent)
    assert load_backbone("model", "float32", "cpu").name == "model"
