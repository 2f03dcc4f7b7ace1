"""The samples of the documentation: each is a plan that comes to rest, and says what it shows."""

from pathlib import Path

import pytest
import yaml
from openinference_operator.preview import foresee
from openinference_operator.settings import Settings
from openinference_operator.spec import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.yaml"))


def services(path):
    documents = yaml.safe_load_all(path.read_text())
    return [each for each in documents if each["kind"] == "InferenceService"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_sample_is_planned(path):
    [raw] = services(path)
    found = foresee(parse(raw), Settings())
    assert found.fits
    assert "StatefulSet" in [each["kind"] for each in found.objects]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_claim_and_secret_of_a_sample_is_in_it(path):
    [raw] = services(path)
    model = raw["spec"]["model"]
    wanted = {model.get("cache", {}).get("pvc"), model.get("secretRef", {}).get("name")} - {None}
    named = {each["metadata"]["name"] for each in yaml.safe_load_all(path.read_text())}
    assert wanted <= named
