"""Reading InferenceServices: everything that may be set, and errors that name field and remedy."""

from decimal import Decimal

import pytest
from openinference_operator.errors import SpecError
from openinference_operator.fields import Share, parse_quantity
from openinference_operator.rollout_spec import Canary, CanaryStep, GoldenPrompt, Limit, Rollout
from openinference_operator.scaling_spec import Average, Latency, Policy, Value
from openinference_operator.spec import Queue, RestartBudget, parse

FULL = {
    "suspend": True,
    "model": {"uri": "pvc://weights/llama/model.gguf", "name": "llama"},
    "engine": {
        "image": "engine:7",
        "maxModelLen": 4096,
        "maxSequences": 16,
        "maxWaiting": 5,
        "dtype": "bfloat16",
        "kvCacheDtype": "int8",
        "activations": "fp8",
    },
    "resources": {"requests": {"cpu": 1, "memory": "2Gi"}, "limits": {"cpu": "2"}},
    "replicas": 3,
    "autoscaling": {
        "minReplicas": 2,
        "maxReplicas": 6,
        "interval": "1m30s",
        "scaleToZero": {"idleAfter": "5m"},
        "metrics": [{"type": "Queue", "target": {"averageValue": "2500m"}}],
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 30, "selectPolicy": "Min"},
            "scaleDown": {
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                "tolerance": "0.2",
            },
        },
    },
    "rollout": {
        "maxSurge": "25%",
        "maxUnavailable": 1,
        "drainTimeout": "1h",
        "progressDeadline": "20m",
    },
    "failurePolicy": {"restartBudget": {"count": 2, "window": "10m"}},
    "router": {
        "queue": {"maxRequests": 9, "contendedTimeout": "0s", "coldStartTimeout": "2m"},
    },
    "podTemplate": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "env": [{"name": "LOG", "value": "debug"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    },
}


def test_every_field_is_read(raw_service):
    service = parse(raw_service(annotations={"openinference.dev/restartedAt": "today"}, **FULL))
    assert service.suspend
    assert (service.model.uri, service.model.name) == ("pvc://weights/llama/model.gguf", "llama")
    assert (service.engine.image, service.engine.dtype) == ("engine:7", "bfloat16")
    assert (service.engine.max_model_len, service.engine.max_sequences) == (4096, 16)
    assert (service.engine.max_waiting, service.engine.kv_cache_dtype) == (5, "int8")
    assert service.engine.activations == "fp8"
    assert (service.requests, service.limits) == ({"cpu": "1", "memory": "2Gi"}, {"cpu": "2"})
    assert service.replicas == 3
    assert service.rollout == Rollout(Share(25, True), Share(1, False), 3600, 1200)
    assert service.restart_budget == RestartBudget(2, 600)
    assert service.queue == Queue(9, 0, 120)
    assert service.pod_template.node_selector == {"gpu": "h100"}
    assert service.pod_template.tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert service.pod_template.env == (("LOG", "debug"),)
    assert service.pod_template.volumes == ({"name": "data", "emptyDir": {}},)
    assert service.pod_template.volume_mounts == ({"name": "data", "mountPath": "/data"},)
    assert service.restarted_at == "today"


def test_autoscaling_is_read(raw_service):
    autoscaling = parse(raw_service(**FULL)).autoscaling
    assert (autoscaling.min_replicas, autoscaling.max_replicas) == (2, 6)
    assert autoscaling.interval_seconds == 90
    assert autoscaling.idle_after_seconds == 300
    assert autoscaling.metrics == (Average("Queue", Decimal("2.5")),)
    assert autoscaling.scale_up.stabilization_window_seconds == 30
    assert autoscaling.scale_up.select_policy == "Min"
    assert autoscaling.scale_down.policies == (Policy("Pods", 1, 60),)
    assert autoscaling.scale_down.tolerance == Decimal("0.2")
    assert autoscaling.scale_down.stabilization_window_seconds == 300


METRICS = [
    ({"type": "KVCache", "target": {"averageUtilization": 80}}, Average("KVCache", Decimal("0.8"))),
    (
        {"type": "BacklogSeconds", "target": {"averageValue": "500m"}},
        Average("BacklogSeconds", Decimal("0.5")),
    ),
    (
        {"type": "Latency", "latency": {"ttftP90": "1s500ms", "tpotP90": "60ms"}},
        Latency(Decimal("1.5"), Decimal("0.06")),
    ),
    ({"type": "Latency", "latency": {"ttftP90": "2m"}}, Latency(Decimal(120), None)),
    (
        {"type": "Prometheus", "prometheus": {"query": "x"}, "target": {"value": 7}},
        Value("x", Decimal(7)),
    ),
    (
        {"type": "Prometheus", "prometheus": {"query": "x"}, "target": {"averageValue": 7}},
        Average("Prometheus", Decimal(7), "x"),
    ),
]


@pytest.mark.parametrize(("given", "expected"), METRICS)
def test_metrics_are_read(raw_service, given, expected):
    spec = {"autoscaling": {"maxReplicas": 3, "metrics": [given]}}
    assert parse(raw_service(**spec)).autoscaling.metrics == (expected,)


def test_a_canary_is_read(raw_service):
    canary = {
        "steps": [{"weight": 10, "pause": "5m"}],
        "analysis": [{"metric": "ErrorRate", "max": "0.01"}, {"metric": "TTFT", "maxRatio": 2}],
        "golden": [{"prompt": "2+2?", "expect": "4"}],
    }
    rollout = parse(raw_service(rollout={"strategy": "Canary", "canary": canary})).rollout
    assert rollout.canary == Canary(
        steps=(CanaryStep(10, 300),),
        analysis=(
            Limit("ErrorRate", Decimal("0.01"), None),
            Limit("TTFT", None, Decimal(2)),
        ),
        golden=(GoldenPrompt("2+2?", "4", 32),),
    )


