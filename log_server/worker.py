"""The worker process of a log: the service with its threads, behind the application."""

import os
from pathlib import Path

import click
from flask import Flask

from assay.fetch.serving import end_with_parent
from assay.log_server import config as configuration
from assay.log_server.app import create_app
from assay.log_server.service import LogService
from assay.tlog.errors import LogError

CONFIG_VARIABLE = "ASSAY_LOG_CONFIG_FILE"
"""How the worker is told which configuration to read."""

FACTORY = "assay.log_server.worker:make_app"


def make_app() -> Flask:
    """Open the log, start its threads, and make its application."""
    end_with_parent()
    config_file = Path(os.environ[CONFIG_VARIABLE])
    try:
        log = LogService(configuration.load(config_file), folder=config_file.parent)
    except LogError as error:
        click.echo(f"error[{error.code}]: {error}", err=True)
        raise SystemExit(1) from error
    log.start()
    return create_app(log)
