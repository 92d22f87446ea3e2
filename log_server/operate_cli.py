"""``assay log freeze``, ``assay log check`` and ``assay log token``: what an operator does to a log at rest or running."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from assay.log_server import config as configuration
from assay.log_server import worker
from assay.log_server.cli_options import DIR, FILE, JSON
from assay.log_server.service import now_ms
from assay.log_server.tokens import TokenFile
from assay.log_server.wiring import open_store


@click.command()
@DIR
@JSON
def check(directory: Path, as_json: bool) -> None:
    """Check all that a start checks: configuration, keys, database, anchor, witnesses. Nothing is changed."""
    file = directory.absolute() / FILE
    (config,) = worker.read_configs([file])
    log = worker.open_log(file, config)
    size = log.store.latest().size
    log.store.close()
    if as_json:
        click.echo(json.dumps({"origin": config.origin, "size": size}))
    else:
        click.echo(f"{config.origin}: {size} entries; it may be served")


@click.command()
@DIR
@JSON
def freeze(directory: Path, as_json: bool) -> None:
    """Take no more entries, for good. Running servers notice at once; reads go on."""
    config = configuration.load(directory / FILE)
    store = open_store(config, folder=directory)
    frozen_ms = store.freeze(now_ms=now_ms())
    size = store.latest().size
    store.close()
    if as_json:
        click.echo(json.dumps({"origin": config.origin, "frozen": frozen_ms, "size": size}))
    else:
        click.echo(f"{config.origin} is frozen at {size} entries, since {_moment(frozen_ms)}")


@click.group()
def token() -> None:
    """API tokens for writing; they guard the log's capacity and say nothing about entries."""


@token.command()
@click.argument("name")
@DIR
@JSON
def new(name: str, directory: Path, as_json: bool) -> None:
    """Make a token and print it: it is shown this once and kept nowhere."""
    text = _tokens(directory).create(name, now_ms=now_ms())
    click.echo(json.dumps({"name": name, "token": text}) if as_json else text)


@token.command(name="list")
@DIR
@JSON
def list_tokens(directory: Path, as_json: bool) -> None:
    """The tokens' names and when they were made."""
    tokens = _tokens(directory).tokens()
    if as_json:
        click.echo(json.dumps([{"name": each.name, "created": each.created_ms} for each in tokens]))
        return
    for each in tokens:
        click.echo(f"{each.name}\t{_moment(each.created_ms)}")


@token.command()
@click.argument("name")
@DIR
@JSON
def revoke(name: str, directory: Path, as_json: bool) -> None:
    """Remove a token. Running servers notice at once."""
    _tokens(directory).revoke(name)
    click.echo(json.dumps({"name": name, "revoked": True}) if as_json else f"the token {name!r} is revoked")


def _tokens(directory: Path) -> TokenFile:
    return TokenFile(directory / configuration.load(directory / FILE).access.tokens)


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
