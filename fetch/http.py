"""One bounded HTTP request: the only way Assay's parts talk to each other.

No redirects, no proxies, no environment: the address that is asked is the address that answers. Every
response has a limit in bytes and every request one deadline over all its steps. TLS verifies against the
system's roots unless a context is given. Only the standard library, because the enclave imports it.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from assay.tlog.errors import MalformedError, UnavailableError

USER_AGENT = "assay/0.1 (+transparency log client)"
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; ``headers`` has lower-case names, the last of equal ones."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int | None
    path: str


def request(
    method: str,
    url: str,
    *,
    timeout_s: float,
    max_bytes: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Response:
    """Send one request and read its response.

    Args:
        method: such as ``GET``.
        url: absolute, ``http`` or ``https``.
        timeout_s: the deadline for everything together.
        max_bytes: the longest body that is read.
        body: the request's body.
        headers: beside Host, User-Agent, Connection and Accept-Encoding.
        tls: how to verify an https server; None means the system's roots.

    Raises:
        MalformedError: an unusable URL (code ``url``), or a body above ``max_bytes`` (code ``too-large``).
        UnavailableError: refused, unreachable, not HTTP, cut off, or late.
    """
    target = _parse_url(url)
    deadline = time.monotonic() + timeout_s
    connection = _connect(target, timeout_s=timeout_s, tls=tls)
    fields = {
        "User-Agent": USER_AGENT,
        "Connection": "close",
        "Accept-Encoding": "identity",
        **(headers or {}),
    }
    late = threading.Event()
    try:
        connection.connect()
        with _cut_off(connection.sock, after_s=deadline - time.monotonic(), late=late):
            connection.request(method, target.path, body=body, headers=fields)
            with contextlib.closing(connection.getresponse()) as response:
                content = _read(response, max_bytes=max_bytes, url=url)
        # A body without a length ends where the connection does: it may be we who cut this one off.
        if late.is_set():
            raise UnavailableError("late")
    except (OSError, http.client.HTTPException, UnavailableError) as error:
        reason = "no whole answer in time" if late.is_set() else error or type(error).__name__
        raise UnavailableError(f"{method} {url}: {reason}") from error
    finally:
        connection.close()
    return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


@contextlib.contextmanager
def _cut_off(connected: socket.socket, *, after_s: float, late: threading.Event) -> Iterator[None]:
    """Shut a connection down when its time is up.

    A socket's own timeout starts anew with every byte: a server that drips would never meet it.
    """

    def shut_down() -> None:
        late.set()
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(after_s, 0.0), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _parse_url(url: str) -> _Target:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MalformedError(f"{url[:200]!r} is not a URL", code="url") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        raise MalformedError(f"{url[:200]!r} is not an http or https URL", code="url")
    if any(ord(char) <= 0x20 or ord(char) >= 0x7F for char in url):
        raise MalformedError(f"{url[:200]!r} holds characters that a URL has not", code="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Target(parts.scheme, parts.hostname, port, path)


def _connect(target: _Target, *, timeout_s: float, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if target.scheme == "http":
        return http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
    context = tls or ssl.create_default_context()
    return http.client.HTTPSConnection(target.host, target.port, timeout=timeout_s, context=context)


def _read(response: http.client.HTTPResponse, *, max_bytes: int, url: str) -> bytes:
    """Read a body of at most ``max_bytes``; a promised length must come."""
    content = bytearray()
    while chunk := response.read1(min(_CHUNK, max_bytes + 1 - len(content))):
        content += chunk
        if len(content) > max_bytes:
            raise MalformedError(f"{url}: the answer is longer than {max_bytes} bytes", code="too-large")
    if response.length:
        raise UnavailableError("the answer was cut off")
    return bytes(content)
