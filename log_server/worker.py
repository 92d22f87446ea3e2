"""A worker process: one or several logs with their threads, behind one application."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog
from sqlalchemy.exc import SQLAlchemyError

from assay.fetch.serving import end_with_parent
from assay.log_server import config as configuration
from assay.log_server import logs
from assay.log_server.app import create_app, mount
from assay.log_server.config import Config
from assay.log_server.front import Front
from assay.log_server.service import LogService
from assay.log_server.tokens import TokenFile
from assay.tlog.errors import LogError, MalformedError, UnavailableError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_log = structlog.get_logger("worker")

_STORAGE_POLL_S = 1.0

CONFIG_VARIABLE = "ASSAY_LOG_CONFIG_FILES"
"""How the worker is told which configurations to read: paths with the separator of PATH between them."""


def make_app() -> "WSGIApplication":
    """Open the logs, start their threads, and make the application."""
    end_with_parent()
    try:
        return open_logs([Path(name) for name in os.environ[CONFIG_VARIABLE].split(os.pathsep)])
    except LogError as error:
        click.echo(f"error[{error.code}]: {error}", err=True)
        raise SystemExit(1) from error


def open_logs(files: Sequence[Path]) -> "WSGIApplication":
    """The application of all the logs, each under its prefix, started.

    Raises:
        LogError: one of them must not run.
    """
    configs = read_configs(files)
    logs.configure(configs[0].logging)
    mounted = {}
    for file, config in zip(files, configs, strict=True):
        log = _open_when_there(file, config)
        log.start()
        tokens = TokenFile(file.parent / config.access.tokens)
        mounted[config.path_prefix] = Front(create_app(log, tokens=tokens), config=config, tokens=tokens)
    return mount(mounted)


def _open_when_there(file: Path, config: Config) -> LogService:
    """Open a log, and wait for its storage as long as it takes.

    The server checked everything before its first worker. A worker that comes while the database is away, in place of
    another or beside it, must not end in failure: workers that fail one after the other end the server.

    Raises:
        LogError: it must not run.
    """
    while True:
        try:
            return open_log(file, config)
        except UnavailableError as error:
            _log.warning("waiting for storage", origin=config.origin, reason=str(error))
            time.sleep(_STORAGE_POLL_S)


def read_configs(files: Sequence[Path]) -> list[Config]:
    """The configurations of logs that are to share a process.

    Raises:
        MalformedError: one cannot be read, or two share an origin, a key file, a database or a prefix.
    """
    configs = [configuration.load(file) for file in files]
    for what, values in {
        "origin": [config.origin for config in configs],
        "key": [
            str((file.parent / config.key).resolve()) for file, config in zip(files, configs, strict=True)
        ],
        "database": [
            config.database if "://" in config.database else str((file.parent / config.database).resolve())
            for file, config in zip(files, configs, strict=True)
        ],
        "path prefix": [config.path_prefix for config in configs],
    }.items():
        if len(set(values)) != len(values):
            raise MalformedError(f"two of the logs have the same {what}", code="config")
    return configs


def open_log(file: Path, config: Config) -> LogService:
    """One log, checked but not started.

    Raises:
        LogError: it must not run.
    """
    try:
        return LogService(config, folder=file.parent)
    except (SQLAlchemyError, OSError) as error:
        raise UnavailableError(f"{config.origin}: {str(error).splitlines()[0]}", code="storage") from error
