"""Fingerprints that identify the weights, configuration and tokenizer of a model."""

import hashlib
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from fedprofit.core import files
from fedprofit.core.reading import guarded, read_json, tensors_header

PROBE = "Definition: Add 12 to 345.\n\nInput: été, naïve 雪\nOutput:"

_SAMPLE = 4096  # bytes


def fingerprint_folder(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return 16 hexadecimal digits that change with a model's weights, configuration or tokenizer.

    The cost per tensor is constant: its name, dtype, shape and 4 KiB at its start, middle and end are hashed.
    This detects training, but possibly not an edit of single values. Sharding, file times and paths do not
    matter. Weights in formats other than safetensors are hashed completely.
    """
    digest = hashlib.sha256()
    tensors = [entry for file in folder.glob("*.safetensors") for entry in _tensors(file)]
    for tensor, file, begin, end, facts in sorted(tensors):
        digest.update(f"{tensor} {facts}".encode())
        with open(file, "rb") as handle:
            for start in (begin, (begin + end) // 2, max(begin, end - _SAMPLE)):
                handle.seek(start)
                digest.update(handle.read(min(_SAMPLE, end - start)))
    if not tensors:
        for file in sorted(folder.glob("*.bin")):
            digest.update(files.file_hash(file).encode())
    config = read_json(folder / "config.json", "Fetch the model again.")
    for volatile in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(volatile, None)
    digest.update(files.content_hash([config, *_words(tokenizer)]).encode())
    return digest.hexdigest()[:16]


def _tensors(file: Path) -> list[tuple[str, Path, int, int, str]]:
    """List the tensors of a safetensors file: name, file, first and last byte offset, dtype and shape."""
    with guarded(file, "Fetch the model again."), open(file, "rb") as handle:
        header, begin = tensors_header(handle)
    header.pop("__metadata__", None)
    return [
        (
            name,
            file,
            begin + entry["data_offsets"][0],
            begin + entry["data_offsets"][1],
            f"{entry['dtype']} {entry['shape']}",
        )
        for name, entry in header.items()
    ]


def tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a tokenizer and its settings as text; without a backend, its vocabulary and probe ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return repr(_words(tokenizer)) if backend is None else str(backend.to_str())


def _words(tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """Return a tokenizer's vocabulary and merges as text, and the ids of `PROBE`.

    Library versions serialize the settings differently; the ids reflect their effect.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = repr(sorted(tokenizer.get_vocab().items()))
    else:
        words = str(backend.to_str().partition('"model":')[2])
    return words, tokenizer(PROBE)["input_ids"]
