"""The ops with which ranks of a team exchange what they have, one rank after another."""

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.ops import cuda_experts_reference as experts_reference
from openinference_engine.ops import cuda_reference as reference
from openinference_engine.packings import PACKINGS, pack_matrix

from tests.gpu.team_memory import Memory

PATIENCE_NANOSECONDS = 10**6


def teams(ops, memory, ranks, patience_nanoseconds=PATIENCE_NANOSECONDS):
    """Of each rank, as the ops take it."""
    return [
        ops.Team(
            rank, ranks, view.inboxes, view.logits, view.words, view.state.data_ptr(),
            view.state[1:].data_ptr(), patience_nanoseconds, view.peers_aborted, view.parts,
            view.part_elements,
        )
        for rank in range(ranks)
        for view in [memory.seen_by(rank)]
    ]  # fmt: skip


@pytest.fixture
def random():
    return torch.Generator().manual_seed(11)


def as_weights(matrix, packing):
    """In the packed format of that name, or in bf16."""
    if packing is None:
        return matrix.bfloat16()
    return pack_matrix(PACKINGS[packing], matrix, tiles.plain_order(len(matrix)))


@pytest.mark.parametrize("way", [("push_partial", "add_partials"), ("store_part", "add_parts")])
@pytest.mark.parametrize(
    ("ranks", "tokens", "packing"),
    [
        (2, 0, None),
        (2, 1, None),
        (3, 17, None),
        (8, 5, None),
        (2, 100, "fp8"),
        *((2, 3, name) for name in PACKINGS),
    ],
)
def test_partial_sums_of_all_ranks_become_the_same_state_everywhere(
    place, random, ranks, tokens, packing, way
):
    check_sums(place, random, ranks, (tokens, 80), packing, way)


@pytest.mark.gpu
@pytest.mark.parametrize(("packing", "hidden_size"), [(None, 8720), ("int4", 8704)])
def test_parts_of_prompts_become_the_same_state_everywhere(hopper, random, packing, hidden_size):
    """Of products whose blocks walk over tiles, as there are more than half as many as fit."""
    check_sums(hopper, random, 2, (300, hidden_size), packing, ("store_part", "add_parts"))


