"""The headers that do not depend on what an answer says, only on what was asked and whether it went well.

One place for all layers that answer: ``front`` refuses, ``direct`` and Flask do the rest.
"""

from typing import Final

from flask import Response

SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
}
"""On every answer of the server."""

CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "ETag, Retry-After, X-Request-Id",
}
"""On what any web page may read: a verifier in a page must tell a 404 from a broken network."""

PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "If-None-Match, X-Request-Id",
    "Access-Control-Max-Age": "86400",
}

IMMUTABLE: Final = "public, max-age=31536000, immutable"
SUBMIT_PATH: Final = "/api/v1/entries"

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_WRITE_ONLY = frozenset({"/api/v1/entries/batch", "/api/v2/log/entries"})


def is_open(method: str, path: str) -> bool:
    """Whether any page may read the answer: reads made for programs, no writes and no pages."""
    if method not in _READS or path in _WRITE_ONLY:
        return False
    return path.startswith(("/api/", "/tile/")) or path == "/checkpoint" or path.endswith(".json")


def allowed(path: str, methods: set[str]) -> str:
    """The ``Allow`` header: what Flask has for a path, and the submissions that never reach it."""
    return ", ".join(sorted(methods | ({"POST"} if path == SUBMIT_PATH else set())))


def finish(response: Response, *, method: str, path: str) -> Response:
    """Add them. An error is never kept by a cache, whatever its path's answers are otherwise."""
    response.headers.update(SECURITY)
    if is_open(method, path):
        response.headers.update(CORS)
        if method == "OPTIONS":
            response.headers.update(PREFLIGHT)
    if response.status_code >= 400:
        response.headers["Cache-Control"] = "no-store"
    else:
        response.headers.setdefault("Cache-Control", "no-cache")  # what is for ever, or for a while, says so
    return response
