"""``assay witness``: run a witness, tell it of logs."""

import os
from pathlib import Path

import click

from assay.fetch import serving
from assay.tlog.errors import MalformedError
from assay.tlog.keys import parse_vkey
from assay.witness import config as configuration
from assay.witness import worker

_CONFIG = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The witness's TOML file.",
)


@click.group()
def witness() -> None:
    """Run a witness that cosigns checkpoints."""


@witness.command()
@_CONFIG
@click.option("--listen", help="Address to serve on, HOST:PORT, instead of the configured one.")
def serve(file: Path, listen: str | None) -> None:
    """Serve until stopped."""
    file = file.absolute()
    config = configuration.load(file)
    address = listen or config.listen
    serving.parse_address(address)
    name = worker.check(file)
    os.environ[worker.CONFIG_VARIABLE] = str(file)
    click.echo(f"witness {name} on http://{address}/", err=True)
    serving.serve_wsgi(worker.FACTORY, listen=address, threads=config.threads)


@witness.command("add-log")
@click.argument("vkeys", metavar="VKEY...", nargs=-1, required=True)
@_CONFIG
def add_log(vkeys: tuple[str, ...], file: Path) -> None:
    """Let the witness cosign for a log, given all of its keys.

    Adding is for good. A log that is listed already is left as it is if the keys are the same and refused if
    they are not: rotating a log's keys is not done by adding some.
    """
    path = file.parent / configuration.load(file).logs
    known = configuration.parse_logs(path.read_text("utf-8")) if path.exists() else {}
    added = configuration.parse_logs(configuration.format_logs([parse_vkey(vkey) for vkey in vkeys]))
    for origin, keys in added.items():
        if origin in known:
            if set(known[origin]) != set(keys):
                raise MalformedError(f"{origin} is listed already, with other keys", code="exists")
            click.echo(f"{origin} was listed already")
            continue
        with path.open("a", encoding="utf-8") as lines:
            lines.write(configuration.format_logs(keys))
        click.echo(f"added {origin}; restart the witness to let it cosign")
