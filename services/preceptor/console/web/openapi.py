"""The OpenAPI 3.1 document, made from the table of operations."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from preceptor.console.types import Problem
from preceptor.console.web.rest import OPERATIONS, PREFIX, Operation

REF = "#/components/schemas/{model}"
STATUS_TEXT = {
    400: "A field is wrong; the problem names it.",
    403: "The request lacks X-Preceptor-Client or comes from another site.",
    404: "There is no such thing.",
    409: "The same id exists with another content.",
    412: "The state of the system forbids it.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too much at once: try again after Retry-After seconds.",
    503: "A service behind the console does not answer: try again after Retry-After seconds.",
    504: "A service behind the console took too long.",
}


def document() -> dict[str, Any]:
    """Returns the document as a JSON object."""
    models: set[type[BaseModel]] = {Problem}
    for operation in OPERATIONS:
        models |= {operation.answer} | ({operation.body} if operation.body else set())
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        path = PREFIX + operation.path.replace(":path", "")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Preceptor console",
            "version": version("preceptor"),
            "description": "Ranking completions and following the loop. Requests that change something carry a JSON "
            "body and the header X-Preceptor-Client with the name of the program.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": _responses(operation),
    }
    if operation.body:
        described["parameters"].append(_client_parameter())
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REF.format(model=operation.body.__name__)}}},
        }
    return described


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in operation.path_names
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    schema = operation.query.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema.get("properties", {}).items()
    ]


def _client_parameter() -> dict[str, Any]:
    schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/ -]{0,63}$"}
    text = "Name and version of the calling program; stored with a vote."
    return {"name": "X-Preceptor-Client", "in": "header", "required": True, "description": text, "schema": schema}


def _responses(operation: Operation) -> dict[str, Any]:
    statuses = {400, 404, 503, 504, *operation.errors} | ({403, 413, 415} if operation.body else set())
    answer = {
        "description": "Done.",
        "content": {"application/json": {"schema": {"$ref": REF.format(model=operation.answer.__name__)}}},
    }
    problem = {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}}
    failures = {str(status): {"description": STATUS_TEXT[status], "content": problem} for status in sorted(statuses)}
    return {"200": answer, **failures}
