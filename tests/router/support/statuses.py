"""What the operator says of services, as the dashboard's tests show it."""

from datetime import UTC, datetime, timedelta

OLD, NEW = "1a2b3c4d", "9f8e7d6c"


def condition(kind: str, status: str, reason: str, message: str, seconds_ago: int = 300) -> dict:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": ago(seconds_ago),
    }


def ago(seconds: int) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


SERVING = (
    condition("Ready", "True", "Serving", "2 of 2 replicas take requests", 4000),
    condition("Available", "True", "ReplicasRoutable", "2 replicas take requests", 4000),
    condition("Progressing", "True", "Complete", f"all 2 replicas are of {OLD}"),
    condition("Scheduled", "True", "Scheduled", "every pod has a node", 4000),
    condition("GroupsHealthy", "True", "Healthy", "no pod is in trouble", 4000),
    condition("RouterReady", "True", "RoutersReady", "2 of 2 router pods are Ready", 4000),
)
ROLLING = (
    condition("Ready", "True", "Serving", "2 of 2 replicas take requests", 4000),
    SERVING[1],
    condition("Progressing", "True", "RollingOut", f"1 of 2 replicas are of {NEW}", 20),
    *SERVING[3:],
)
WITHOUT_NODE = (
    condition(
        "Ready", "False", "InsufficientGPU", "needs 8 nvidia.com/gpu, node-b has 2 free", 900
    ),
    condition("Available", "False", "NoRoutableReplica", "no replica takes requests", 900),
    condition("Progressing", "True", "Starting", "0 of 1 replicas are routable", 900),
    condition("Scheduled", "False", "InsufficientGPU", "0/3 nodes are available", 900),
)


def status(conditions, *, updated: int = 2, update: str = OLD, summary: str = "2/2") -> dict:
    return {
        "replicas": 2,
        "routableReplicas": 2,
        "updatedReplicas": updated,
        "replicasSummary": summary,
        "currentRevision": OLD,
        "updateRevision": update,
        "url": "http://demo.team-a.svc",
        "conditions": list(conditions),
    }
