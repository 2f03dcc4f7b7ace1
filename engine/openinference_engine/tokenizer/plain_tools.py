"""Tools for models whose chat template knows none: the system message tells of them.

Calls and results become plain messages that any template can write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_SYSTEM = """You may call functions to help with the user's request. Functions, one a line:
<tools>
{tools}
</tools>
For each function call write a JSON object with the function's name and its arguments like this:
<tool_call>
{{"name": "<function>", "arguments": {{<arguments>}}}}
</tool_call>"""


def in_plain_messages(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    told = _SYSTEM.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if plain[0]["role"] == "system":
        first, *plain = plain
        told = f"{first['content']}\n\n{told}"
    return [{"role": "system", "content": told}, *plain]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = [_call(call["function"]) for call in message.get("tool_calls", ())]
    content = "\n".join(filter(None, [message["content"], *calls]))
    return {"role": message["role"], "content": content}


def _call(function: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"
