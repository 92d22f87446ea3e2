"""A lean client of Anthropic's Messages API: one POST, its server-sent events, and nothing from the environment.

The CA and the host name are measured; where that host is may be the untrusted host's word, since TLS checks
who answers. Retries happen before the first piece of text only: a half-given answer is not given twice.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from assay.attest import jcs
from assay.tlog.errors import UnavailableError, UntrustedError

API_VERSION = "2023-06-01"
MAX_RESULT_SIZE = 512 * 1024
"""As JSON text: escapes count, so that the sealed answer always fits into a frame."""

_MAX_EVENT = 256 * 1024
_CHUNK = 65_536
_RETRIED = frozenset({429, 500, 502, 503, 529})
_ATTEMPTS = 3
_MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Model:
    """Where the model's API is and how it proves itself.

    Attributes:
        host: the name that the certificate must bear.
        ca_pem: the only certificates that are believed.
        address: (host, port) to connect to instead of (host, 443), or None.
        api_key: sent as ``x-api-key``.
        timeout_s: for the whole answer.
    """

    host: str
    ca_pem: str
    address: tuple[str, int] | None
    api_key: str = field(repr=False)
    timeout_s: float = 120.0

    def answer(self, request: jcs.Json, *, delta: Callable[[str], None]) -> str:
        """Send a request and return the whole text; ``delta`` gets each piece as it comes.

        Raises:
            UnavailableError: unreachable, overloaded after three attempts, late, or cut off (code ``model``).
            UntrustedError: the API refuses the request (code ``model-refused``).
        """
        deadline = time.monotonic() + self.timeout_s
        body = jcs.canonical({**request, "stream": True})
        for attempt in range(1, _ATTEMPTS + 1):
            connection = _Connection(self, deadline=deadline)
            try:
                response = self._post(connection, body)
                if response.status == 200:
                    return _collect(_events(_lines(connection, response)), delta)
                pause_s = _pause_s(response, attempt)
                _refuse_for_good(response)
            finally:
                connection.close()
            if attempt == _ATTEMPTS or time.monotonic() + pause_s >= deadline:
                break
            time.sleep(pause_s)
        raise _unavailable("the model's API is overloaded")

    def _post(self, connection: "_Connection", body: bytes) -> http.client.HTTPResponse:
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "anthropic-version": API_VERSION,
            "x-api-key": self.api_key,
            "connection": "close",
        }
        try:
            connection.request("POST", "/v1/messages", body=body, headers=headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _silent(error) from error


class _Connection(http.client.HTTPSConnection):
    """TLS to the measured name under the measured CA, at whatever address; every wait ends at the deadline."""

    def __init__(self, model: Model, *, deadline: float) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._tls.load_verify_locations(cadata=model.ca_pem)
        self._address = model.address or (model.host, 443)
        self._deadline = deadline
        self._response: http.client.HTTPResponse | None = None
        self._stream: ssl.SSLSocket | None = None
        super().__init__(model.host, context=self._tls)

    def connect(self) -> None:
        plain = socket.create_connection(self._address, timeout=self.remaining_s())
        try:
            self._stream = self._tls.wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise
        self.sock = self._stream

    def getresponse(self) -> http.client.HTTPResponse:
        self._response = super().getresponse()
        return self._response

    def read_some(self, response: http.client.HTTPResponse) -> bytes:
        """The next bytes of the body; none at its end."""
        if self._stream is not None:
            self._stream.settimeout(self.remaining_s())
        return response.read1(_CHUNK)

    def remaining_s(self) -> float:
        """What is left until the deadline.

        Raises:
            TimeoutError: nothing.
        """
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        return remaining_s

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        super().close()


def _refuse_for_good(response: http.client.HTTPResponse) -> None:
    if response.status not in _RETRIED:
        raise UntrustedError(f"the model's API refuses the request ({response.status})", code="model-refused")


def _pause_s(response: http.client.HTTPResponse, attempt: int) -> float:
    """What the API asks us to wait, bounded; else twice as long each time."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = response.getheader(name, "")
        if text.isascii() and text.isdigit() and len(text) < 8:
            return min(int(text) * unit_s, _MAX_PAUSE_S)
    return min(0.25 * (1 << attempt), _MAX_PAUSE_S)


def _lines(connection: _Connection, response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body's whole lines, as they come, without their ends."""
    rest = b""
    while True:
        try:
            piece = connection.read_some(response)
        except (OSError, http.client.HTTPException) as error:
            raise _silent(error) from error
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MAX_EVENT:
            raise _unavailable("the model's API sends a line without end")
        yield from (line.removesuffix(b"\r") for line in lines)


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of each event; names before it say nothing that ``type`` does not."""
    data = bytearray()
    for line in lines:
        if line.startswith(b"data:"):
            data += line[5:] + b"\n"
            if len(data) > _MAX_EVENT:
                raise _unavailable("the model's API sends an event without end")
        elif not line and data:
            yield _event(bytes(data))
            data.clear()


def _event(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _unavailable("the model's API sends an event that is no JSON") from error
    if not isinstance(value, dict):
        raise _unavailable("the model's API sends an event that is no object")
    return value


def _collect(events: Iterator[dict[str, Any]], delta: Callable[[str], None]) -> str:
    pieces: list[str] = []
    size = 0
    for event in events:
        match event:
            case {"type": "content_block_delta", "delta": {"type": "text_delta", **rest}}:
                text = _text(rest.get("text"))
                size += len(jcs.canonical(text))
                if size > MAX_RESULT_SIZE:
                    raise _unavailable("the model's answer is too long")
                pieces.append(text)
                delta(text)
            case {"type": "message_stop"}:
                return "".join(pieces)
            case {"type": "error"}:
                raise _unavailable("the model's API fails in the middle of an answer")
            case _:
                continue
    raise _unavailable("the model's answer was cut off")


def _text(value: object) -> str:
    """A piece of the answer: Unicode scalar values only, since it will be hashed and signed as UTF-8."""
    if not isinstance(value, str) or any(0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise _unavailable("the model's API sends a piece that is no text")
    return value


def _silent(error: Exception) -> UnavailableError:
    return _unavailable(f"the model's API does not answer: {type(error).__name__}")


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError(message, code="model")
