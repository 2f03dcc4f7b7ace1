"""The OpenAPI document: every route is in it, every reference leads somewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
from openinference_engine.server.app import ROUTES
from openinference_engine.server.openapi import OPERATIONS, document

WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_every_route_is_described() -> None:
    described = {(operation.method, operation.path) for operation in OPERATIONS}
    assert described == {(method.lower(), path) for method, path, _ in ROUTES}


def test_references_lead_to_schemas() -> None:
    read = json.loads(document())
    assert read["openapi"].startswith("3.1")
    schemas = read["components"]["schemas"]
    names = {reference.removeprefix("#/components/schemas/") for reference in references(read)}
    assert names <= set(schemas)
    assert all(schemas[each.body.__name__]["additionalProperties"] is False for each in WITH_BODY)
    chat = schemas["ChatRequest"]["properties"]
    assert {"messages", "tools", "response_format", "logprobs", "seed"} <= set(chat)
    assert chat["n"] == {"type": "integer", "minimum": 1, "maximum": 128, "default": 1}


def test_document_is_served(http: httpx2.Client) -> None:
    answer = http.get("/openapi.json")
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["info"]["title"] == "OpenInference engine"
