"""`openinference run`: a file of requests to a file of answers, and on from where it stopped.

Input lines are OpenAI's batch format, or just bodies. The output is the record of what is done: a
line that was cut is dropped, a later run skips what has an answer and asks again what failed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openinferencev2.answers import Json, RequestFailed, ask, model_of, open_session
from openinferencev2.endpoint import Endpoint, Url, reach
from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Context, Namespace
from openinferencev2.output import Format, Output, out, print_json, remarks

if TYPE_CHECKING:
    import aiohttp

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
WORTH_ANOTHER_TRY = (0, 429, 500, 502, 503)
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Item:
    """One request; `id` is its custom_id, or its line number."""

    id: str
    path: str
    body: Json


def run(
    source: Annotated[Path, typer.Argument(help="JSON lines: requests or bodies of requests.")],
    target: Annotated[Path, typer.Argument(help="JSON lines: one answer for each.")],
    service: Annotated[str | None, typer.Option(help="Service. Default: any by --model.")] = None,
    model: Annotated[str, typer.Option(help="For bodies that name none.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests open at once.")] = 16,
    url: Url = None,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Format.TEXT,
) -> None:
    """Answer a file of requests. Stopped or failed, run it again and it goes on."""
    items = read_items(source)
    done = read_done(target)
    left = [item for item in items if item.id not in done]
    with reach(service, url, namespace, context) as endpoint:
        failed = asyncio.run(_answer_all(endpoint, left, target, model, concurrency, len(items)))
    told = {"requests": len(items), "answered": len(items) - failed, "failed": failed}
    if output is Format.JSON:
        print_json(told)
    else:
        out.print(f"{told['answered']} of {told['requests']} answered, in {target}")
    if failed:
        raise CommandError(f"{failed} requests failed", "run the same command again to retry them")


def read_items(source: Path) -> list[Item]:
    """Raises CommandError that names the line."""
    try:
        lines = source.read_text(encoding="utf-8").split("\n")  # JSON may hold U+2028 and the like
    except OSError as error:
        raise CommandError(f"{source}: {error.strerror}", code=Exit.USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{source} is not UTF-8: {error}", "convert it", Exit.USAGE) from error
    items = [_item(source, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise CommandError(f"{source}: custom_id '{item.id}' is there twice", code=Exit.USAGE)
        seen.add(item.id)
    return items


def read_done(target: Path) -> set[str]:
    """Ids that have an answer already; what failed or was cut leaves the file."""
    if not target.exists():
        return set()
    content = target.read_bytes()  # a cut may go through a character
    whole = [line for line in content.split(b"\n")[:-1] if line]
    answers = {line: json.loads(line) for line in whole}
    good = [line for line in whole if not answers[line].get("error")]
    kept = b"".join(line + b"\n" for line in good)
    if kept != content:
        _replace(target, kept)
    return {answers[line]["custom_id"] for line in good}


def _replace(target: Path, content: bytes) -> None:
    """All at once: whoever is interrupted here must not lose answers."""
    beside = target.with_name(f"{target.name}.new")
    beside.write_bytes(content)
    beside.replace(target)


def _item(source: Path, number: int, line: str) -> Item:
    try:
        given = json.loads(line)
        body = given.get("body", given)
        path = given.get("url") or (CHAT if "messages" in body else TEXT)
        if "messages" not in body and "prompt" not in body:
            raise ValueError("it has neither messages nor prompt")
        if path not in (CHAT, TEXT):  # it is appended to a URL that credentials are sent to
            raise ValueError(f"url {path!r} is neither {CHAT} nor {TEXT}")
        return Item(str(given.get("custom_id", number)), path, body)
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandError(
            f"{source}, line {number}: not a request: {error}",
            'write {"messages": [...]} or {"custom_id": "1", "body": {...}}',
            Exit.USAGE,
        ) from error


async def _answer_all(
    endpoint: Endpoint, items: list[Item], target: Path, model: str, concurrency: int, total: int
) -> int:
    """Append an answer for each item; returns how many failed."""
    num_failed = 0
    waiting: Iterator[Item] = iter(items)
    with target.open("a", encoding="utf-8") as file, _progress() as progress:
        task = progress.add_task("requests", total=total, completed=total - len(items))
        async with open_session(endpoint) as session:
            if items and not model and any("model" not in item.body for item in items):
                model = await model_of(session, endpoint)

            async def work() -> None:
                nonlocal num_failed
                for item in waiting:  # shared: each worker takes the next one
                    line = await _answer(session, endpoint, item, model)
                    num_failed += line["error"] is not None
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    progress.advance(task)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(items))):
                    group.create_task(work())
    return num_failed


async def _answer(
    session: aiohttp.ClientSession, endpoint: Endpoint, item: Item, model: str
) -> Json:
    """The line of one item, after some attempts where the refusal may pass."""
    for attempt in range(ATTEMPTS):
        try:
            body = await ask(session, endpoint, item.path, {"model": model} | item.body)
            return {
                "custom_id": item.id,
                "response": {"status_code": 200, "body": body},
                "error": None,
            }
        except RequestFailed as error:
            failure = error
            if error.status not in WORTH_ANOTHER_TRY:
                break
            await asyncio.sleep(min(10.0, 0.5 * 2**attempt))
    told = {"code": failure.status, "message": failure.message}
    return {"custom_id": item.id, "response": None, "error": told}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=remarks,
        disable=not remarks.is_terminal,
    )
