"""The platform under the agent: who makes its quotes, and what its sealed state is bound to.

Under Gramine both are files of ``/dev/attestation`` and an encrypted mount. The simulated device, a process of
the host, stands in for them over a socket and is no protection of anything.
"""

import socket
import threading
from pathlib import Path
from typing import Protocol

from assay.tlog.errors import UnavailableError

REPORT_DATA_SIZE = 64
SEAL_KEY_SIZE = 16
MAX_QUOTE_SIZE = 8192
"""Gramine's own bound."""

DEVICE_TIMEOUT_S = 10.0
QUOTE_REQUEST = b"Q"
"""A byte, then 64 bytes of report data; the answer is u32 big-endian length ‖ quote."""
SEAL_REQUEST = b"S"
"""A byte; the answer is u32 big-endian length ‖ 16 bytes bound to device and MRENCLAVE."""


class Platform(Protocol):
    """What an enclave gets from the machine it runs on."""

    def quote(self, report_data: bytes) -> bytes:
        """A quote over this enclave's report with the given 64 bytes in it.

        Raises:
            UnavailableError: the platform gives none (code ``no-quote``).
        """
        ...

    def seal_key(self) -> bytes | None:
        """16 bytes that only this measurement on this machine gets; None if the file system seals already."""
        ...


class SgxPlatform:
    """Gramine's attestation files.

    Gramine produces a quote when ``quote`` is opened, from what was last written to ``user_report_data``, and
    keeps one such state for the whole process: hence one lock, one write of all 64 bytes, then the read.

    Args:
        base: ``/dev/attestation``.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lock = threading.Lock()

    def quote(self, report_data: bytes) -> bytes:
        """See :class:`Platform`."""
        assert len(report_data) == REPORT_DATA_SIZE
        try:
            with self._lock:
                with (self._base / "user_report_data").open("wb", buffering=0) as file:
                    if file.write(report_data) != REPORT_DATA_SIZE:
                        raise OSError("user_report_data was not taken whole")
                with (self._base / "quote").open("rb") as file:
                    quote = file.read(MAX_QUOTE_SIZE + 1)
        except OSError as error:
            raise UnavailableError(f"the platform gives no quote: {error}", code="no-quote") from error
        if not 0 < len(quote) <= MAX_QUOTE_SIZE:
            raise UnavailableError("the platform gives an empty or oversized quote", code="no-quote")
        return quote

    def seal_key(self) -> None:
        """The state directory is an encrypted mount keyed by MRENCLAVE: sealing twice would add nothing."""
        return


class SimulatedPlatform:
    """The simulated device's socket.

    Args:
        path: a Unix socket that serves one measurement.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def quote(self, report_data: bytes) -> bytes:
        """See :class:`Platform`."""
        assert len(report_data) == REPORT_DATA_SIZE
        return self._ask(QUOTE_REQUEST + report_data)

    def seal_key(self) -> bytes:
        """See :class:`Platform`."""
        key = self._ask(SEAL_REQUEST)
        if len(key) != SEAL_KEY_SIZE:
            raise UnavailableError("the simulated device gives no seal key", code="no-quote")
        return key

    def _ask(self, request: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(DEVICE_TIMEOUT_S)
                connection.connect(self._path)
                connection.sendall(request)
                with connection.makefile("rb") as stream:
                    length = int.from_bytes(stream.read(4), "big")
                    answer = stream.read(length) if length <= MAX_QUOTE_SIZE else b""
        except OSError as error:
            raise UnavailableError(
                f"the simulated device does not answer: {error}", code="no-quote"
            ) from error
        if not answer or len(answer) != length:
            raise UnavailableError("the simulated device answers with nothing", code="no-quote")
        return answer
