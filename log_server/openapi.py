"""The OpenAPI 3.1 description of the log over HTTP, as ``/openapi.json`` gives it.

Built from the same constants as the routes; ``tests/log_server/test_openapi.py`` asks the server whether it
is true.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from assay.attest import entry
from assay.log_server.routes.entries import SEARCH_TERMS

Schema = dict[str, Any]

_INDEX = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$"}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TEXT = {"type": "string", "minLength": 1}
_STRING = {"type": "string"}
_INTEGER = {"type": "integer", "minimum": 0}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_PLAIN = "text/plain"
_BYTES = "application/octet-stream"
_PAGE = "text/html"

_REASONS = {
    304: "the client has it already",
    400: "the request is malformed",
    401: "a token is needed, or this one is not known",
    403: "a rule of admission refuses the entry",
    404: "there is no such thing",
    405: "not with this method, or the log is frozen",
    413: "too large",
    429: "too many requests",
    500: "a fault of the server",
    503: "not now; Retry-After says when",
}
_ALWAYS = (400, 404, 405, 429, 500)
_WRITES = (*_ALWAYS, 401, 403, 413, 503)


def document(*, origin: str, prefix: str) -> Schema:
    """The description of one log's interface.

    Args:
        origin: the log's.
        prefix: the path under which it is, empty for none.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Transparency log {origin}",
            "version": version("assay-log"),
            "description": "Rekor v2's write path, C2SP tlog-tiles, and Assay's own interface.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix or "/"}],
        "paths": {**_tiles(), **_entries(), **_writes(), **_operate()},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _tiles() -> Schema:
    """The C2SP reads; of indices with several groups (``x001/234``) only the last has a place in a template."""
    place = {"index": {"type": "string", "pattern": "^[0-9]{3}$"}}
    level = {"level": {"type": "string", "pattern": "^([0-9]|[1-5][0-9]|6[0-3])$"}}
    width = {"width": {"type": "string", "pattern": "^([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$"}}
    paths: Schema = {}
    for base in ("", "/api/v2"):
        paths[f"{base}/checkpoint"] = {
            "get": _read(
                "The newest checkpoint that meets the witness policy", {_PLAIN: _STRING}, also=(304,)
            )
        }
        for path, text, parameters in (
            ("tile/{level}/{index}", "A full tile", {**level, **place}),
            ("tile/{level}/{index}.p/{width}", "A partial tile", {**level, **place, **width}),
            ("tile/entries/{index}", "A full entry bundle", place),
            ("tile/entries/{index}.p/{width}", "A partial entry bundle", {**place, **width}),
        ):
            content = {_BYTES: {"type": "string", "contentMediaType": _BYTES}}
            paths[f"{base}/{path}"] = {
                "get": _read(f"{text} (c2sp.org/tlog-tiles)", content, path=parameters, also=(304,))
            }
    return paths


def _entries() -> Schema:
    return {
        "/api/v1/entries/{index}": {
            "get": _read("An entry, decoded and raw", {_JSON: _ref("Entry")}, path={"index": _INDEX})
        },
        "/api/v1/leaves/{leaf_hash}": {
            "get": _read("An entry by its leaf hash", {_JSON: _ref("Entry")}, path={"leaf_hash": _HASH})
        },
        "/api/v1/entries/{index}/proof": {
            "get": _read(
                "The .tlog-proof, of the newest checkpoint that covers the entry or of a given size",
                {_PLAIN: _STRING},
                path={"index": _INDEX},
                query={"size": _INDEX},
            )
        },
        "/api/v1/consistency": {
            "get": _read(
                "The consistency proof between two sizes",
                {_JSON: _ref("Consistency")},
                query={"from": _INDEX, "to": _INDEX},
                required=("from", "to"),
            )
        },
        "/api/v1/checkpoints": {
            "get": _read(
                "Every checkpoint that was signed, newest first",
                {_JSON: _ref("Checkpoints")},
                query={"before": _INDEX, "limit": _INDEX},
            )
        },
        "/api/v1/blobs/sha256/{sha256}": {
            "get": _read("Evidence beside the log", {_BYTES: _STRING}, path={"sha256": _HASH}),
            "put": {
                **_write(
                    "Keep evidence beside the log, under its hash",
                    {_BYTES: _STRING},
                    {200: _JSON, 201: _JSON},
                ),
                "parameters": [_parameter("sha256", "path", _HASH)],
                "security": [{"token": []}],
            },
        },
        "/api/v1/log": {"get": _read("What this log is", {_JSON: _ref("Log")})},
        **{
            path: {"get": _read(text, {_JSON: {"type": "object"}}, **more)}
            for path, text, more in (
                (
                    "/index.json",
                    "The entries as a page shows them",
                    {"query": {**_terms(), "before": _INDEX}},
                ),
                ("/entry/{index}.json", "An entry as a page shows it", {"path": {"index": _INDEX}}),
                ("/checkpoints.json", "The checkpoints as a page shows them", {"query": {"before": _INDEX}}),
            )
        },
        **{
            path: {"get": _read(text, {_PAGE: _STRING}, **more)}
            for path, text, more in (
                ("/", "The entries, a page", {"query": {**_terms(), "before": _INDEX}}),
                ("/entry/{index}", "An entry, a page", {"path": {"index": _INDEX}}),
                ("/checkpoints", "The checkpoints, a page", {"query": {"before": _INDEX}}),
            )
        },
    }


