"""The command line against a real cluster: its main flows, and five planted faults for doctor."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest

from e2e.asks import Json
from e2e.cluster.kubectl import environment
from e2e.inference_service import MODEL, WEIGHTS, manifest
from e2e.install import SYSTEM_NAMESPACE
from e2e.kube import Kube

NAME = "demo"


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class CommandLine:
    """`openinference` in one namespace of the cluster."""

    namespace: str
    variables: dict[str, str] = field(default_factory=dict)

    async def run(self, *words: str, stdin: str = "") -> Done:
        place = ("--namespace", self.namespace) if words[0] != "config" else ()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openinferencev2", *words, *place),
            env=os.environ | environment() | {"COLUMNS": "200"} | self.variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def must(self, *words: str, stdin: str = "") -> str:
        done = await self.run(*words, stdin=stdin)
        assert done.code == 0, done.err
        return done.out

    @contextmanager
    def terminal(self, *words: str) -> Iterator[Any]:
        """The same in a terminal of its own, by pexpect."""
        child = pexpect.spawn(
            sys.executable,
            ["-m", "openinferencev2", *words, "--namespace", self.namespace],
            env=os.environ | environment() | {"TERM": "xterm"} | self.variables,
            encoding="utf-8",
            dimensions=(40, 200),
            timeout=120,
        )
        try:
            yield child
        finally:
            if child.isalive():
                child.kill(signal.SIGKILL)
                child.wait()  # `close` gives it a tenth of a second to die
            child.close()

    async def bad_findings(self) -> list[Json]:
        done = await self.run("doctor", "-o", "json")
        return [each for each in json.loads(done.out) if each["level"] == "bad"]


@pytest.fixture
def openinference(kube: Kube) -> CommandLine:
    return CommandLine(kube.namespace)


async def test_a_model_is_deployed_asked_scaled_and_rolled_back(
    openinference: CommandLine, kube: Kube, tmp_path: Path
) -> None:
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(manifest(NAME, {})))
    assert "Serving" in await openinference.must("deploy", "--file", str(file))
    assert NAME in await openinference.must("status")
    assert "Available" in await openinference.must("status", NAME)
    assert await openinference.bad_findings() == []
    asked = ("chat", NAME, "What is the capital of France, and what is it known for?")
    assert "Paris" in await openinference.must(*asked, "--temperature", "0", "--max-tokens", "12")
    assert "demo-" in await openinference.must("logs", NAME, "--tail", "5")

    await asyncio.to_thread(look_and_talk, openinference)

    await kube.patch(
        "infsvc", NAME, {"spec": {"podTemplate": {"env": [{"name": "A", "value": "1"}]}}}
    )
    await openinference.must("rollback", NAME)
    after = await kube.get("infsvc", NAME)
    assert "podTemplate" not in after["spec"]
    assert len(json.loads(await openinference.must("rollback", NAME, "--list", "-o", "json"))) >= 1

    done = await openinference.run("scale", NAME, "many")
    assert done.code == 2
    await openinference.must("scale", NAME, "0")
    assert (await kube.get("infsvc", NAME))["spec"]["replicas"] == 0


def look_and_talk(openinference: CommandLine) -> None:
    """What people do in a terminal, and how Ctrl-C and Ctrl-D end it."""
    with openinference.terminal("status", NAME, "--watch") as watching:
        for _ in range(2):  # it is drawn anew
            watching.expect("Available")
        watching.sendintr()
        assert _exit_code(watching) == 130
    with openinference.terminal("logs", NAME, "--follow", "--output", "json") as reading:
        reading.expect(r'"pod": "demo-[^}]*"event": "model loaded"')
        reading.sendintr()
        assert _exit_code(reading) == 130
    with openinference.terminal("dashboard", "--no-browser") as showing:
        showing.expect(r"(http://\S+/dashboard/)")
        with urllib.request.urlopen(showing.match[1], timeout=60) as page:  # noqa: S310  loopback
            assert "<title>" in page.read().decode()
        showing.sendintr()
        assert _exit_code(showing) == 0
    with openinference.terminal(
        "chat", NAME, "--temperature", "0", "--max-tokens", "12"
    ) as talking:
        talking.expect("> ")
        talking.sendline("What is the capital of France, and what is it known for?")
        talking.expect("Paris")
        talking.expect(r"first token after [\d.]+ s · answered by demo-")
        talking.expect("> ")  # Ctrl-D before the prompt is lost
        talking.sendeof()
        assert _exit_code(talking) == 0


def _exit_code(child: Any) -> int:
    child.expect(pexpect.EOF)
    child.wait()
    return int(child.exitstatus)


async def test_a_rollout_that_fails_ends_the_wait_with_the_reason(
    openinference: CommandLine,
) -> None:
    done = await openinference.run("deploy", "bad", "--model", "ftp://nowhere/model")
    assert done.code == 1
    assert "spec.model.uri" in done.err
    done = await openinference.run("status", "absent")
    assert done.code == 2
    assert "`openinference status` lists" in done.err


# Five planted faults.


async def test_doctor_finds_that_the_cluster_does_not_answer(kube: Kube, tmp_path: Path) -> None:
    dead = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(dead))
    variables = {"KUBECONFIG": str(tmp_path / "kubeconfig")}
    done = await CommandLine(kube.namespace, variables).run("doctor")
    assert done.code == 3
    assert "does not answer" in done.err


async def test_doctor_finds_that_one_may_not_do_a_thing(kube: Kube, tmp_path: Path) -> None:
    await kube.run("create", "serviceaccount", "guest")
    token = (await kube.run("create", "token", "guest")).strip()
    config = json.loads(await kube.run("config", "view", "--raw", "--output=json"))
    config["users"] = [{"name": "guest", "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = "guest"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    guest = CommandLine(kube.namespace, {"KUBECONFIG": str(tmp_path / "kubeconfig")})
    found = await guest.bad_findings()
    assert "Permissions" in {each["subject"] for each in found}


async def test_doctor_finds_an_engine_that_crashes_and_one_that_no_node_can_hold(
    openinference: CommandLine, kube: Kube
) -> None:
    await kube.apply(manifest("crashes", {"model": {"uri": WEIGHTS.replace("Q4_1", "absent")}}))
    greedy = manifest("greedy", {"model": {"uri": WEIGHTS, "name": f"{MODEL}-2"}})
    greedy["spec"]["resources"] = {"limits": {"nvidia.com/gpu": 8}}
    await kube.apply(greedy)
    reasons = {"crashes": "absent.gguf", "greedy": "nvidia.com/gpu"}
    async with asyncio.timeout(180):
        while True:
            found = {each["subject"]: each for each in await openinference.bad_findings()}
            if all(
                words in found.get(f"Service {name}", {}).get("message", "")
                for name, words in reasons.items()
            ):
                break
    assert all(found[f"Service {name}"]["remedy"] for name in reasons)
    await kube.run("delete", "infsvc", "crashes", "greedy", "--wait=false")


async def test_doctor_finds_that_the_operator_is_gone(openinference: CommandLine) -> None:
    async with _without_operator():
        found = {each["subject"]: each for each in await openinference.bad_findings()}
        assert "scaled to 0" in found["Operator"]["message"]
        assert "kubectl scale" in found["Operator"]["remedy"]


@asynccontextmanager
async def _without_operator() -> AsyncIterator[None]:
    system = Kube(SYSTEM_NAMESPACE)
    deployment = "deployment/openinference-operator"
    operator = "app.kubernetes.io/component=operator"
    await system.run("scale", deployment, "--replicas=0")
    try:
        await system.until("pods", lambda pods: not pods, timeout_seconds=120, selector=operator)
        yield
    finally:
        await system.run("scale", deployment, "--replicas=2")
        await system.run("rollout", "status", deployment, "--timeout=2m")
