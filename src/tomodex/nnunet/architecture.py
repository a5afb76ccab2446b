"""The shape of a network: what nnU-Net calls its architecture, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Three = tuple[int, int, int]  #: one for each axis of the network

Kind = Literal["PlainConvUNet", "ResidualEncoderUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A U-Net: stages that get coarser, and the way back with skips."""

    kind: Kind
    channels: int  #: of the image
    features: tuple[int, ...]  #: of each stage, finest first
    kernels: tuple[Three, ...]  #: of each stage
    strides: tuple[Three, ...]  #: into each stage; the first is (1, 1, 1)
    encoder_blocks: tuple[int, ...]  #: of each stage: convolutions, or residual blocks
    decoder_convs: tuple[int, ...]  #: of each stage on the way back, coarsest first
    heads: int  #: labels with the background
    conv_bias: bool
    norm_eps: float  #: of the instance norms
    leak: float  #: slope of the leaky ReLU below 0
