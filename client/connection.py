"""The client's end of the channel: frames over TCP, bounded in size and in time.

The connection itself is trusted with nothing: who is at the other end is settled by evidence, and what is
said is sealed.
"""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from assay.attest import channel, jcs
from assay.tlog import strict
from assay.tlog.errors import LogError, UnavailableError, UntrustedError

_CODE = re.compile(r"[a-z0-9-]{1,64}")
_RETRYABLE = frozenset({"clock-behind", "full", "log-unavailable", "model", "no-quote"})
"""Codes of an enclave's error message after which the same ask may succeed."""


class Connection:
    """One connection, with one deadline over everything that is said on it."""

    def __init__(self, sock: socket.socket, *, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline

    def send(self, message: jcs.Json) -> None:
        """Send one message.

        Raises:
            UnavailableError: the other side is gone or late.
        """
        data = channel.format_frame(message)
        try:
            self._socket.settimeout(self._remaining_s())
            self._socket.sendall(data)
        except OSError as error:
            raise UnavailableError(f"the enclave's host: {error or type(error).__name__}") from error

    def receive(self, *kinds: str) -> jcs.Fields:
        """Read the next message, which must be of one of ``kinds``.

        Raises:
            MalformedError: not a message of the channel.
            UntrustedError: an error message, or one of another kind (code ``channel``).
            UnavailableError: the other side is gone or late, or its error says that it may work later.
        """
        length = channel.frame_length(self._read(channel.FRAME_HEAD_SIZE))
        message = channel.parse_frame(self._read(length))
        kind = message.text("type")
        if kind == "error":
            raise _refusal(message)
        if kind not in kinds:
            raise UntrustedError(f"the enclave's host says {kind!r} out of turn", code="channel")
        return message

    def _read(self, length: int) -> bytes:
        data = bytearray()
        try:
            while len(data) < length:
                self._socket.settimeout(self._remaining_s())
                piece = self._socket.recv(min(length - len(data), 65_536))
                if not piece:
                    raise UnavailableError("the enclave's host closed the connection")
                data += piece
        except OSError as error:
            raise UnavailableError(f"the enclave's host: {error or type(error).__name__}") from error
        return bytes(data)

    def _remaining_s(self) -> float:
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise UnavailableError("the enclave's host did not answer in time")
        return remaining_s


@contextmanager
def connect(address: tuple[str, int], *, timeout_s: float) -> Iterator[Connection]:
    """A connection to an enclave's host, closed at the end.

    Raises:
        UnavailableError: it cannot be reached.
    """
    deadline = time.monotonic() + timeout_s
    try:
        sock = socket.create_connection(address, timeout=timeout_s)
    except OSError as error:
        raise UnavailableError(f"{address[0]}:{address[1]}: {error or type(error).__name__}") from error
    with sock:
        yield Connection(sock, deadline=deadline)


def _refusal(message: jcs.Fields) -> LogError:
    """The error that the other side reports, in its words; anyone on the way could have written them."""
    code, detail = message.value("code"), message.value("detail")
    known = code if isinstance(code, str) and _CODE.fullmatch(code) else "channel"
    said = strict.shown(detail, 200) if isinstance(detail, str) else "no reason given"
    kind = UnavailableError if known in _RETRYABLE else UntrustedError
    return kind(f"the enclave's host reports {known}: {said}", code=known)
