"""The Python SDK on a real cluster: the example of its docstring, and the same for asyncio."""

import asyncio
import doctest

import openinferencev2
import pytest
from openinferencev2 import AsyncClient, CommandError, client

from e2e.cluster.kubectl import environment
from e2e.inference_service import WEIGHTS
from e2e.kube import Kube


@pytest.fixture
def settings(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster and the namespace, as a user's environment names them."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENINFERENCE_NAMESPACE", kube.namespace)


async def test_the_example_of_the_client_runs(settings: None) -> None:
    [test] = [
        each
        for each in doctest.DocTestFinder(recurse=True).find(client.Client, "Client")
        if each.name == "Client"
    ]
    test.globs = {name: getattr(openinferencev2, name) for name in openinferencev2.__all__}
    said: list[str] = []
    await asyncio.to_thread(doctest.DocTestRunner().run, test, out=said.append)
    assert not said, "".join(said)


async def test_a_service_is_found_among_several_and_a_bad_one_is_refused(
    settings: None, kube: Kube
) -> None:
    async with AsyncClient() as there:
        one, two = [
            await there.deploy(name, WEIGHTS, spec={"engine": {"maxModelLen": 512}, **extra})
            for name, extra in (("one", {}), ("two", {"model": {"uri": WEIGHTS, "name": "other"}}))
        ]
        await asyncio.gather(one.wait(), two.wait())
        replies = [await each.generate("One, two,", max_tokens=4) for each in (one, two)]
        assert [reply.group.rsplit("-", 2)[0] for reply in replies] == ["one", "two"]
        await (await one.scale(0)).wait()
        with pytest.raises(CommandError, match=r"spec\.model\.uri"):
            await there.deploy("bad", "ftp://nowhere/model")
        for each in (one, two):
            await each.delete()
