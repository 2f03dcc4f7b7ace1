"""What fetches a model, what mounts it, and where pods go."""

import pytest
from openinference_operator.errors import SpecError
from openinference_operator.manifests import engine, model
from openinference_operator.spec import parse

CACHED = {
    "uri": "s3://models/tiny/tiny.gguf",
    "sha256": "0" * 64,
    "secretRef": {"name": "s3"},
    "cache": {"pvc": "models"},
}
PLACE = {
    "nodeSelector": {"gpu": "h100"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "high",
    "schedulerName": "volcano",
    "runtimeClassName": "nvidia",
    "serviceAccountName": "reader",
    "imagePullSecrets": [{"name": "registry"}],
    "labels": {"team": "a"},
    "annotations": {"note": "b"},
}


def rendered(raw_service, **spec):
    return engine.build_pod_template(parse(raw_service(**spec)), "engine:1")["spec"]


def mounts(container):
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


@pytest.fixture
def job(raw_service):
    return model.build_job(parse(raw_service(model=CACHED, podTemplate=PLACE)), "engine:1")


def test_the_job_fetches_into_the_claim_and_the_engine_opens_it_there(raw_service, job):
    service = parse(raw_service(model=CACHED))
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1] == CACHED["uri"]
    assert container["args"] == [
        f"--directory=/models/{service.model.folder}",
        "--result-file=/dev/termination-log",
        f"--sha256={'0' * 64}",
    ]
    assert "readOnly" not in mounts(container)["/models"]
    spec = rendered(raw_service, model=CACHED)
    [serving] = spec["containers"]
    assert serving["command"][-1] == f"file:///models/{service.model.folder}/tiny.gguf"
    assert mounts(serving)["/models"]["readOnly"] is True
    assert spec["initContainers"] == []


def test_what_a_user_has_put_into_a_claim_is_looked_at_and_not_written(raw_service):
    service = parse(raw_service(model={"uri": "pvc://weights/llama/model.gguf"}))
    pod = model.build_job(service, "engine:1")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"][-1] == "file:///models/llama/model.gguf"
    claim = {"claimName": "weights", "readOnly": True}
    assert {"name": "model", "persistentVolumeClaim": claim} in pod["volumes"]


def test_credentials_reach_what_fetches_and_nothing_else(raw_service, job):
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert "s3" not in str(rendered(raw_service, model=CACHED)).replace("s3://", "")


def test_the_job_never_gives_up(job):
    assert job["spec"]["backoffLimit"] >= 1_000_000
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_without_a_claim_an_init_container_fetches_into_the_pod(raw_service):
    spec = rendered(raw_service, model={"uri": "hf://team/tiny", "revision": "v1"})
    [fetching], [serving] = spec["initContainers"], spec["containers"]
    assert "--revision=v1" in fetching["args"]
    assert serving["command"][-1].startswith("file:///models/")
    assert {"name": "model", "emptyDir": {}} in spec["volumes"]


def test_a_folder_is_named_as_one_and_a_file_as_one(raw_service):
    folder = parse(raw_service(model={"uri": "hf://team/tiny"}))
    file = parse(raw_service(model={"uri": "hf://team/tiny/q4.gguf"}))
    assert model.engine_uri(folder) == f"file:///models/{folder.model.folder}"
    assert model.engine_uri(file) == f"file:///models/{file.model.folder}/q4.gguf"


def test_what_fetches_satisfies_the_restricted_pod_security_standard(raw_service, job):
    pod = job["spec"]["template"]["spec"]
    [init] = rendered(raw_service, model={"uri": "hf://team/tiny"})["initContainers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in (pod["containers"][0], init):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_engines_and_the_job_go_where_the_template_says(raw_service, job):
    serving = engine.build_pod_template(parse(raw_service(podTemplate=PLACE)), "engine:1")
    for pod in (serving, job["spec"]["template"]):
        spec = pod["spec"]
        assert spec["nodeSelector"] == PLACE["nodeSelector"]
        assert spec["affinity"] == PLACE["affinity"]
        assert PLACE["tolerations"][0] in spec["tolerations"]
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        names = ("priorityClassName", "schedulerName", "runtimeClassName", "serviceAccountName")
        assert {name: spec[name] for name in names} == {name: PLACE[name] for name in names}
        assert pod["metadata"]["labels"]["team"] == "a"
        assert pod["metadata"]["annotations"]["note"] == "b"


def test_labels_of_the_operator_win(raw_service):
    theirs = {"labels": {"openinference.dev/service": "other"}}
    pod = engine.build_pod_template(parse(raw_service(podTemplate=theirs)), "engine:1")
    assert pod["metadata"]["labels"]["openinference.dev/service"] == "demo"


def test_replicas_of_a_revision_spread_over_nodes_unless_told_otherwise(raw_service):
    [default] = rendered(raw_service)["topologySpreadConstraints"]
    [given] = rendered(raw_service, podTemplate=PLACE)["topologySpreadConstraints"]
    assert (default["topologyKey"], default["whenUnsatisfiable"]) == (
        "kubernetes.io/hostname",
        "ScheduleAnyway",
    )
    assert (given["topologyKey"], given["maxSkew"]) == ("topology.kubernetes.io/zone", 1)
    for constraint in (default, given):
        assert constraint["matchLabelKeys"] == ["openinference.dev/revision"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"uri": "ftp://host/x.gguf"}, "use one of the schemes"),
        ({"uri": "https://host/folder"}, "over HTTP name one .gguf file"),
        ({"uri": "s3://m/x.gguf", "revision": "v1"}, "spec.model.revision.* is for hf:// only"),
        ({"uri": "hf://team/tiny", "sha256": "0" * 64}, "spec.model.sha256.*one .gguf file"),
        ({"uri": "file:///x.gguf", "cache": {"pvc": "m"}}, "spec.model.cache.* are fetched"),
        ({"uri": "file:///x.gguf", "secretRef": {"name": "m"}}, "spec.model.secretRef"),
    ],
)
def test_an_impossible_model_is_refused_with_the_remedy(raw_service, fields, message):
    with pytest.raises(SpecError, match=message):
        parse(raw_service(model=fields))
