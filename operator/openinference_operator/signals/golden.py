"""Golden prompts: questions that a new replica must answer well before it gets any client's.

They go to pod 0 of the group itself, past the routers, greedily and with the namespace's token.
A wrong answer fails the revision. No answer at all proves nothing: it is asked again, until the
progress deadline judges. What is held here may be lost; then a group is asked once more.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping

import aiohttp

from openinference_operator import names
from openinference_operator.errors import ApiError
from openinference_operator.rollout_spec import GoldenPrompt
from openinference_operator.spec import InferenceService

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 120.0  # a cold CPU and a long answer; a hang is for the progress deadline
PAUSE_SECONDS = 2.0
SHOWN_CHARACTERS = 80
REFUSALS = (400, 404, 413, 422)  # asked again, the same request would be refused again
ANSWERS_NOTHING = (
    aiohttp.ClientError,
    ApiError,
    TimeoutError,
    LookupError,
    TypeError,
    ValueError,
)


class Refused(Exception):
    """The engine will not answer this prompt however often it is asked."""


class GoldenChecks:
    """Asks groups in the background, one task for each pod."""

    def __init__(
        self, session: aiohttp.ClientSession, token_of: Callable[[str], Awaitable[str]]
    ) -> None:
        self._session = session
        self._token_of = token_of
        self._asked: dict[Hashable, dict[str, asyncio.Task[str]]] = {}

    def results(
        self,
        key: Hashable,
        service: InferenceService,
        prompts: tuple[GoldenPrompt, ...],
        groups: Mapping[str, str],
        on_result: Callable[[], None],
    ) -> dict[str, str]:
        """What is known of `groups` (pod uid by name): empty if one has passed, else its failure.

        Those not asked yet are asked; `on_result` is called when one has answered. All others that
        were asked for this `key` are forgotten.
        """
        before, asked = self._asked.pop(key, {}), {}
        for name, uid in groups.items():
            if uid not in before:
                before[uid] = asyncio.create_task(self._ask(service, name, prompts))
                before[uid].add_done_callback(lambda _: on_result())
            asked[uid] = before.pop(uid)
        for task in before.values():
            task.cancel()
        if asked:
            self._asked[key] = asked
        return {name: asked[uid].result() for name, uid in groups.items() if asked[uid].done()}

    def forget(self, key: Hashable) -> None:
        """Stop asking for this key, and forget the answers."""
        for task in self._asked.pop(key, {}).values():
            task.cancel()

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for asked in self._asked.values() for task in asked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(
        self, service: InferenceService, group: str, prompts: tuple[GoldenPrompt, ...]
    ) -> str:
        for prompt in prompts:
            asked = f"{group} answered golden prompt {_shown(prompt.prompt)} with"
            try:
                answer = await self._answer(service, group, prompt)
            except Refused as refusal:
                return f"{asked} {_shown(str(refusal))}"
            if prompt.expect not in answer:
                return f"{asked} {_shown(answer)}, expected {_shown(prompt.expect)} in it"
        return ""

    async def _answer(self, service: InferenceService, group: str, prompt: GoldenPrompt) -> str:
        """Ask until there is an answer. Raises Refused."""
        while True:
            try:
                return await self._answer_once(service, group, prompt)
            except ANSWERS_NOTHING as error:
                log.info("golden prompt not answered: group=%s error=%r", group, error)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _answer_once(
        self, service: InferenceService, group: str, prompt: GoldenPrompt
    ) -> str:
        address = names.group_address(group, service.name, service.namespace)
        body = {
            "model": service.model.name,
            "messages": [{"role": "user", "content": prompt.prompt}],
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
        }
        headers = {names.TOKEN_HEADER: await self._token_of(service.namespace)}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with self._session.post(
            f"{address}/v1/chat/completions", json=body, headers=headers, timeout=timeout
        ) as response:
            if response.status in REFUSALS:
                raise Refused(f"HTTP {response.status}: {await response.text()}")
            response.raise_for_status()
            return str((await response.json())["choices"][0]["message"]["content"] or "")


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")
