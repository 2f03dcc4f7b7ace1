"""`openinference chat`: talk to a model in the terminal; each answer says how fast and by whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from openinferencev2.answers import Json, Reply, RequestFailed, model_of, open_session, stream
from openinferencev2.endpoint import Endpoint, Service, Url, reach
from openinferencev2.errors import CommandError, Exit
from openinferencev2.kubectl import Context, Namespace
from openinferencev2.output import Format, Output, out, print_json, remarks

if TYPE_CHECKING:
    import aiohttp

HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"
HISTORY_LINES = 1000
PATH = "/v1/chat/completions"


def chat(
    service: Service = None,
    prompt: Annotated[str | None, typer.Argument(help="Ask this once and end.")] = None,
    model: Annotated[str, typer.Option(help="Default: the only one that is served.")] = "",
    system: Annotated[str, typer.Option(help="System message.")] = "",
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 takes the likeliest token, 1 draws as learnt.")
    ] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    url: Url = None,
    namespace: Namespace = None,
    context: Context = None,
    output: Output = Format.TEXT,
) -> None:
    """Talk to a model. Interactive, or once with PROMPT or text on standard input."""
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is None and output is Format.JSON:
        raise CommandError("a conversation is for people", "say PROMPT too", Exit.USAGE)
    with reach(service, url, namespace, context) as endpoint, asyncio.Runner() as runner:
        session = runner.run(_open(endpoint))
        try:
            model = model or runner.run(model_of(session, endpoint))
            options = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
            talk = Conversation(runner, session, endpoint, options, system)
            if prompt is None:
                _converse(talk, model)
            elif output is Format.JSON:
                print_json(figures(model, talk.ask(prompt, _hush)))
            else:
                talk.say(prompt)
        finally:
            runner.run(session.close())


class Conversation:
    """What was said so far, and the way to say more."""

    def __init__(
        self,
        runner: asyncio.Runner,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        options: Json,
        system: str,
    ) -> None:
        self._runner = runner
        self._session = session
        self._endpoint = endpoint
        self._options = options
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._start)

    def reset(self) -> None:
        self.messages = list(self._start)

    def say(self, text: str) -> None:
        """Print the answer as it comes, and how fast it came."""
        answer = self.ask(text, _print)
        out.print()
        remarks.print(f"[dim]{escape(summary(answer))}[/]")

    def ask(self, text: str, hear: Callable[[str], None]) -> Reply:
        """Add a message and its answer. A message without an answer is forgotten."""
        self.messages.append({"role": "user", "content": text})
        body = self._options | {"messages": self.messages}
        try:
            answer = self._runner.run(stream(self._session, self._endpoint, PATH, body, hear))
        except BaseException:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer.text})
        return answer


def figures(model: str, answer: Reply) -> Json:
    """One answer as scripts read it; durations in seconds, null where nothing was to measure."""
    return {
        "model": model,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "first_token_seconds": answer.first_token_seconds,
        "tokens_per_second": answer.tokens_per_second,
        "answered_by": answer.group or None,
    }


def summary(answer: Reply) -> str:
    """`52.3 tok/s · first token after 0.12 s · answered by demo-1a2b3c4d-0`"""
    parts = []
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tok/s")
    if answer.first_token_seconds is not None:
        parts.append(f"first token after {answer.first_token_seconds:.2f} s")
    if answer.group:
        parts.append(f"answered by {answer.group}")
    return " · ".join(parts) or "an empty answer"


def _converse(talk: Conversation, model: str) -> None:
    remarks.print(f"[bold]{escape(model)}[/]  [dim]{HELP}[/]")
    with _remembered_lines(), contextlib.suppress(EOFError):
        while (text := _read()) != "/quit":
            if text == "/reset":
                talk.reset()
            elif text:
                try:
                    talk.say(text)
                except KeyboardInterrupt:
                    remarks.print("\n[dim](stopped)[/]")
                except RequestFailed as error:
                    remarks.print(f"[red]{escape(str(error))}[/]")


def _read() -> str:
    try:
        return input("> ").strip()
    except KeyboardInterrupt:  # a line that is not wanted after all
        print()
        return ""


@contextlib.contextmanager
def _remembered_lines() -> Iterator[None]:
    """Arrow keys find what was typed before, also in earlier sessions."""
    import readline

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    path = Path(state) / "openinference/chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
            path.chmod(0o600)


def _hush(piece: str) -> None:
    """The answer is printed when it is whole."""


def _print(piece: str) -> None:
    out.print(piece, end="", markup=False, soft_wrap=True)


async def _open(endpoint: Endpoint) -> aiohttp.ClientSession:
    return open_session(endpoint)
