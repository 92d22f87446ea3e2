"""``assay log``: make a log, run it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from assay.fetch import serving
from assay.fetch.pcs import INTEL_PCS_URL, INTEL_ROOT_CRL_URL
from assay.log_server import config as configuration
from assay.log_server import maintain_cli, migrations, operate_cli, run, worker
from assay.log_server.anchor import open_anchor
from assay.log_server.cli_options import FILE
from assay.log_server.sequencer import initialise
from assay.log_server.service import now_ms
from assay.log_server.wiring import open_store
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.errors import MalformedError
from assay.tlog.keys import KeyType, SignerKey, format_key_file
from assay.tlog.merkle import EMPTY_ROOT


@click.group()
def log() -> None:
    """Run a transparency log."""


@log.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--origin", required=True, help="The log's name: a plain host name, or host/path.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Address to serve on, HOST:PORT.")
@click.option(
    "--database",
    default="log.db",
    show_default=True,
    help="SQLite's file, or postgresql+psycopg://... of an empty database.",
)
@click.option("--anchor", help="Where the anchor is: a file, or s3://BUCKET/KEY.  [default: ../DIR.anchor]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def init(directory: Path, origin: str, listen: str, database: str, anchor: str | None, as_json: bool) -> None:
    """Make a new log in DIR: keys, configuration, an empty tree; its anchor beside DIR.

    The first checkpoint is signed when the log is first served, by when its witness policy must be written.
    """
    Checkpoint(origin, 0, EMPTY_ROOT)  # refuses what is no origin before anything is written
    serving.parse_address(listen)
    directory = directory.absolute()
    if (directory / FILE).exists():
        raise MalformedError(f"{directory / FILE}: there is a log already", code="exists")
    directory.mkdir(parents=True, exist_ok=True)
    kinds = (KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44)
    signers = (SignerKey(origin, kinds[0], os.urandom(32)), SignerKey(origin, kinds[1], os.urandom(32)))
    descriptor = os.open(directory / "log.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(format_key_file(signers))
    place = anchor or f"../{directory.name}.anchor"
    (directory / FILE).write_text(_configuration(origin, listen, database=database, anchor=place))
    config = configuration.load(directory / FILE)
    store = open_store(config, folder=directory)
    migrations.upgrade(store.engine)
    initialise(
        store,
        open_anchor(config.anchor, folder=directory),
        signers=signers,
        now_ms=now_ms(),
        published=False,
    )
    store.close()
    _report(directory, origin, [str(signer.verifier) for signer in signers], as_json=as_json)


@log.command()
@click.option(
    "--dir",
    "directories",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A log's directory; several for several logs in one server.",
)
@click.option(
    "--config",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A log's log.toml, if elsewhere.",
)
@click.option("--listen", help="Address to serve on, HOST:PORT, instead of the first log's.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that share the work.")
def serve(
    directories: tuple[Path, ...], files: tuple[Path, ...], listen: str | None, workers: int | None
) -> None:
    """Serve logs until stopped; a log whose origin is host/path is found under /path."""
    paths = [file.absolute() for file in (*(folder / FILE for folder in directories), *files)]
    if not paths:
        raise click.UsageError("give --dir or --config")
    for path in paths:
        if not path.is_file():
            raise click.UsageError(f"{path}: no such file; 'assay log init' makes a log")
    configs = worker.read_configs(paths)
    address = listen or configs[0].listen
    serving.parse_address(address)
    for path, config in zip(paths, configs, strict=True):
        store = open_store(config, folder=path.parent)
        migrations.upgrade(store.engine)
        store.close()
        # Everything that can be refused is refused here, where the message reaches the operator.
        worker.open_log(path, config).store.close()
    os.environ[worker.CONFIG_VARIABLE] = os.pathsep.join(map(str, paths))
    click.echo(f"serving {', '.join(config.origin for config in configs)} on http://{address}/", err=True)
    serving.require_free(address)
    run.become(listen=address, threads=configs[0].threads, workers=workers or configs[0].workers)


for command in (
    maintain_cli.export,
    maintain_cli.fsck,
    maintain_cli.recover,
    operate_cli.check,
    operate_cli.freeze,
    operate_cli.token,
):
    log.add_command(command)


def _configuration(origin: str, listen: str, *, database: str, anchor: str) -> str:
    return (
        f"origin = {json.dumps(origin)}\n"
        'key = "log.key"\n'
        f"database = {json.dumps(database)}\n"
        f"anchor = {json.dumps(anchor)}   # keep it on another disk than this directory\n"
        f"listen = {json.dumps(listen)}\n"
        "\n"
        "# Who must cosign before a checkpoint is published: a C2SP tlog-policy whose witnesses have URLs.\n"
        "# [witnesses]\n"
        '# policy = "witnesses.txt"\n'
        "\n"
        "# Under which roots enclaves may register, and where their collateral is.\n"
        "# [[admission.roots]]\n"
        '# name = "..."\n'
        '# certificate = "root.pem"\n'
        '# collateral = "collateral"   # a folder with <fmspc>.json\n'
        "# # or, instead of the folder, a provisioning service such as Intel's:\n"
        "# [admission.roots.pcs]\n"
        f"# url = {json.dumps(INTEL_PCS_URL)}\n"
        f"# root_crl = {json.dumps(INTEL_ROOT_CRL_URL)}\n"
        '# update = "standard"\n'
    )


def _report(directory: Path, origin: str, vkeys: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"dir": str(directory), "origin": origin, "vkeys": list(vkeys)}))
        return
    click.echo(f"made the log {origin} in {directory}; its public keys are")
    for vkey in vkeys:
        click.echo(f"  {vkey}")
