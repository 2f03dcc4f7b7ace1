"""chat, run and bench, in front of a real engine, in a real terminal."""

import json
import math

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinferencev2.answers import Reply
from openinferencev2.batch import read_done, read_items
from openinferencev2.bench import Target, summarise
from openinferencev2.spread import histogram, spread

QUESTION = "What is the capital of France, and what is it known for?"


@pytest.fixture
def terminal(type_words, engine_url):
    """`openinference chat` in a terminal of its own."""
    words = ("--url", engine_url, "--temperature", 0, "--max-tokens", 900)
    child = type_words("openinference", "chat", *words)
    child.expect("smollm2.*\n.*> ")
    return child


def test_a_conversation_streams_remembers_and_ends(terminal, home):
    terminal.sendline(QUESTION)
    terminal.expect(r"Paris")
    terminal.expect(r"[\d.]+ tok/s · first token after [\d.]+ s")
    terminal.expect("> ")
    terminal.sendline("/quit")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    history = home / "state/openinference/chat_history"
    assert QUESTION in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_answer_and_not_the_conversation(terminal):
    terminal.sendline("Write a long story about a river.")
    terminal.expect("story about a river.*\n.*(river|story|once)")
    terminal.sendintr()
    terminal.expect(r"\(stopped\)")
    terminal.expect("> ")
    terminal.sendline("/reset")
    terminal.expect("> ")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)


def test_one_answer_as_json_says_how_fast_it_came(openinference, engine_url):
    words = ("chat", "--url", engine_url, "--temperature", "0", "--max-tokens", "12", "-o", "json")
    found = json.loads(openinference(*words, stdin=QUESTION).stdout)
    assert (found["model"], found["finish_reason"]) == ("smollm2", "length")
    assert "Paris" in found["text"]
    assert found["usage"]["completion_tokens"] == 12
    assert found["first_token_seconds"] > 0
    assert found["answered_by"] is None, "there is no router"


def test_a_question_on_standard_input_is_answered_once(openinference, engine_url):
    words = ("chat", "--url", engine_url, "--temperature", "0", "--max-tokens", "12")
    done = openinference(*words, stdin=QUESTION)
    assert done.returncode == 0
    assert "Paris" in done.stdout


def batch(path, num_requests=6):
    lines = [
        {"custom_id": f"q{n}", "body": {"prompt": f"{n} and", "max_tokens": 3}}
        for n in range(num_requests)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answered(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_that_was_cut_goes_on_where_it_stopped(openinference, engine_url, tmp_path):
    source, target = batch(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    words = ("run", "--url", engine_url, source, target, "-o", "json")
    assert json.loads(openinference(*words).stdout) == {"requests": 6, "answered": 6, "failed": 0}
    first = answered(target)
    kept = [json.dumps(line) + "\n" for line in first[:4]]
    target.write_text("".join(kept) + '{"custom_id": "q9", "resp')

    openinference(*words)

    assert answered(target)[:4] == first[:4]
    assert {line["custom_id"] for line in answered(target)} == {f"q{n}" for n in range(6)}
    assert all(line["response"]["body"]["choices"] for line in answered(target))


def test_what_is_refused_is_recorded_and_the_rest_is_answered(openinference, engine_url, tmp_path):
    source, target = batch(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    with source.open("a") as file:
        file.write('{"prompt": "x", "temperature": -1}\n')
    done = openinference("run", "--url", engine_url, source, target)
    assert done.returncode == 1
    assert "2 of 3 answered" in done.stdout
    again = openinference("run", "--url", engine_url, source, target)
    assert again.returncode == 1
    assert len(answered(target)) == 3, "what failed again is recorded once"
    (refused,) = [line for line in answered(target) if line["error"]]
    assert (refused["custom_id"], refused["error"]["code"]) == ("3", 400)
    assert "temperature" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "line 1"),
        ('{"text": "x"}', "neither messages nor prompt"),
        ("[1]", "line 1"),
        ('{"url": ".evil.example/x", "body": {"prompt": "x"}}', "'.evil.example/x' is neither"),
    ],
)
def test_an_input_that_is_no_request_is_named_by_its_line(openinference, tmp_path, line, complaint):
    (tmp_path / "in.jsonl").write_text(line + "\n")
    done = openinference("run", "--url", "http://127.0.0.1:9", tmp_path / "in.jsonl", "out")
    assert done.returncode == 2
    assert complaint in done.stderr


def test_an_input_that_is_not_utf_8_is_an_error(openinference, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    done = openinference("run", "--url", "http://127.0.0.1:9", tmp_path / "in.jsonl", "out")
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr


def test_only_a_newline_ends_a_request(tmp_path):
    prompts = ["one\u2028two\u2029three\x85four", "five"]
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts]
    (tmp_path / "in.jsonl").write_text("".join(lines), encoding="utf-8")
    items = read_items(tmp_path / "in.jsonl")
    assert [(item.id, item.body["prompt"]) for item in items] == [*zip("12", prompts, strict=True)]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1)


@given(st.lists(NAMES, max_size=5), st.data())
def test_of_a_cut_record_every_whole_line_counts(tmp_path_factory, names, data):
    path = tmp_path_factory.mktemp("batch") / "out.jsonl"
    records = [{"custom_id": name, "error": None} for name in names]
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    whole = "".join(lines).encode()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    num_whole = whole[:cut].count(b"\n")
    assert read_done(path) == set(names[:num_whole])
    assert path.read_bytes() == "".join(lines[:num_whole]).encode()
    assert list(path.parent.iterdir()) == [path]


def test_bench_tells_its_figures_as_json(openinference, engine_url):
    words = ("bench", "--url", engine_url, "--requests", "4", "--concurrency", "2")
    done = openinference(*words, "--prompt-tokens", "16", "--output-tokens", "4", "-o", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert (report["requests"], report["failed"]) == (4, 0)
    assert report["output_tokens_per_second"] * report["seconds"] == pytest.approx(16)
    assert 0 < report["per_token"]["p50"] <= report["per_token"]["p99"]


def test_bench_draws_the_spread_and_arrives_at_a_rate(openinference, engine_url):
    words = ("bench", "--url", engine_url, "--requests", "3", "--rate", "20")
    done = openinference(*words, "--prompt-tokens", "8", "--output-tokens", "3")
    assert done.returncode == 0, done.stderr
    assert "█" in done.stdout
    assert "goodput" in done.stdout


def make_answer(first_seconds, per_token_seconds, num_tokens=3):
    last = first_seconds + per_token_seconds * (num_tokens - 1)
    usage = {"completion_tokens": num_tokens}
    return Reply(0.0, "x", usage=usage, first_at=first_seconds, last_at=last)


def test_goodput_counts_only_answers_within_both_targets():
    answers = [make_answer(0.5, 0.05), make_answer(2.0, 0.05), make_answer(0.5, 0.5)]
    report = summarise(answers, ["refused"], seconds=10, target=Target(1.0, 0.1))
    assert report.goodput_per_second == pytest.approx(0.1)
    assert (report.requests, report.failed) == (4, 1)
    assert report.failures == {"refused": 1}


@given(st.lists(st.floats(0.001, 100), min_size=1))
def test_percentiles_are_durations_that_were_seen(durations):
    found = spread(durations)
    assert {found.p50, found.p95, found.p99} <= set(durations)
    assert sum(each <= found.p50 for each in durations) >= math.ceil(len(durations) / 2)


@given(st.lists(st.floats(0.001, 100), min_size=1))
def test_a_histogram_is_a_line_with_a_highest_bar(durations):
    bars = histogram(durations)
    assert len(bars) == 40
    assert "█" in bars
