"""The page of the campaign: made from the counts that tests leave, and from nothing else."""

import pytest

from e2e import reliability
from e2e.asks import SHORT_ASKS
from e2e.exchange import Transcript
from e2e.reliability import Counted, Row, Run, page, parse, sums, title, write_page
from e2e.report import Report, Result
from e2e.verdict import Outcome, Verdict

RUNS = [
    Run("a drain", 1, 40, 0, 0),
    Run("a kill", 5, 60, 1, 2, failed=True),
    Run("a drain", 1, 50, 0, 0),
    Run("a kill without resume", 1, 10, 0, 9, may_lose=True),
]


def report(*outcomes: Outcome) -> Report:
    return Report([Result(Transcript(SHORT_ASKS[0]), Verdict(each)) for each in outcomes])


def test_counts_are_summed_up_by_test():
    assert sums(RUNS)[:2] == [
        Row("a drain", 2, 0, 2, 90, 0, 0, may_lose=False),
        Row("a kill", 1, 1, 5, 60, 1, 2, may_lose=False),
    ]


def test_the_page_has_every_test_and_a_sum_without_the_controls():
    text = page(RUNS)
    assert "| a drain | 2 | 0 | 2 | 90 | 0 | 0 |" in text
    assert "| **all** | 3 | 1 | 7 | 150 | 1 | 2 |" in text
    assert (
        "| a kill without resume | 1 | 0 | 1 | 10 | 0 | 9 |"
        in text.partition("## Where losses are expected")[2]
    )


def test_the_page_tells_the_longest_time_until_a_group_was_unready_and_the_last():
    """Of the runs that came so far as to measure it."""
    times = (1.2, 3.44, 2.0, 0.0)
    runs = [Run("a rank dies", 1, 10, 0, 0, unready_seconds=each) for each in times]
    assert "unready" not in page(RUNS)
    assert "| a rank dies | 3.4 | 2.0 |" in page(RUNS + runs)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_a_drained_node_costs_nothing", "a drained node costs nothing"),
        ("test_a_bad_upgrade[a crash loop]", "a bad upgrade (a crash loop)"),
    ],
)
def test_names_of_tests_are_sentences(name, expected):
    assert title(name) == expected


def test_runs_add_up_in_the_file_that_the_page_is_written_from(monkeypatch, tmp_path):
    results = tmp_path / "reliability.jsonl"
    monkeypatch.setenv(reliability.RESULTS, str(results))
    whole = [report(Outcome.COMPLETE, Outcome.LOST), report(Outcome.COMPLETE)]
    Counted(whole, faults=3).note("a kill", failed=False)
    Counted().note("a drain", failed=True)
    Counted().note("no traffic", failed=False)
    runs = parse(results.read_text().splitlines())
    counts = [(each.test, each.faults, each.complete, each.lost, each.failed) for each in runs]
    assert counts == [("a kill", 3, 2, 1, False), ("a drain", 1, 0, 0, True)]
    write_page(results)
    assert "| a kill | 1 | 0 | 3 | 2 | 0 | 1 |" in results.with_suffix(".md").read_text()


def test_a_control_is_a_row_of_its_own_among_what_may_be_lost(monkeypatch, tmp_path):
    results = tmp_path / "reliability.jsonl"
    monkeypatch.setenv(reliability.RESULTS, str(results))
    control = report(Outcome.LOST, Outcome.COMPLETE)
    Counted([report(Outcome.COMPLETE)], control=control).note("a kill", failed=False)
    proof, other = parse(results.read_text().splitlines())
    assert (proof.test, proof.lost, proof.may_lose) == ("a kill", 0, False)
    assert (other.test, other.lost, other.may_lose) == ("a kill (control)", 1, True)


def test_nothing_is_left_where_no_campaign_runs(monkeypatch, tmp_path):
    monkeypatch.delenv(reliability.RESULTS, raising=False)
    monkeypatch.chdir(tmp_path)
    Counted([report(Outcome.COMPLETE)]).note("a drain", failed=False)
    assert not list(tmp_path.iterdir())
