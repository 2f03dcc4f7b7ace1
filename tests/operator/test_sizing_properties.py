"""How memory is divided: properties that hold for every model."""

from hypothesis import assume, given
from hypothesis import strategies as st
from openinference_operator.auto_layout import choose
from openinference_operator.demand import Demand, measure
from openinference_operator.layout import Layout, find_misfit, tensor_sizes, with_more_stages
from openinference_operator.sizing import (
    USABLE_PERCENT,
    needed_bytes,
    workspace_bytes,
)
from openinference_operator.sizing import (
    size as size_layout,
)

from tests.operator.test_sizing import service_with


@st.composite
def models(draw):
    """Summaries whose parts are a whole, of dense models and of experts."""
    heads, head_dim = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([64, 128]))
    num_heads = heads * draw(st.sampled_from([1, 2, 4, 8]))
    layers, hidden = draw(st.integers(1, 100)), draw(st.integers(1, 64)) * 128
    vocabulary, experts = draw(st.integers(256, 200_000)), draw(st.sampled_from([0, 6, 8, 128]))
    inner, per_token = hidden * draw(st.integers(1, 4)), min(experts, 4)
    attention = 2 * hidden * head_dim * (num_heads + heads)
    expert_parameters = 3 * hidden * inner * experts * layers
    is_tied = draw(st.booleans())
    tables = vocabulary * hidden * (1 if is_tied else 2)
    dense = 0 if experts else 3 * hidden * inner
    parameters = layers * (attention + dense) + expert_parameters + tables
    return {
        "parameters": parameters,
        "weightBytes": 2 * parameters,
        "numLayers": layers,
        "numHeads": num_heads,
        "numKvHeads": heads,
        "headDim": head_dim,
        "hiddenSize": hidden,
        "vocabSize": vocabulary,
        "maxPositions": draw(st.integers(16, 131_072)),
        "numExperts": experts,
        "expertParameters": expert_parameters,
        "embeddingBytes": 2 * vocabulary * hidden,
        "headBytes": 0 if is_tied else 2 * vocabulary * hidden,
        "layerWeightsPerToken": attention + (3 * hidden * inner * per_token if experts else dense),
    }


@st.composite
def layouts(draw, model):
    """One that divides a model, on GPUs."""
    tensor = draw(st.sampled_from(tensor_sizes(model["numHeads"], model["numKvHeads"])))
    pipeline = draw(st.integers(1, min(model["numLayers"], 16)))
    experts = [size for size in (1, 2, 3, 4, 8) if max(1, model["numExperts"]) % size == 0]
    return Layout(pipeline, tensor, draw(st.sampled_from(experts)))


def demand_of(model, gpus=0) -> Demand:
    return measure(service_with(gpus=gpus), model)


@given(st.data(), models())
def test_what_ranks_hold_adds_up_to_the_model(data, model):
    """Once each, but for what a layout repeats: in every expert rank all that is not of experts, a
    head of keys where there are more ranks than heads, and an embedding that is the head, too."""
    layout, demand = data.draw(layouts(model)), demand_of(model)
    of_stage, heads = layout.tensor * layout.expert, min(layout.tensor, demand.num_kv_heads)
    own_experts = -(-demand.num_experts // of_stage)
    held = sum(load.weights for load in demand.loads(layout)) * of_stage
    is_twice = not demand.head and layout.pipeline > 1
    expected = layout.expert * (
        demand.matrices
        + demand.keys_and_values * layout.tensor / heads
        + demand.embedding * (2 if is_twice else 1)
        + demand.head
    ) + demand.experts * of_stage * own_experts / (demand.num_experts or 1)
    rounding = 5 * layout.num_ranks + expected / 2**50  # floats
    assert expected - rounding <= held <= expected + rounding
    sequences = sum(load.sequence for load in demand.loads(layout)) * heads
    assert demand.sequence <= sequences < demand.sequence + layout.num_ranks


@given(st.data(), models(), st.integers(1, 64))
def test_summaries_that_count_words_of_codes_make_no_rank_hold_less_than_nothing(
    data, model, values_of_a_word
):
    model |= {"parameters": max(1, model["parameters"] // values_of_a_word)}
    demand = demand_of(model)
    assert min(demand.matrices, demand.keys_and_values, demand.experts) >= 0
    loads = demand.loads(data.draw(layouts(model)))
    assert all(0 <= load.weights <= demand.weights + demand.embedding for load in loads)


@given(st.data(), models(), st.sampled_from([0, 1]))
def test_more_ranks_never_hold_more_each(data, model, gpus):
    layout, demand = data.draw(layouts(model)), demand_of(model, gpus)
    wider = [
        Layout(layout.pipeline, layout.tensor * 2, layout.expert),
        Layout(layout.pipeline, layout.tensor, layout.expert * 2),
    ]
    for each in wider:
        if not find_misfit(each, model):
            for load, before in zip(demand.loads(each), demand.loads(layout), strict=True):
                assert load.weights <= before.weights
                assert load.sequence <= before.sequence


@given(st.data(), models())
def test_without_gpus_a_stage_for_every_layer_needs_least(data, model):
    layout, demand = data.draw(layouts(model)), demand_of(model)
    *_, most = with_more_stages(layout, demand.num_layers)
    assert needed_bytes(demand, most) <= needed_bytes(demand, layout)


@given(
    st.data(),
    models(),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.integers(4 << 30, 200 << 30),
    st.booleans(),
)
def test_what_is_planned_fits_and_only_what_fits_is_planned(
    data, model, gpus, memory, is_automatic
):
    service, demand = service_with(gpus=gpus), demand_of(model, gpus)
    chosen = choose(service, model)
    layout = chosen.layout if is_automatic else data.draw(layouts(model))
    sizing = size_layout(service, layout, model, [memory])
    assume(not sizing.is_misfit)

    def used(sequences):
        return max(load.weights + sequences * load.sequence for load in demand.loads(layout))

    room = memory * USABLE_PERCENT // 100 - workspace_bytes(demand, layout)
    assert (sizing.max_concurrency >= 1) == (sizing.problem == "")
    assert sizing.problem or used(sizing.max_concurrency) <= room
    assert used(sizing.max_concurrency + 1) > room
