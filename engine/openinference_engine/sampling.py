"""Draws tokens: a pure function of (seed, choice, output position, logits) for each sequence.

No generator state exists: the number behind a draw is a hash of its key (`chance`). So the same
request gets the same tokens in any batch, after preemption, and resumed on another replica.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from openinference_engine.chance import keep_head, likeliest, pick, random_bits, weights_of
from openinference_engine.request import SamplingParams
from openinference_engine.results import TokenLogprobs
from openinference_engine.step import Draw

_LOWEST_LOGPROB = -9999.0  # JSON knows no infinity


def sample(logits: Tensor, draws: list[Draw]) -> list[int]:
    """logits: (S, vocab), one row per draw → the token of each."""
    if all(is_plain_greedy(draw.params) for draw in draws):
        largest = logits.max(dim=-1)
        if not largest.values.isnan().any():
            return largest.indices.tolist()
    return [_sample_one(row, draw) for row, draw in zip(logits.float(), draws, strict=True)]


def rate_drawn(
    logits: Tensor, token_ids: list[int], draws: list[Draw]
) -> list[TokenLogprobs | None]:
    """logits: (S, vocab), as for `sample` → how likely each of its tokens was, where asked for."""
    return [
        None
        if draw.params.num_logprobs is None
        else rate(row[None], [token_id], draw.params.num_logprobs)[0]
        for row, token_id, draw in zip(logits, token_ids, draws, strict=True)
    ]


def rate(logits: Tensor, token_ids: list[int], num_top: int) -> list[TokenLogprobs]:
    """logits: (R, vocab) → the log-probability of one token in each row, and the likeliest ones.

    Row by row in float64, so that the numbers do not depend on how many rows there are. What is no
    number is as unlikely as can be, and what is infinite as the largest one.
    """
    pairs = zip(logits, token_ids, strict=True)
    return [_rate_one(row, token_id, num_top) for row, token_id in pairs]


def _rate_one(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """logits: (vocab,)."""
    least, largest = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
    scores = logits.float().nan_to_num(nan=least, posinf=largest, neginf=least).double()
    scores -= scores.max()
    logprobs = (scores - scores.logsumexp(0)).clamp(min=_LOWEST_LOGPROB)
    rank = int((scores > scores[token_id]).sum()) + 1
    top = _top(scores, num_top)
    return TokenLogprobs(float(logprobs[token_id]), rank, top.tolist(), logprobs[top].tolist())


def _top(scores: Tensor, count: int) -> Tensor:
    """scores: (vocab,) → ids of the largest, in order; of equal ones the lower id comes first."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    least = scores.topk(min(count, len(scores))).values[-1]
    token_ids = (scores >= least).nonzero()[:, 0]
    return token_ids[scores[token_ids].sort(descending=True, stable=True).indices[:count]]


def embed(states: Tensor, draws: list[Draw]) -> list[bytes | None]:
    """states: (S, hidden) → as float32 of length 1, where the sequence is to be embedded."""
    return [
        normalize(state.float(), dim=0).numpy(force=True).tobytes() if draw.params.embeds else None
        for state, draw in zip(states, draws, strict=True)
    ]


def is_plain_greedy(params: SamplingParams) -> bool:
    """Whether no rule can lead away from the likeliest token."""
    rules = params.min_tokens, params.allowed_token_ids, params.bad_words, params.grammar
    return keeps_likeliest(params) and not any(rules)


def keeps_likeliest(params: SamplingParams) -> bool:
    """Whether neither chance nor penalty nor bias leads away from the likeliest token."""
    return (
        params.temperature == 0
        and params.repetition_penalty == 1
        and not (params.presence_penalty or params.frequency_penalty or params.logit_bias)
    )


def _sample_one(logits: Tensor, draw: Draw) -> int:
    """logits: (vocab,) float32 → token."""
    params = draw.params
    logits = _restrict(_penalise(logits.clone(), draw), draw)
    if params.temperature == 0:
        return likeliest(logits)
    weights = weights_of(logits, params.temperature)
    if params.top_k or params.top_p < 1 or params.min_p:
        weights = keep_head(weights, params.top_k, params.top_p, params.min_p)
    picked = pick(weights, random_bits(params.seed, params.choice, draw.num_outputs))
    return likeliest(logits) if picked is None else picked


def _penalise(logits: Tensor, draw: Draw) -> Tensor:
    """Presence and frequency as OpenAI defines them, over outputs; repetition over everything
    seen (CTRL, arXiv:1909.05858)."""
    params = draw.params
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(draw.history)))
        scores, factor = logits[seen], params.repetition_penalty
        logits[seen] = torch.where(scores > 0, scores / factor, scores * factor)
    if params.presence_penalty or params.frequency_penalty:
        outputs = torch.tensor(draw.history[draw.num_prompt :], dtype=torch.int64)
        counts = torch.bincount(outputs, minlength=len(logits))
        logits -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
    if params.logit_bias:
        logits[list(params.logit_bias)] += torch.tensor(list(params.logit_bias.values()))
    return logits


def _restrict(logits: Tensor, draw: Draw) -> Tensor:
    """Takes forbidden tokens away. A rule that would leave no token at all is passed over."""
    for rule in (_in_grammar, _only_allowed, _no_bad_words, _no_early_end):
        restricted = rule(logits, draw)
        if restricted is not None and restricted.max() > -torch.inf:
            logits = restricted
    return logits


def _in_grammar(logits: Tensor, draw: Draw) -> Tensor | None:
    return None if draw.constraint is None else draw.constraint.restrict(logits)


def _only_allowed(logits: Tensor, draw: Draw) -> Tensor | None:
    if not draw.params.allowed_token_ids:
        return None
    allowed = torch.tensor(sorted(draw.params.allowed_token_ids))
    return torch.full_like(logits, -torch.inf).index_copy_(0, allowed, logits[allowed])


def _no_bad_words(logits: Tensor, draw: Draw) -> Tensor | None:
    """Forbids the last token of each bad word whose others were just drawn."""
    outputs = draw.history[draw.num_prompt :]
    last = [
        word[-1]
        for word in draw.params.bad_words
        if outputs[len(outputs) - len(word) + 1 :] == word[:-1] and len(outputs) >= len(word) - 1
    ]
    return logits.index_fill(0, torch.tensor(last), -torch.inf) if last else None


def _no_early_end(logits: Tensor, draw: Draw) -> Tensor | None:
    ends = draw.params.stop_token_ids
    if not ends or draw.num_outputs >= draw.params.min_tokens:
        return None
    return logits.index_fill(0, torch.tensor(sorted(ends)), -torch.inf)
