"""The page of the campaign: made from the counts that tests leave, and from nothing else."""

import pytest

from e2e import campaign
from e2e.campaign import Row, page, sums, title
from e2e.report import Report

LINES = ['["a drain", 40, 0, 0]', '["a kill", 60, 1, 2]', '["a drain", 50, 0, 0]']


def test_counts_are_summed_up_by_test():
    assert sums(LINES) == [Row("a drain", 2, 90, 0, 0), Row("a kill", 1, 60, 1, 2)]


def test_the_page_has_every_test_and_the_sum():
    text = page(sums(LINES), "python -m e2e.campaign", ["3"])
    assert "| a drain | 2 | 90 | 0 | 0 |" in text
    assert "| **all** | | 150 | 1 | 2 |" in text
    assert "rounds that failed: 3" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_a_drained_node_costs_nothing", "a drained node costs nothing"),
        ("test_a_bad_upgrade[a crash loop]", "a bad upgrade (a crash loop)"),
    ],
)
def test_names_of_tests_are_sentences(name, expected):
    assert title(name) == expected


def test_nothing_is_left_where_no_campaign_runs(monkeypatch, tmp_path):
    monkeypatch.delenv(campaign.RESULTS, raising=False)
    monkeypatch.chdir(tmp_path)
    campaign.note("a drain", Report(()))
    assert not list(tmp_path.iterdir())
