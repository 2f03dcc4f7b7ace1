"""Tokens that chose experts: what the kernels of a mixture of experts are tried on."""

from functools import partial

import torch
from openinference_engine.ops import cuda_experts_reference as reference

from tests.gpu.op_checks import check as check_op

TOKEN_COUNTS = [0, 1, 8, 9, 17, 67, 128]

check = partial(check_op, oracle=reference)


def routing(inputs, logits, chosen, normalises=True, positions=None, own=None):
    tokens, experts = logits.shape
    own = range(experts) if own is None else own
    return {
        "logits": logits,
        "positions": inputs.zeros(tokens) if positions is None else positions,
        "normalises": normalises,
        "first_own": own.start,
        "own": len(own),
        "shares": inputs.unwritten(tokens, chosen, dtype=torch.float32),
        "places": inputs.zeros(tokens, chosen) - 7,
        "sources": inputs.zeros(tokens * chosen) - 7,
        "visits": inputs.zeros(tokens * chosen, 4) - 7,
    }


def visits_of(inputs, ids):
    """sources and visits of tokens that go to these experts: (T, K), each −1 for none."""
    tokens, chosen = ids.shape
    logits = torch.full((tokens, 9), -50.0)
    for choice in range(chosen):
        logits.scatter_(1, ids[:, choice : choice + 1].clamp(min=0), float(chosen - choice))
    positions = torch.where(ids[:, 0] < 0, -1, 0).int()
    arguments = routing(inputs, logits.to(inputs.device), chosen)
    arguments["positions"] = positions.to(inputs.device)
    reference.route(**arguments)
    return arguments


def random_ids(inputs, tokens, chosen=2, experts=9):
    ids = torch.rand(tokens, experts, generator=inputs.random).argsort(dim=1)[:, :chosen]
    ids[torch.rand(tokens, generator=inputs.random) < 0.2] = -1
    return ids


def all_to_one(_, tokens):
    return torch.full((tokens, 1), 6)
