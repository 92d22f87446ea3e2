"""Rate limits per client: by token name, else by address; a network of IPv6 addresses is one client.

Counts are of this process and in memory: with N workers a client may do up to N times as much. What keeps
count is bounded; when it is full, clients that are not yet known share one allowance, so that a flood from
many addresses cannot push the known ones out nor grow the process.
"""

import ipaddress
import threading
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from assay.tlog.errors import UnavailableError

_MAX_CLIENTS = 20_000
_WINDOW_S = 120.0
_SWEEP_S = 1.0
_IPV6_PREFIX = 64
_STRANGERS = "everybody else"


class RateLimitedError(UnavailableError):
    """Too many requests; ``retry_after_s`` says when to come again."""

    code = "rate-limited"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimit:
    """At most so many requests a minute and client.

    Args:
        per_minute: the allowance; 0 means no limit.
        max_clients: how many are told apart.
    """

    def __init__(self, per_minute: int, *, max_clients: int = _MAX_CLIENTS) -> None:
        self._item = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._max_clients = max_clients
        self._known: dict[str, float] = {}
        self._swept = float("-inf")
        self._lock = threading.Lock()

    def spend(self, client: str) -> None:
        """Count a request.

        Raises:
            RateLimitedError: the client has had its allowance.
        """
        if self._item is None:
            return
        name = self._name(client)
        if not self._limiter.hit(self._item, name):
            stats = self._limiter.get_window_stats(self._item, name)
            wait_s = max(1, int(stats.reset_time - time.time()) + 1)
            raise RateLimitedError(
                f"more than {self._item.amount} requests in a minute", retry_after_s=min(wait_s, 60)
            )

    def _name(self, client: str) -> str:
        now = time.monotonic()
        with self._lock:
            if client not in self._known and len(self._known) >= self._max_clients:
                self._sweep(now)
                if len(self._known) >= self._max_clients:
                    return _STRANGERS
            self._known[client] = now
        return client

    def _sweep(self, now: float) -> None:
        """Forget who has not asked for a while; not at every request of a flood, for it costs milliseconds."""
        if now - self._swept < _SWEEP_S:
            return
        self._swept = now
        self._known = {name: seen for name, seen in self._known.items() if now - seen < _WINDOW_S}


def client_address(remote: str, forwarded: str | None, *, trusted_proxies: int) -> str:
    """Who asks, seen through that many proxies of ours.

    Each trusted proxy appends the address that it saw to ``X-Forwarded-For``; what stands further left is the
    client's own invention.
    """
    address = remote
    if trusted_proxies and forwarded:
        seen = [each.strip() for each in forwarded.split(",")]
        address = seen[-min(trusted_proxies, len(seen))]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return remote
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)  # as a socket for both families shows an IPv4 client
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)