def _writes() -> Schema:
    waiting = {"type": "string", "enum": ["integrated", "witnessed"]}
    answered = {200: _JSON, 201: _JSON}
    return {
        "/api/v1/entries": {
            "post": {
                **_write("Submit one entry", {_JSON: _ref("Submission")}, answered, schema=_ref("Submitted")),
                "parameters": [_parameter("wait", "query", waiting)],
            },
            "get": _read(
                "Entries by their index terms, newest first; 'size' is the tree size up to which it is complete",
                {_JSON: _ref("Found")},
                query={**_terms(), "before": _INDEX, "limit": _INDEX},
            ),
        },
        "/api/v1/entries/batch": {
            "post": _write(
                "Submit many entries, one a line", {_NDJSON: _STRING}, {200: _NDJSON}, schema=_STRING
            )
        },
        "/api/v2/log/entries": {
            "post": {
                "summary": "Rekor v2: CreateEntryRequest to TransparencyLogEntry",
                "requestBody": {"required": True, "content": {_JSON: {"schema": {"type": "object"}}}},
                "responses": {
                    "201": _answer("the entry with its proof", {_JSON: {"type": "object"}}),
                    **{
                        str(status): _answer(
                            _REASONS[status], {_JSON: _ref("Status")}, retry=status in (429, 503)
                        )
                        for status in _WRITES
                    },
                },
            }
        },
    }


def _operate() -> Schema:
    health = {
        "summary": "Whether the log does what it is for, check by check",
        "responses": {
            "200": _answer("all checks pass", {_JSON: _ref("Health")}),
            "503": _answer("a check fails", {_JSON: _ref("Health")}),
            **_problems((400, 405, 429, 500)),
        },
    }
    return {
        "/livez": {"get": _read("The process answers", {_PLAIN: _STRING})},
        "/readyz": {"get": health},
        "/health": {"get": health},
        "/metrics": {"get": _read("Prometheus text", {_PLAIN: _STRING})},
        "/openapi.json": {"get": _read("This description", {_JSON: {"type": "object"}})},
    }


def _read(
    summary: str,
    content: dict[str, Schema],
    *,
    path: dict[str, Schema] | None = None,
    query: dict[str, Schema] | None = None,
    required: Sequence[str] = (),
    also: Sequence[int] = (),
) -> Schema:
    parameters = [_parameter(name, "path", schema) for name, schema in (path or {}).items()]
    parameters += [
        _parameter(name, "query", schema, required=name in required) for name, schema in (query or {}).items()
    ]
    unchanged = {str(status): {"description": _REASONS[status]} for status in also}
    answers = {
        "200": _answer("found", content),
        **unchanged,
        **_problems((*_ALWAYS, 503), page=_PAGE in content),
    }
    return {"summary": summary, "parameters": parameters, "responses": answers}


def _write(
    summary: str, body: dict[str, Schema], answers: dict[int, str], *, schema: Schema | None = None
) -> Schema:
    good = {
        str(status): _answer("done", {kind: schema or {"type": "object"}}) for status, kind in answers.items()
    }
    content = {kind: {"schema": shape} for kind, shape in body.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {**good, **_problems(_WRITES)},
    }


def _problems(statuses: Sequence[int], *, page: bool = False) -> Schema:
    content = {"application/problem+json": _PROBLEM, **({_PAGE: _STRING} if page else {})}
    return {
        str(status): _answer(_REASONS[status], content, retry=status in (429, 503))
        for status in sorted(set(statuses))
    }


def _answer(description: str, content: dict[str, Schema], *, retry: bool = False) -> Schema:
    headers = {"Retry-After": {"schema": _INTEGER}} if retry else {}
    return {
        "description": description,
        "headers": {"X-Request-Id": {"schema": _STRING}, **headers},
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def _parameter(name: str, where: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"name": name, "in": where, "required": required or where == "path", "schema": schema}


def _terms() -> dict[str, Schema]:
    kinds = {"kind": {"type": "string", "enum": list(entry.KINDS)}}
    return dict.fromkeys(SEARCH_TERMS, _TEXT) | kinds


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    required: dict[str, Schema], *, more: bool = False, optional: dict[str, Schema] | None = None
) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        **({} if more else {"additionalProperties": False}),
    }


def _schemas() -> Schema:
    nullable_index = {"type": ["integer", "null"]}
    problem: dict[str, Schema] = {
        "type": _STRING,
        "title": _STRING,
        "status": _INTEGER,
        "code": _STRING,
        "detail": _STRING,
    }
    entries = {"type": "array", "items": _ref("Entry")}
    return {
        "Problem": _object(problem, more=True, optional={"request_id": _STRING}),
        "Status": _object({"code": _INTEGER, "message": _STRING, "details": {"type": "array"}}),
        "Submission": _object(
            {
                "apiVersion": _STRING,
                "kind": {"type": "string", "enum": list(entry.KINDS)},
                "spec": {"type": "object"},
            }
        ),
        "Submitted": _object({"index": _INTEGER, "leaf_hash": _HASH, "leaf": _STRING, "proof": _STRING}),
        "Entry": _object(
            {"index": _INTEGER, "leaf_hash": _HASH, "kind": _STRING, "leaf": _STRING}, more=True
        ),
        "Found": _object({"size": _INTEGER, "entries": entries, "before": nullable_index}),
        "Consistency": _object(
            {"from": _INTEGER, "to": _INTEGER, "hashes": {"type": "array", "items": _STRING}}
        ),
        "Checkpoints": _object({"checkpoints": {"type": "array"}, "before": nullable_index}),
        "Log": _object({"origin": _STRING, "vkeys": {"type": "array"}, "size": _INTEGER}, more=True),
        "Health": _object(
            {
                "ready": {"type": "boolean"},
                "frozen": nullable_index,
                "checks": {"type": "array", "items": _ref("Check")},
            }
        ),
        "Check": _object(
            {"name": _STRING, "result": {"type": "string", "enum": ["pass", "fail"]}, "detail": _STRING}
        ),
    }