def check_sums(place, random, ranks, shape, packing, way):
    """shape: of the hidden state."""
    (tokens, hidden_size), columns = shape, 128
    elements = tokens * hidden_size
    memory = Memory(ranks, ranks * elements // 2, 1, 1, place.device, elements)
    members = teams(place.ops, memory, ranks)
    gamma = torch.randn(hidden_size, generator=random).bfloat16().to(place.device)
    before = torch.randn(tokens, hidden_size, generator=random).to(place.device)
    for exchange in range(3):  # both inboxes, and the first anew
        expected = before.clone()
        for team in members:
            weights = torch.randn(hidden_size, columns, generator=random) * columns**-0.5
            weights = as_weights(weights, packing)
            part = torch.randn(tokens, columns, generator=random).bfloat16()
            weights, part = weights.to(place.device), part.to(place.device)
            getattr(place.ops, way[0])(part, weights, team, exchange, place.stream)
            dense = reference.dense(weights, tiles.plain_order(hidden_size))
            expected += (part.float() @ dense.T).bfloat16()
        states = [add_up(place, way[1], team, exchange, gamma, before.clone()) for team in members]
        x, squares = torch.empty_like(states[0][1]), torch.empty_like(states[0][2])
        reference.write_norm_inputs(expected, gamma, x, squares)
        torch.testing.assert_close(states[0][0], expected, rtol=2**-7, atol=2**-5)
        torch.testing.assert_close(states[0][1], x, rtol=2**-6, atol=2**-4)
        torch.testing.assert_close(states[0][2], squares, rtol=2**-6, atol=2**-4)
        for state in states[1:]:
            assert all(map(torch.equal, state, states[0]))
        before = states[0][0]


@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_rows_that_were_packed_are_unpacked_as_they_were(place, random, tokens):
    columns = 80
    hidden = torch.randn(tokens, columns, generator=random)
    gamma = torch.randn(columns, generator=random).bfloat16()
    squares = torch.randn(tokens, columns // 16, generator=random)
    positions = torch.arange(tokens).int() - 1
    sent = [tensor.to(place.device) for tensor in (positions, hidden, squares)]
    packed = torch.empty(tokens, columns // 16 * 18, dtype=torch.int32, device=place.device)
    place.ops.pack_rows(*sent, packed, place.stream)
    places, states, sums = map(torch.empty_like, sent)
    x = torch.empty_like(states, dtype=torch.bfloat16)
    norm = gamma.to(place.device)
    place.ops.unpack_rows(packed, norm, places, states, x, sums, place.stream)
    assert all(map(torch.equal, (places, states, sums), sent))
    assert torch.equal(x.cpu(), (hidden * gamma.float()).bfloat16())


def test_packed_rows_of_another_width_are_refused(place):
    packed, states = torch.empty(1, 80, dtype=torch.int32), torch.empty(1, 80)
    sent = torch.empty(1, dtype=torch.int32), states, torch.empty(1, 5)
    with pytest.raises(ValueError, match="packed"):
        place.ops.pack_rows(*(t.to(place.device) for t in (*sent, packed)), place.stream)


@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_terms_of_experts_of_all_ranks_become_one_sum(place, random, tokens):
    """Of ranks each of which has some of a token's experts, its places for them, and all shares."""
    ranks, chosen, columns = 2, 3, 80
    memory = Memory(ranks, ranks * tokens * columns // 2, 1, 1, place.device)
    members = teams(place.ops, memory, ranks)
    shares = torch.rand(tokens, chosen, generator=random).to(place.device)
    gamma = torch.ones(columns, dtype=torch.bfloat16, device=place.device)
    owners = torch.randint(0, ranks, (tokens, chosen), generator=random)
    hidden = torch.randn(tokens, columns, generator=random).to(place.device)
    expected = hidden.clone()
    for rank, team in enumerate(members):
        is_own = owners.flatten() == rank
        places = torch.where(is_own, is_own.cumsum(0) - 1, -1).view(tokens, chosen).int()
        results = torch.randn(tokens * chosen, columns, generator=random).bfloat16()
        results[is_own.sum() :] = torch.nan  # of places that nobody has
        results = results.to(place.device)
        place.ops.push_experts(results, shares, places.to(place.device), team, 0, place.stream)
        for token, choice in is_own.view(tokens, chosen).nonzero().tolist():
            expected[token] += shares[token, choice] * results[places[token, choice]].float()
    states = [add_up(place, "add_partials", team, 0, gamma, hidden.clone()) for team in members]
    torch.testing.assert_close(states[0][0], expected, rtol=2**-7, atol=2**-5)
    assert all(map(torch.equal, states[1], states[0]))


@pytest.mark.parametrize(
    ("tokens", "columns", "packing"),
    [
        (0, 64, None),
        (1, 64, None),
        (11, 1120, None),
        (33, 96, None),
        *((3, 256, name) for name in PACKINGS),
    ],
)
def test_sums_of_experts_of_all_ranks_become_one(place, random, tokens, columns, packing):
    """Of two ranks that have four experts each."""
    ranks, experts, chosen, hidden_size = 2, 8, 3, 48
    memory = Memory(ranks, ranks * tokens * hidden_size // 2, 1, 1, place.device)
    logits = torch.randn(tokens, experts, generator=random).to(place.device)
    gamma = torch.ones(hidden_size, dtype=torch.bfloat16, device=place.device)
    hidden = torch.randn(tokens, hidden_size, generator=random).to(place.device)
    expected, members = hidden.clone(), teams(place.ops, memory, ranks)

    def zeros(*shape, dtype=torch.int32):
        return torch.zeros(shape, dtype=dtype, device=place.device)

    for rank, team in enumerate(members):
        shares, places = zeros(tokens, chosen, dtype=torch.float32), zeros(tokens, chosen)
        sources, visits = zeros(tokens * chosen), zeros(tokens * chosen, 4)
        own = experts // ranks * rank, experts // ranks
        routed = True, *own, shares, places, sources, visits
        place.ops.route(logits, zeros(tokens), *routed, place.stream)
        weights = torch.randn(own[1], hidden_size, columns, generator=random) * columns**-0.5
        input = torch.randn(tokens * chosen, columns, generator=random).bfloat16()
        weights = torch.stack([as_weights(matrix, packing) for matrix in weights])
        weights, input = weights.to(place.device), input.to(place.device)
        sums = input, weights, visits, shares, places
        place.ops.push_expert_sum(*sums, team, 0, place.stream)
        experts_reference.expert_sum(*sums, gamma, expected, *states_of(expected))
    states = [add_up(place, "add_partials", team, 0, gamma, hidden.clone()) for team in members]
    torch.testing.assert_close(states[0][0], expected, rtol=2**-7, atol=2**-5)
    assert all(map(torch.equal, states[1], states[0]))


def states_of(hidden):
    """x and sum_squares, to be written."""
    tokens, columns = hidden.shape
    return torch.empty_like(hidden, dtype=torch.bfloat16), hidden.new_empty(tokens, columns // 16)


def add_up(place, op, team, exchange, gamma, hidden):
    tokens, columns = hidden.shape
    x = torch.full((tokens, columns), torch.nan, dtype=torch.bfloat16, device=place.device)
    squares = torch.full((tokens, columns // 16), torch.nan, device=place.device)
    getattr(place.ops, op)(team, exchange, gamma, hidden, x, squares, place.stream)
    return hidden, x, squares


@pytest.mark.parametrize("ranks", [2, 3])
def test_choice_is_the_likeliest_of_all_parts(place, random, ranks):
    rows, vocabulary = 5, 16 * ranks
    logits = torch.randn(rows, vocabulary, generator=random)
    logits[1, [3, 20]] = 9.0  # of equal ones the first
    logits[2, :16] = torch.nan  # a part without a number
    logits[3] = torch.nan
    memory = Memory(ranks, ranks * 2 * rows, rows, vocabulary, place.device)
    parts = [part.contiguous().to(place.device) for part in logits.split(16, dim=1)]
    members = teams(place.ops, memory, ranks)
    for rank, (team, part) in enumerate(zip(members, parts, strict=True)):
        chosen = part.nan_to_num(nan=-torch.inf).argmax(1)
        chosen = torch.where(part.isnan().all(1), -1, chosen).int()
        counters = torch.zeros(rows, dtype=torch.int32, device=place.device)
        place.ops.push_choice(part, 16 * rank, vocabulary, chosen, team, 0, counters, place.stream)
        assert not counters.any()
    best = logits.nan_to_num(nan=-torch.inf).argmax(1).tolist()
    for rank, team in enumerate(members):
        tokens = torch.zeros(rows, dtype=torch.int32, device=place.device)
        positions = torch.tensor([7, 8, 9, 10, -1], dtype=torch.int32, device=place.device)
        place.ops.take_choice(team, 0, tokens, positions, place.stream)
        assert tokens.tolist() == [best[0], 3, best[2], -1, -1]
        assert positions.tolist() == [8, 9, 10, -1, -1]
        assert torch.equal(memory.logits[rank].cpu().nan_to_num(), logits.nan_to_num())


def test_rank_that_waits_in_vain_ends_the_team(place):
    memory = Memory(2, 8, 1, 16, place.device)
    team = teams(place.ops, memory, 2)[0]
    tokens, positions = torch.zeros(2, 4, dtype=torch.int32, device=place.device)[:, :1]
    place.ops.take_choice(team, 0, tokens, positions, place.stream)
    assert tokens.tolist() == [-2]
    assert positions.tolist() == [-1]  # so no rule draws from logits that are not whole
    assert memory.states[0][1] == 1


def test_first_rank_that_gives_up_tells_the_others(place):
    """They would wait for a day; what they wait for in the next steps does not come either."""
    memory = Memory(3, 12, 1, 16, place.device)
    first, *others = teams(place.ops, memory, 3)[:1] + teams(place.ops, memory, 3, 10**14)[1:]
    place.ops.end_exchanges(first, 1, place.stream)
    assert [state[1].item() for state in memory.states] == [0, 0, 0]
    for team in (first, *others):
        tokens, positions = torch.zeros(2, 4, dtype=torch.int32, device=place.device)[:, :1]
        place.ops.take_choice(team, 0, tokens, positions, place.stream)
        place.ops.end_exchanges(team, 1, place.stream)
        assert tokens.tolist() == [-2]
        assert [state[1].item() for state in memory.states] == [1, 1, 1]


def test_ended_exchanges_number_those_of_the_next_step(place):
    memory = Memory(1, 8, 1, 16, place.device)
    (team,) = teams(place.ops, memory, 1)
    place.ops.end_exchanges(team, 7, place.stream)
    place.ops.end_exchanges(team, 2, place.stream)
    assert memory.states[0].tolist() == [9, 0, 0, 0]


def test_more_words_than_the_inboxes_hold_are_refused(place):
    memory = Memory(2, 8, 1, 16, place.device)
    team = teams(place.ops, memory, 2)[0]
    tokens = torch.zeros(9, dtype=torch.int32, device=place.device)
    with pytest.raises(ValueError, match="36 words, the inboxes of the team have 8"):
        place.ops.take_choice(team, 0, tokens, tokens, place.stream)
