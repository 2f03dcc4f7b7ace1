"""What `engine.activations` is refused for, in words that help."""

import pytest
from openinference_operator.activations import find_activations_misfit
from openinference_operator.layout import ONE_RANK, Layout

LLAMA_8B = {"parameters": 8_030_261_248, "weightBytes": 9_100_000_000, "storedAs": "F8_E4M3"}
WORDS = LLAMA_8B | {"storedAs": "I32"}
INT4 = WORDS | {"weightBytes": 5_700_000_000}


@pytest.mark.parametrize(
    ("activations", "summary", "words"),
    [
        ("fp8", LLAMA_8B, ""),
        ("fp8", LLAMA_8B | {"storedAs": "BF16"}, "stored as BF16, as bfloat16; leave it out"),
        ("fp8", LLAMA_8B | {"storedAs": "I8"}, "int4 or int4-zero, and it reads this model"),
        ("int8", LLAMA_8B, "`openinference quantize --weights int8`"),
        ("int8", WORDS, ""),
        ("fp8", WORDS, "stored as I32, as int8"),
        ("fp8", INT4, ""),
        ("int8", INT4, "as int4; leave it out"),
        ("fp8", INT4 | {"gpuFormat": "bfloat16"}, "stored as I32, as bfloat16; leave it out"),
        ("fp8", INT4 | {"gpuFormat": "int4-zero"}, ""),
        ("int8", WORDS | {"gpuFormat": "bfloat16"}, "stored as I32, as bfloat16"),
        ("fp8", {"parameters": 1, "weightBytes": 1}, ""),
        ("auto", LLAMA_8B | {"storedAs": "BF16"}, ""),
        (None, LLAMA_8B | {"storedAs": "BF16"}, ""),
    ],
)
def test_weights_of_another_type_are_told_with_what_to_do(activations, summary, words):
    misfit = find_activations_misfit(activations, ONE_RANK, summary)
    assert words in misfit
    assert bool(words) == bool(misfit)


@pytest.mark.parametrize(
    ("layout", "summary"), [(Layout(tensor=2), LLAMA_8B), (ONE_RANK, LLAMA_8B | {"numExperts": 8})]
)
def test_they_are_for_dense_models_on_one_gpu(layout, summary):
    assert "for dense models on one GPU" in find_activations_misfit("fp8", layout, summary)
    assert not find_activations_misfit("auto", layout, summary)
