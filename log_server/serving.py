"""Serving over HTTP: granian in front, the log in its worker process.

One worker: the sequencer, and all the threads that wait for it, live in it. The worker ends when its parent
does, however that ends, so that no orphan keeps the port or the database.
"""

import os
import threading
import time
from pathlib import Path
from typing import NoReturn

import click
from flask import Flask
from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from assay.log_server import config as configuration
from assay.log_server import migrations
from assay.log_server.app import create_app
from assay.log_server.service import LogService, open_store
from assay.tlog.errors import LogError, MalformedError

_CONFIG_VARIABLE = "ASSAY_LOG_CONFIG_FILE"
_PARENT_POLL_S = 0.5


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``; an IPv6 host stands in brackets.

    Raises:
        MalformedError: not that (code ``address``).
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise MalformedError(f"{text!r} is not HOST:PORT", code="address")
    return host.removeprefix("[").removesuffix("]"), int(port)


def serve(config_file: Path, *, listen: str, threads: int) -> None:
    """Serve the log of a configuration file until a signal stops it."""
    host, port = parse_address(listen)
    config = configuration.load(config_file)
    store = open_store(config, folder=config_file.parent)
    migrations.upgrade(store.engine)
    store.close()
    # Everything that can be refused is refused here, where the message reaches the operator.
    LogService(config, folder=config_file.parent).store.close()
    os.environ[_CONFIG_VARIABLE] = str(config_file)
    click.echo(f"serving {config.origin} on http://{listen}/", err=True)
    Granian(
        "assay.log_server.serving:worker_app",
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        factory=True,
        workers=1,
        blocking_threads=threads,
        backpressure=max(2 * threads, 64),
        log_level=LogLevels.error,
        respawn_failed_workers=False,
        working_dir=Path.cwd(),
    ).serve()


def worker_app() -> Flask:
    """What the worker process serves; called once in it."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    config_file = Path(os.environ[_CONFIG_VARIABLE])
    try:
        log = LogService(configuration.load(config_file), folder=config_file.parent)
    except LogError as error:
        click.echo(f"error[{error.code}]: {error}", err=True)
        raise SystemExit(1) from error
    log.start()
    return create_app(log)


def _end_with_parent(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(1)
