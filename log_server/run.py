"""The parent of a server's workers: ``python -m assay.log_server.run``, as ``assay log serve`` becomes once all is checked.

A program of its own for two reasons: it stays small, because the workers fork from it, and what their C library
and their counters read from the environment is there before they begin.
"""

import os
import shutil
import sys
import tempfile
from typing import NoReturn

from assay.fetch import serving

FACTORY = "assay.log_server.worker:make_app"
_COUNTERS = "PROMETHEUS_MULTIPROC_DIR"


def become(*, listen: str, threads: int, workers: int) -> NoReturn:
    """Replace this process by the server; ``worker.CONFIG_VARIABLE`` is set already."""
    environment = {
        **os.environ,
        _COUNTERS: tempfile.mkdtemp(prefix="assay-metrics-"),
        # A hundred threads would each keep a heap of their own.
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
    }
    arguments = [sys.executable, "-m", "assay.log_server.run", listen, str(threads), str(workers)]
    os.execve(sys.executable, arguments, environment)  # noqa: S606  # our own program, no shell wanted


def main() -> None:
    """Serve until a signal stops it."""
    listen, threads, workers = sys.argv[1:]
    try:
        serving.serve_wsgi(FACTORY, listen=listen, threads=int(threads), workers=int(workers))
    finally:
        shutil.rmtree(os.environ[_COUNTERS], ignore_errors=True)


if __name__ == "__main__":
    main()
