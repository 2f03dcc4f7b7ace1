"""The closed list of reasons that conditions give.

docs/conditions.md says of each what it means and what to do; a test keeps the two together.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition is as it is, in one word. Part of the API: alerts and scripts compare it."""

    # Ready
    SERVING = "Serving"
    SUSPENDED = "Suspended"
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    INTERNAL_ERROR = "InternalError"
    WRITE_REFUSED = "WriteRefused"
    # Available
    REPLICAS_ROUTABLE = "ReplicasRoutable"
    NO_ROUTABLE_REPLICA = "NoRoutableReplica"
    SCALED_TO_ZERO = "ScaledToZero"
    # Progressing
    COMPLETE = "Complete"
    STARTING = "Starting"
    SCALING_DOWN = "ScalingDown"
    ROLLING_OUT = "RollingOut"
    PAUSED = "Paused"
    CANARY = "Canary"
    ANALYSIS_UNAVAILABLE = "AnalysisUnavailable"
    ROLLED_BACK = "RolledBack"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    # ModelReady
    MODEL_IN_PLACE = "ModelInPlace"
    MODEL_FETCHED = "ModelFetched"
    DOWNLOAD_PENDING = "DownloadPending"
    DOWNLOADING = "Downloading"
    DOWNLOAD_FAILED = "DownloadFailed"
    MODEL_TOO_LARGE = "ModelTooLarge"
    PARALLELISM_MISFIT = "ParallelismMisfit"
    ACTIVATIONS_MISFIT = "ActivationsMisfit"
    # Scheduled
    SCHEDULED = "Scheduled"
    UNSCHEDULABLE = "Unschedulable"
    INSUFFICIENT_GPU = "InsufficientGPU"
    GROUP_GIVEN_UP = "GroupGivenUp"
    INSUFFICIENT_RESOURCES = "InsufficientResources"
    # GroupsHealthy
    HEALTHY = "Healthy"
    CRASH_LOOP = "CrashLoop"
    OUT_OF_MEMORY = "OutOfMemory"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    RESTART_BUDGET_SPENT = "RestartBudgetSpent"
    POD_NOT_CREATED = "PodNotCreated"
    POD_NOT_STARTED = "PodNotStarted"
    EVICTED = "Evicted"
    POD_FAILED = "PodFailed"
    NODE_LOST = "NodeLost"
    RANK_LOST = "RankLost"
    # RouterReady
    ROUTERS_READY = "RoutersReady"
    ROUTER_NOT_READY = "RouterNotReady"
    ROUTER_STATE_UNKNOWN = "RouterStateUnknown"
    MODEL_NAME_TAKEN = "ModelNameTaken"
    # AbleToScale
    READY_FOR_NEW_SCALE = "ReadyForNewScale"
    STABILIZED = "Stabilized"
    # ScalingActive
    VALID_METRIC_FOUND = "ValidMetricFound"
    FALLBACK_DEMAND = "FallbackDemand"
    SOME_METRICS_UNAVAILABLE = "SomeMetricsUnavailable"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    SCALING_DISABLED = "ScalingDisabled"
    # ScalingLimited
    DESIRED_WITHIN_RANGE = "DesiredWithinRange"
    TOO_MANY_REPLICAS = "TooManyReplicas"
    TOO_FEW_REPLICAS = "TooFewReplicas"
    SCALE_UP_LIMIT = "ScaleUpLimit"
    SCALE_DOWN_LIMIT = "ScaleDownLimit"
