"""Where networks are run, and how exactly."""

from __future__ import annotations

from typing import Literal

from tomodex.errors import Misconfigured

#: f32: the labels of the official package. bf16, f16: half the bits.
Precision = Literal["f32", "bf16", "f16"]

#: What a person asks for. auto: the GPU if torch sees one, else the CPU.
Wish = Literal["cpu", "cuda", "auto"]

#: cpu: OpenVINO. cuda: torch on a GPU. torch-cpu: the same without a GPU, for tests.
Device = Literal["cpu", "cuda", "torch-cpu"]

#: eager: layer by layer. compiled: torch puts layers together, which takes a minute for each model.
Kernels = Literal["eager", "compiled"]


def find_device(wish: Wish) -> Device:
    """The device that is there; torch is imported only if a GPU is asked for.

    Raises:
        Misconfigured: a GPU is asked for, and torch is not installed or sees none.
    """
    if wish == "cpu":
        return "cpu"
    lacking = _what_a_gpu_lacks()
    if not lacking:
        return "cuda"
    if wish == "cuda":
        raise Misconfigured(f"device=cuda: {lacking}")
    return "cpu"


def _what_a_gpu_lacks() -> str:
    """Empty if nothing."""
    try:
        import torch
    except (ImportError, OSError) as missing:
        return f"torch cannot be imported ({missing}); pip install 'tomodex[gpu]'"
    if torch.cuda.is_available():
        return ""
    return (
        f"torch {torch.__version__} sees no GPU: nvidia-smi shows whether the driver does, and "
        "torch.version.cuda whether torch was built for one"
    )
