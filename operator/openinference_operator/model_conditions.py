"""ModelReady: whether the model is where replicas can open it, and fits into their memory."""

from openinference_operator.condition import Condition, Rule
from openinference_operator.facts import Facts
from openinference_operator.preparation import ModelStage
from openinference_operator.reasons import Reason
from openinference_operator.sizing import human


def _impossible(facts: Facts) -> Condition | None:
    if facts.sizing is None or not facts.sizing.problem:
        return None
    return Condition("ModelReady", "False", facts.sizing.reason, facts.sizing.problem)


def _in_place(facts: Facts) -> Condition | None:
    if facts.observed.preparation.stage is not ModelStage.IN_PLACE:
        return None
    message = f"replicas read {facts.service.model.uri} where it is"
    return Condition("ModelReady", "True", Reason.MODEL_IN_PLACE, message)


def _fetched(facts: Facts) -> Condition | None:
    preparation, model = facts.observed.preparation, facts.service.model
    if preparation.stage is not ModelStage.READY:
        return None
    place = f"claim {model.volume_claim}" if model.volume_claim else "each pod"
    message = f"{model.uri} is in {place}"
    if result := preparation.result:
        revision = f" at {result.revision}" if result.revision else ""
        message = f"{human(result.num_bytes)} of {model.uri}{revision} are in {place}"
    return Condition("ModelReady", "True", Reason.MODEL_FETCHED, message)


def _failed(facts: Facts) -> Condition | None:
    preparation = facts.observed.preparation
    if preparation.stage is not ModelStage.FAILED:
        return None
    message = f"{preparation.message}; it is tried again"
    return Condition("ModelReady", "False", Reason.DOWNLOAD_FAILED, message)


def _awaited(facts: Facts) -> Condition:
    preparation = facts.observed.preparation
    if preparation.stage is ModelStage.PENDING:
        return Condition("ModelReady", "False", Reason.DOWNLOAD_PENDING, preparation.message)
    progress = preparation.progress
    message = "it has begun"
    if progress is not None and progress.total_bytes:
        message = f"{human(progress.downloaded_bytes)} of {human(progress.total_bytes)}"
    elif progress is not None:
        message = "another pod fetches the same model into the claim"
    if preparation.message:
        message += f", after an attempt that failed: {preparation.message}"
    return Condition("ModelReady", "False", Reason.DOWNLOADING, message)


MODEL_RULES: tuple[Rule, ...] = (_impossible, _in_place, _fetched, _failed, _awaited)
