"""Serving a WSGI application over HTTP: granian in front, the application in its worker processes.

Shared by the daemons. A worker ends when its parent does, however that ends, so that no orphan keeps the
port or the database.
"""

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import NoReturn

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from assay.tlog.errors import MalformedError, UnavailableError

_PARENT = "ASSAY_SERVER_PID"
_PARENT_POLL_S = 0.5
_STOP_TIMEOUT_S = 20
"""How long a worker may take to finish what it took before it is killed, which loses nothing that was answered."""
_CONNECTIONS = 4096
"""Connections that a worker keeps open; a request waits on its own for a thread."""


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``; an IPv6 host stands in brackets.

    Raises:
        MalformedError: not that (code ``address``).
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise MalformedError(f"{text!r} is not HOST:PORT", code="address")
    return host.removeprefix("[").removesuffix("]"), int(port)


def serve_wsgi(factory: str, *, listen: str, threads: int, workers: int = 1) -> None:
    """Serve until a signal stops it.

    Args:
        factory: ``module:function`` that makes the application; called once in each worker. What it needs to
            know it reads from the environment, which the workers inherit.
        listen: ``HOST:PORT``.
        threads: requests that each worker handles at the same time; as many more connections may wait as come.
        workers: processes that share the address.

    Raises:
        UnavailableError: somebody listens there already, or the host is none of ours (code ``address``).
    """
    host, port = parse_address(listen)
    require_free(listen)
    os.environ[_PARENT] = str(os.getpid())
    os.register_at_fork(after_in_child=_end_by_signal)
    Granian(
        factory,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        factory=True,
        workers=workers,
        blocking_threads=threads,
        backpressure=_CONNECTIONS,
        respawn_failed_workers=True,
        respawn_interval=1.0,
        workers_kill_timeout=_STOP_TIMEOUT_S,
        log_level=LogLevels.error,
        working_dir=Path.cwd(),
    ).serve()


def require_free(listen: str) -> None:
    """Refuse an address that is in use; granian would share the port with whoever else lets it.

    Raises:
        UnavailableError: somebody listens there already, or the host is none of ours (code ``address``).
    """
    host, port = parse_address(listen)
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # what a dead server left does not count
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise UnavailableError(f"cannot listen on {host}:{port}: {error}", code="address") from error


def end_with_parent() -> None:
    """From now on, end this process as soon as its parent has ended."""
    # Asked of the environment: the parent may be gone before the worker comes to look who it is.
    parent = int(os.environ.get(_PARENT, os.getppid()))
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _end_by_signal() -> None:
    """Until it has handlers of its own a signal ends a worker, which has taken nothing yet.

    Those that it inherits serve the parent: a server that is stopped while a worker starts would wait for it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _watch(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(1)
