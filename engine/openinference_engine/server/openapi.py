"""`/openapi.json`: the API as a document, made from the very types that validate requests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from openinference_engine.server import schema
from openinference_engine.version import VERSION


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    summary: str
    body: type[msgspec.Struct] | None = None
    answers: str = "application/json"


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation; a stream of server-sent events with stream: true.",
        schema.ChatRequest,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a text; a stream of server-sent events with stream: true.",
        schema.CompletionRequest,
    ),
    Operation("post", "/v1/embeddings", "Texts as vectors.", schema.EmbeddingRequest),
    Operation("get", "/v1/models", "The model that is served."),
    Operation("post", "/tokenize", "A text or conversation as tokens.", schema.TokenizeRequest),
    Operation("post", "/detokenize", "Tokens as text.", schema.DetokenizeRequest),
    Operation("get", "/load", "Load and readiness, told on change.", answers="text/event-stream"),
    Operation("get", "/health", "200 while the process and its core live."),
    Operation("get", "/ready", "200 while requests can be answered."),
    Operation("get", "/metrics", "Metrics for Prometheus.", answers="text/plain"),
    Operation("get", "/version", "The version of the engine."),
    Operation("get", "/openapi.json", "This document."),
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string", "description": "Field, value and remedy."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field refused."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


async def openapi(request: web.Request) -> web.Response:
    return web.Response(body=document(), content_type="application/json")


@cache
def document() -> bytes:
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    references, components = msgspec.json.schema_components(
        bodies, ref_template="#/components/schemas/{name}"
    )
    reference_of = dict(zip(bodies, references, strict=True))
    for body in bodies:  # `validation` refuses fields that it does not know
        components[body.__name__]["additionalProperties"] = False
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        described = _described(operation, reference_of)
        paths.setdefault(operation.path, {})[operation.method] = described
    info = {"title": "OpenInference engine", "version": VERSION}
    schemas = {**components, "Error": _ERROR}
    return msgspec.json.encode(
        {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
    )


def _described(operation: Operation, reference_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": operation.summary, "content": {operation.answers: {}}},
            "default": {"description": "Refused or failed.", "content": error},
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": reference_of[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    return described
