"""What the kernels of a decode step leave for one another, allocated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.ops.cuda_reference import SQUARE_COLUMNS
from openinference_engine.ratings import RATING_WORDS

MAX_ROWS = 128  # of a step; a tile of csrc/gpu/wide_gemm.cuh


@dataclass(frozen=True, slots=True)
class DecodeBuffers:
    """What kernels leave for one another; shapes in csrc/ops.h, with MAX_ROWS rows."""

    hidden: Tensor
    x: Tensor
    sum_squares: Tensor
    query: Tensor
    attended: Tensor
    activations: Tensor
    logits: Tensor
    best: Tensor
    counter: Tensor
    token_counts: Tensor
    used_up: Tensor  # the logits that draws use up where they are rated afterwards
    ratings: Tensor


def allocate(
    config: ModelConfig,
    vocabulary: int,
    multiprocessors: int,
    device: torch.device,
    logits: Tensor | None,
) -> DecodeBuffers:
    """vocabulary: 0 where no token is chosen or drawn. logits: (MAX_ROWS, vocab) float32, where
    others write them too.
    """
    heads, head_dim = config.num_heads, config.head_dim

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return DecodeBuffers(
        hidden=zeros(MAX_ROWS, config.hidden_size),
        x=zeros(MAX_ROWS, config.hidden_size, dtype=torch.bfloat16),
        sum_squares=zeros(MAX_ROWS, config.hidden_size // SQUARE_COLUMNS),
        query=zeros(MAX_ROWS, heads, head_dim, dtype=torch.bfloat16),
        attended=zeros(MAX_ROWS, heads, head_dim, dtype=torch.bfloat16),
        activations=zeros(MAX_ROWS, config.intermediate_size, dtype=torch.bfloat16),
        logits=zeros(MAX_ROWS, vocabulary) if logits is None else logits,
        best=zeros(4 * MAX_ROWS * multiprocessors),
        counter=zeros(1, dtype=torch.int32),
        token_counts=zeros(MAX_ROWS, vocabulary, dtype=torch.int32),
        used_up=zeros(MAX_ROWS, vocabulary),
        ratings=zeros(MAX_ROWS, RATING_WORDS, dtype=torch.int32),
    )
