"""GPTQ: each column's rounding error is made good by the columns that are still to come.

What matters is not the weights but x · Wᵀ over the calibration's inputs x. Their second moments
H = Σ xᵀx say how much the columns of W can stand in for one another (arXiv:2210.17323). Columns go
in the order of their weight in H; grids are fitted beforehand, so groups keep the order of inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.quantise.scheme import Grid, Quantised, Scheme, split_groups

_DAMPING = 0.01  # of the mean of H's diagonal: as the paper, section 3.3
_BLOCK = 128  # columns whose errors reach the rest of the matrix in one product


def quantise_by_moments(scheme: Scheme, matrix: Tensor, moments: Tensor) -> Quantised:
    """matrix: (outputs, inputs) float32, moments: (inputs, inputs) float32, left as they are.

    Inputs that the calibration never saw are rounded to nearest.
    """
    grids = [Grid.fit(scheme, part) for part in split_groups(scheme, matrix)]
    order = moments.diagonal().argsort(descending=True, stable=True)
    codes = _round_in_order(matrix[:, order], _spreads(moments[order][:, order]), grids, order)
    return Quantised(scheme, codes[:, order.argsort()], grids)


def _spreads(moments: Tensor) -> Tensor:
    """The upper factor of H⁻¹: row i says how column i's error is shared out."""
    moments = moments.clone()
    diagonal = moments.diagonal()
    diagonal += _DAMPING * diagonal.mean()
    diagonal[diagonal == 0] = 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    spreads: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return spreads


def _round_in_order(matrix: Tensor, spreads: Tensor, grids: list[Grid], order: Tensor) -> Tensor:
    """Codes (outputs, inputs) of a matrix whose column i is input order[i]."""
    matrix, inputs = matrix.clone(), matrix.shape[1]
    codes = torch.empty(matrix.shape, dtype=torch.uint8)
    group_size = inputs // len(grids)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.empty(len(matrix), end - start)
        for column in range(start, end):
            grid, values = grids[int(order[column]) // group_size], matrix[:, column : column + 1]
            codes[:, column : column + 1] = grid.encode(values)
            error = (values - grid.decode(codes[:, column : column + 1])) / spreads[column, column]
            matrix[:, column:end] -= error * spreads[column, column:end]
            errors[:, column - start] = error[:, 0]
        matrix[:, end:] -= errors @ spreads[start:end, end:]
    return codes