def test_only_the_model_is_required(raw_service):
    service = parse(raw_service())
    assert (service.model.name, service.replicas, service.autoscaling) == ("demo", 1, None)
    assert service.rollout == Rollout(Share(1, False), Share(0, False), 600, 1800)
    assert service.queue == Queue(1000, 60, 600)


STEPS = [{"weight": 10, "pause": "1m"}]
BAD = {
    "spec.rollout.canary.steps: is empty": {"rollout": {"strategy": "Canary"}},
    "spec.rollout.canary.steps: has the weights [50, 10]; use growing ones": {
        "rollout": {"strategy": "Canary", "canary": {"steps": [{"weight": 50}, {"weight": 10}]}}
    },
    "use a share of requests from 1 to 99": {
        "rollout": {"strategy": "Canary", "canary": {"steps": [{"weight": 100}]}}
    },
    "spec.rollout.maxSurge: is 0, but a canary runs beside": {
        "rollout": {"strategy": "Canary", "maxSurge": 0, "maxUnavailable": 1}
    },
    "spec.rollout.canary.analysis[0].max: is missing": {
        "rollout": {
            "strategy": "Canary",
            "canary": {"steps": STEPS, "analysis": [{"metric": "TTFT"}]},
        }
    },
    "spec.rollout.canary.golden[0].expect: is required": {
        "rollout": {
            "strategy": "Canary",
            "canary": {"steps": STEPS, "golden": [{"prompt": "hello"}]},
        }
    },
    "spec.autoscaling.metrics[0].latency.ttftP90: is missing": {
        "autoscaling": {"maxReplicas": 1, "metrics": [{"type": "Latency"}]}
    },
    "spec.autoscaling.metrics[0].latency.ttftP90: is '2 s'; use a duration such as 2s": {
        "autoscaling": {
            "maxReplicas": 1,
            "metrics": [{"type": "Latency", "latency": {"ttftP90": "2 s"}}],
        }
    },
    "spec.autoscaling.metrics[0].prometheus.query: is required": {
        "autoscaling": {"maxReplicas": 1, "metrics": [{"type": "Prometheus"}]}
    },
    "metrics[0].target.averageUtilization: is None": {
        "autoscaling": {
            "maxReplicas": 1,
            "metrics": [{"type": "KVCache", "target": {"averageValue": 80}}],
        }
    },
    "spec.model.uri: is required": {"model": {}},
    "spec.model.uri: is 'ftp://x'; use one of the schemes": {"model": {"uri": "ftp://x"}},
    "name a file: pvc://<name>/<path>": {"model": {"uri": "pvc://claim"}},
    "spec.model: expected an object": {"model": "llama"},
    "spec.engine.maxSequences: is 0; use a whole number from 1": {"engine": {"maxSequences": 0}},
    "spec.engine.maxModelLen: expected a whole number": {"engine": {"maxModelLen": "long"}},
    "spec.engine.dtype: is 'int3'; use one of auto, float32": {"engine": {"dtype": "int3"}},
    "spec.engine.kvCacheDtype: is 'int2'; use one of auto, fp8": {
        "engine": {"kvCacheDtype": "int2"}
    },
    "spec.engine.activations: is 'bf16'; use one of auto, fp8": {"engine": {"activations": "bf16"}},
    "spec.replicas: is -1": {"replicas": -1},
    "spec.replicas: is True": {"replicas": True},
    "spec.rollout.maxSurge: is 0, and so is maxUnavailable": {
        "rollout": {"maxSurge": 0, "maxUnavailable": "0%"}
    },
    "spec.rollout.maxSurge: is 'many'": {"rollout": {"maxSurge": "many"}},
    "spec.rollout.drainTimeout: is '5 minutes'": {"rollout": {"drainTimeout": "5 minutes"}},
    "spec.autoscaling.maxReplicas: is required": {"autoscaling": {"metrics": []}},
    "spec.autoscaling.minReplicas: is 5, above maxReplicas = 2": {
        "autoscaling": {"minReplicas": 5, "maxReplicas": 2}
    },
    "spec.autoscaling.metrics: is empty": {"autoscaling": {"maxReplicas": 2}},
    "spec.autoscaling.metrics[0].target.averageValue: is 'four'": {
        "autoscaling": {
            "maxReplicas": 2,
            "metrics": [{"type": "Queue", "target": {"averageValue": "four"}}],
        }
    },
    "spec.autoscaling.metrics[0]: expected an object": {
        "autoscaling": {"maxReplicas": 2, "metrics": ["Queue"]}
    },
}


@pytest.mark.parametrize(("message", "spec"), BAD.items(), ids=BAD.keys())
def test_an_error_names_the_field_and_the_remedy(raw_service, message, spec):
    with pytest.raises(SpecError) as caught:
        parse(raw_service(**spec))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", "4"),
        ("500m", "0.5"),
        ("1.5Gi", "1610612736"),
        ("2k", "2000"),
        ("3E", "3e18"),
        ("2e3", "2000"),
        ("100n", "0.0000001"),
    ],
)
def test_quantities(text, value):
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "four", "-1", "1 Gi", "NaN", "1KiB"])
def test_what_is_no_quantity_is_none(text):
    assert parse_quantity(text) is None
