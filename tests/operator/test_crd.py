"""The CRD: conventions that hold for every field, and agreement with what the operator reads."""

import re
from pathlib import Path

import pytest
import yaml
from openinference_operator import names
from openinference_operator.manifests import engine
from openinference_operator.model_spec import URI_SCHEMES
from openinference_operator.spec import (
    ACTIVATIONS,
    ALGORITHMS,
    DTYPES,
    KV_CACHE_DTYPES,
    REVISED_FIELDS,
    parse,
)

PATH = Path(__file__).parents[2] / "crds" / "openinference.dev_inferenceservices.yaml"
CRD = yaml.safe_load(PATH.read_text())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def fields_below(schema, path):
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from fields_below(member, f"{path}.{name}")
    if "items" in schema:
        yield from fields_below(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields_below(schema["additionalProperties"], f"{path}{{}}")


SPEC = dict(fields_below(SCHEMA["properties"]["spec"], "spec"))
STATUS = dict(fields_below(SCHEMA["properties"]["status"], "status"))
REVISED = {
    path: field
    for path, field in SPEC.items()
    if path.removeprefix("spec.").split(".")[0] in REVISED_FIELDS
}
LISTS = [path for path, field in SPEC.items() if field.get("type") == "array"]
MAPS = [path for path, field in SPEC.items() if "additionalProperties" in field]
RULES = {
    f"{path} {rule['rule']}": rule["message"]
    for path, field in (SPEC | {"": SCHEMA}).items()
    for rule in field.get("x-kubernetes-validations", [])
}


def test_it_fits_into_an_annotation():
    assert PATH.stat().st_size < 200 * 1024


@pytest.mark.parametrize("path", [*SPEC, *STATUS])
def test_every_field_is_described(path):
    description = (SPEC | STATUS)[path].get("description", "")
    assert len(description.split()) >= 3
    assert description.endswith((".", '"'))


@pytest.mark.parametrize("path", REVISED)
def test_fields_inside_the_revision_have_no_default(path):
    assert "default" not in REVISED[path]


@pytest.mark.parametrize(
    "path", [path for path in REVISED if not path.endswith(("]", "}")) and "[]" not in path]
)
def test_fields_inside_the_revision_say_that_they_make_one(path):
    assert "makes a new revision" in " ".join(REVISED[path]["description"].split())


@pytest.mark.parametrize("path", LISTS)
def test_lists_are_bounded_and_say_how_they_merge(path):
    assert SPEC[path]["maxItems"] <= 64
    assert "x-kubernetes-list-type" in SPEC[path]


@pytest.mark.parametrize("path", MAPS)
def test_maps_are_bounded(path):
    assert SPEC[path]["maxProperties"] <= 32


@pytest.mark.parametrize("message", RULES.values(), ids=[rule[:60] for rule in RULES])
def test_every_rule_says_the_remedy(message):
    assert re.search(r"; |must be|must not exceed", message)
    assert re.search(r"use |choose |set |such as|change |lower |raise ", message)


def test_enumerations_are_those_the_operator_knows():
    assert SPEC["spec.engine.dtype"]["enum"] == list(DTYPES)
    assert SPEC["spec.engine.kvCacheDtype"]["enum"] == list(KV_CACHE_DTYPES)
    assert SPEC["spec.engine.activations"]["enum"] == list(ACTIVATIONS)
    assert SPEC["spec.router.algorithm"]["enum"] == list(ALGORITHMS)
    rule = SPEC["spec.model.uri"]["x-kubernetes-validations"][0]["rule"]
    assert set(re.findall(r"(\w+)://", rule)) == set(URI_SCHEMES)


DESCRIBED_DEFAULTS = {
    "spec.engine.maxSequences": engine.DEFAULT_MAX_SEQUENCES,
    "spec.engine.maxWaiting": engine.DEFAULT_MAX_WAITING,
    "spec.engine.dtype": engine.DEFAULT_DTYPE,
}


@pytest.mark.parametrize(("path", "default"), DESCRIBED_DEFAULTS.items())
def test_described_defaults_are_those_rendered(path, default):
    assert f"Default {default}" in " ".join(SPEC[path]["description"].split())


def test_names_and_paths_of_the_operator_are_those_that_users_may_not_take(raw_service):
    """Also where a model is fetched, and so mounted."""
    template = engine.build_pod_template(
        parse(raw_service(model={"uri": "https://host/m.gguf", "cache": {"pvc": "models"}})), "e:1"
    )
    [taken] = [rule for rule in RULES if "volumes[] !(self.name" in rule]
    assert all(f"'{volume['name']}'" in taken for volume in template["spec"]["volumes"])
    [paths_rule] = [rule for rule in RULES if "volumeMounts[] self.mountPath" in rule]
    paths = re.findall(r"'(/[\w/]+)'", paths_rule)
    for mount in template["spec"]["containers"][0]["volumeMounts"]:
        assert any(mount["mountPath"].startswith(path) for path in paths)


def persisted(properties):
    """What the API server fills in for an object with these properties and nothing set."""
    return {
        name: schema["default"] | persisted(schema["properties"])
        if isinstance(schema["default"], dict)
        else schema["default"]
        for name, schema in properties.items()
        if "default" in schema
    }


def test_persisted_defaults_are_those_the_operator_assumes(raw_service):
    """`plan -f` sees no API server: it must assume what one would have filled in."""
    defaults = persisted(SCHEMA["properties"]["spec"]["properties"])
    assert parse(raw_service(**defaults)) == parse(raw_service())


def test_persisted_defaults_of_autoscaling_are_those_the_operator_assumes(raw_service):
    given = {
        "maxReplicas": 3,
        "metrics": [{"type": "Queue", "target": {"averageValue": 1}}],
    }
    filled = persisted(SPEC["spec.autoscaling"]["properties"]) | given
    assert parse(raw_service(autoscaling=filled)) == parse(raw_service(autoscaling=given))


def test_names_are_those_of_the_wire():
    assert CRD["spec"]["group"] == names.API_GROUP
    assert VERSION["name"] == names.API_VERSION
    assert CRD["spec"]["names"]["kind"] == names.KIND
    assert CRD["spec"]["names"]["plural"] == names.PLURAL
    assert CRD["spec"]["names"]["shortNames"] == ["infsvc"]
    assert CRD["spec"]["names"]["categories"] == ["ai"]


def test_scale_subresource():
    assert VERSION["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
