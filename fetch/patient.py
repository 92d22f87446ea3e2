"""Asking a service that may be busy: again after a pause, and no longer than one deadline allows."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from assay.fetch import http
from assay.fetch.http import Response
from assay.tlog.errors import UnavailableError

_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 8.0
_BUSY = frozenset({429, 500, 502, 503, 504})
_RETRY_AFTER_DIGITS = 5


class BusyError(UnavailableError):
    """The service asks to be left alone; ``retry_after_s`` is how long, 0 if it did not say."""

    def __init__(self, message: str, *, code: str, retry_after_s: int) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try, and with what.

    Attributes:
        deadline_s: for everything together, pauses included.
        request_timeout_s: for one request.
        tls: how to verify an https server; None means the system's roots.
        clock_s: a clock that never goes back.
        pause: waits so many seconds.
    """

    deadline_s: float = 20.0
    request_timeout_s: float = 8.0
    tls: ssl.SSLContext | None = None
    clock_s: Callable[[], float] = field(default=time.monotonic, repr=False)
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    def begin(self) -> "PatientClient":
        """A client whose time runs from now."""
        return PatientClient(self, end_s=self.clock_s() + self.deadline_s)


class PatientClient:
    """GETs under one deadline."""

    def __init__(self, patience: Patience, *, end_s: float) -> None:
        self._patience = patience
        self._end_s = end_s

    def get(self, url: str, *, max_bytes: int, headers: Mapping[str, str] | None = None) -> Response:
        """GET, again while the service is busy or does not answer; any other answer is returned as it is.

        ``Retry-After`` in seconds is heeded. If it or the next pause would pass the deadline, there is no more
        waiting: whoever waits for us would wait in vain.

        Raises:
            MalformedError: an unusable URL (code ``url``), or a longer body (code ``too-large``).
            UnavailableError: no answer in time; a :class:`BusyError` if the service was busy (code
                ``collateral-source``).
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            refusal = self._refused(url, max_bytes=max_bytes, headers=headers)
            if isinstance(refusal, Response):
                return refusal
            wait_s = max(pause_s, refusal.retry_after_s)
            if wait_s >= self._left_s():
                raise refusal
            self._patience.pause(wait_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _refused(
        self, url: str, *, max_bytes: int, headers: Mapping[str, str] | None
    ) -> Response | BusyError:
        timeout_s = min(self._patience.request_timeout_s, self._left_s())
        if timeout_s <= 0:
            return BusyError(f"GET {url}: no time left", code="collateral-source", retry_after_s=0)
        try:
            response = http.request(
                "GET", url, timeout_s=timeout_s, max_bytes=max_bytes, headers=headers, tls=self._patience.tls
            )
        except UnavailableError as error:
            return BusyError(str(error), code="collateral-source", retry_after_s=0)
        if response.status not in _BUSY:
            return response
        return BusyError(
            f"GET {url}: HTTP {response.status}",
            code="collateral-source",
            retry_after_s=_retry_after_s(response.headers.get("retry-after", "")),
        )

    def _left_s(self) -> float:
        return self._end_s - self._patience.clock_s()


def _retry_after_s(text: str) -> int:
    """The seconds of a ``Retry-After`` (RFC 9110 §10.2.3); 0 for a date, which needs two clocks that agree."""
    if not text.isascii() or not text.isdigit() or len(text) > _RETRY_AFTER_DIGITS:
        return 0
    return int(text)
