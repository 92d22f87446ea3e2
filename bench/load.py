"""The load generator: many keep-alive HTTP/1.1 connections from one thread, cheap enough to share the cores.

It sends prepared requests as fast as the answers come and keeps what each answer took. An ordinary HTTP
client costs more than the server it would measure.
"""

import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What a run saw: the seconds that each good answer took, and how many answers had each status."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    kept: list[bytes] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.waits) / self.seconds

    def quantile_ms(self, part: float) -> float:
        """A quantile of the waits, in milliseconds."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000


def request(method: str, path: str, *, body: bytes = b"", headers: str = "") -> bytes:
    """The bytes of one request."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: log\r\n{headers}{length}\r\n".encode() + body


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    target: int = 0
    began: float = 0.0
    buffer: bytes = b""
    needed: int = -1


def run(
    ports: list[int],
    requests: Iterator[bytes],
    *,
    connections: int,
    seconds: float,
    good: set[int],
    keep: int = 0,
) -> Outcome:
    """Drive ``connections`` connections, spread over ``ports``, until the time is up or the requests end.

    Args:
        ports: of servers on loopback.
        requests: what to send next; shared by all connections.
        connections: how many are open at a time; each has one request under way.
        seconds: how long new requests are sent; those under way are waited for.
        good: the statuses that count as answers.
        keep: how many bodies of good answers to keep.
    """
    outcome = Outcome()
    selector = selectors.EpollSelector()
    opened = [_Connection(_connect(ports[number % len(ports)])) for number in range(connections)]
    for connection in opened:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    began = time.perf_counter()
    deadline = began + seconds
    busy = sum(_send(connection, requests) for connection in opened)
    while busy:
        events = selector.select(timeout=30)
        if not events:
            raise SystemExit("the server stopped answering")
        for key, _ in events:
            connection = key.data
            answer = _receive(connection)
            if answer is None:
                continue
            status, body = answer
            now = time.perf_counter()
            outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
            if status in good:
                outcome.waits.append(now - connection.began)
                if len(outcome.kept) < keep:
                    outcome.kept.append(body)
            if now > deadline or not _send(connection, requests):
                busy -= 1
    outcome.seconds = time.perf_counter() - began
    for connection in opened:
        connection.socket.close()
    return outcome


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _send(connection: _Connection, requests: Iterator[bytes]) -> bool:
    data = next(requests, None)
    if data is None:
        return False
    connection.buffer, connection.needed = b"", -1
    connection.began = time.perf_counter()
    connection.socket.sendall(data)
    return True


def _receive(connection: _Connection) -> tuple[int, bytes] | None:
    data = connection.socket.recv(262_144)
    if not data:
        raise SystemExit("the server closed a connection")
    connection.buffer += data
    if connection.needed < 0:
        end = connection.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = connection.buffer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        length = 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])
        connection.needed = end + 4 + length
    if len(connection.buffer) < connection.needed:
        return None
    status = int(connection.buffer[9:12])
    return status, connection.buffer[connection.buffer.find(b"\r\n\r\n") + 4 :]
