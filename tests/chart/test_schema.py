"""A wrong value is refused at install, by name; nothing is silently ignored."""

import pytest


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        pytest.param({"opertor": {}}, "opertor", id="misspelt at the top"),
        pytest.param({"operator": {"replica": 1}}, "replica", id="misspelt below"),
        pytest.param({"operator": {"replicas": 0}}, "/operator/replicas", id="no operator"),
        pytest.param({"operator": {"replicas": "2"}}, "/operator/replicas", id="text for number"),
        pytest.param({"router": {"replicas": 0}}, "/router/replicas", id="no router"),
        pytest.param({"prometheus": None}, "prometheus", id="a section taken away"),
        pytest.param({"router": {"replicas": None}}, "replicas", id="a number taken away"),
        pytest.param({"networkPolicy": {"enabled": None}}, "enabled", id="a switch taken away"),
        pytest.param({"crd": {"install": "yes"}}, "/crd/install", id="text for boolean"),
        pytest.param({"watchNamespace": "Team_A"}, "/watchNamespace", id="not a namespace"),
        pytest.param({"watchNamespace": "a,b"}, "/watchNamespace", id="two namespaces"),
        pytest.param({"prometheus": {"url": "prometheus:9090"}}, "/prometheus/url", id="no scheme"),
        pytest.param({"tracing": {"endpoint": "collector:4318"}}, "/tracing/endpoint", id="no URL"),
        pytest.param({"monitoring": {"alert": {}}}, "alert", id="misspelt alerts"),
        pytest.param(
            {"monitoring": {"alerts": {"runbookUrl": "docs"}}},
            "/monitoring/alerts/runbookUrl",
            id="no address",
        ),
        pytest.param({"image": {"tag": "a b"}}, "/image/tag", id="tag with a space"),
        pytest.param(
            {"image": {"registry": "https://mirror.example"}}, "/image/registry", id="a URL"
        ),
        pytest.param(
            {"engine": {"image": {"digest": "sha256:12"}}}, "/engine/image/digest", id="cut digest"
        ),
        pytest.param(
            {"engine": {"image": {"repository": ""}}}, "/engine/image/repository", id="no image"
        ),
        pytest.param(
            {"operator": {"image": {"pullPolicy": "Sometimes"}}},
            "/operator/image/pullPolicy",
            id="unknown pull policy",
        ),
        pytest.param(
            {"router": {"resources": {"limits": {"memory": "1 GB"}}}},
            "/router/resources/limits/memory",
            id="not a quantity",
        ),
        pytest.param(
            {"operator": {"affinity": {"nodeafinity": {}}}}, "nodeafinity", id="misspelt affinity"
        ),
        pytest.param(
            {"operator": {"tolerations": [{"key": "gpu", "operator": "In"}]}},
            "/operator/tolerations/0/operator",
            id="unknown toleration",
        ),
    ],
)
def test_wrong_value_is_refused_by_name(helm, chart, values, complaint):
    result = helm("template", "openinference", chart, values=values)

    assert result.returncode != 0
    assert "values don't meet the specifications of the schema" in result.stderr
    assert complaint in result.stderr
