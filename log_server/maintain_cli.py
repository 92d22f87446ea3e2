"""``assay log export``, ``fsck`` and ``recover``: copy a log, check one from its entries up, bring one back."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from assay.fetch.blobs import HttpBlobs, ReadBlob, blob_path
from assay.fetch.tiles import HttpTileSource
from assay.log_server import config as configuration
from assay.log_server import fsck as checking
from assay.log_server import recover as recovering
from assay.log_server.cli_options import DIR, FILE, JSON
from assay.log_server.copies import CopySource, open_target
from assay.log_server.export import Exporter
from assay.log_server.fsck import Fault, Findings, Source
from assay.log_server.service import now_ms
from assay.log_server.store import Store
from assay.log_server.store_source import IndexCheck, StoreSource, check_checkpoints
from assay.log_server.wiring import open_store, read_signers
from assay.tlog.errors import UnavailableError
from assay.tlog.keys import VerifierKey, parse_vkey
from assay.tlog.policy import Policy, parse_policy

_TIMEOUT_S = 30.0


@click.command()
@click.argument("target")
@DIR
@JSON
def export(target: str, directory: Path, as_json: bool) -> None:
    """Bring the copy TARGET (a folder or s3://BUCKET/PREFIX) to the newest published checkpoint, once."""
    config = configuration.load(directory / FILE)
    keys = tuple(signer.verifier for signer in read_signers(directory / config.key, origin=config.origin))
    with _open_store(directory) as store, _progress("copying files") as progress:
        exporter = Exporter(store, open_target(target, folder=Path.cwd()), log_keys=keys, interval_s=1)
        done = exporter.round(progress)
    if as_json:
        click.echo(
            json.dumps({"old_size": done.old_size, "new_size": done.new_size, "written": done.written})
        )
    else:
        click.echo(f"{target}: {done.new_size} entries, {done.written} files written")


@click.command()
@click.argument("log", metavar="URL|DIR")
@click.option("--vkey", "vkeys", multiple=True, help="A verifier key of the log; all that sign for it.")
@click.option(
    "--policy", type=click.Path(path_type=Path, dir_okay=False), help="A tlog-policy with the log's keys."
)
@JSON
def fsck(log: str, vkeys: tuple[str, ...], policy: Path | None, as_json: bool) -> int:
    """Check a whole log from its entries up: over HTTP, from a copy, or from its own directory.

    Of a log's own directory (with a log.toml) the database is checked too: hashes, identities, index terms, every
    checkpoint it ever signed. Of any other the newest checkpoint must also meet the policy, if one is given.
    """
    keys, wanted = _trusted(vkeys, policy)
    with _progress("checking entries") as progress:
        if "://" not in log and (Path(log) / FILE).is_file():
            with _open_store(Path(log)) as store:
                found = _check_own(store, keys, progress)
        else:
            source, read_blob = _copy(log)
            found = checking.check_log(
                source, log_keys=keys, policy=wanted, read_blob=read_blob, progress=progress
            )
    _report(log, found, as_json=as_json)
    return 1 if found.faults else 0


def _check_own(store: Store, keys: tuple[VerifierKey, ...], progress: Callable[[int, int], None]) -> Findings:
    index = IndexCheck(store)
    found = checking.check_log(
        StoreSource(store), log_keys=keys, read_blob=store.blob, check_entries=index.check, progress=progress
    )
    index.finish(found)
    check_checkpoints(store, found, log_keys=keys)
    return found


@click.command()
@click.option(
    "--from", "copy", metavar="TILES", required=True, help="A copy of the log: a folder, s3://... or a URL."
)
@DIR
@JSON
def recover(copy: str, directory: Path, as_json: bool) -> None:
    """Make the database of the log in DIR anew from a copy of its tiles, and prove that it is the same tree.

    DIR must hold log.toml and the keys; the anchor must be there, and not ahead of the copy.
    """
    config = configuration.load(directory / FILE)
    source, read_blob = _copy(copy)
    with _progress("recovering entries") as progress:
        done = recovering.recover(
            config, folder=directory, source=source, read_blob=read_blob, now_ms=now_ms(), progress=progress
        )
    size, root = done.checkpoint.size, done.checkpoint.root.hex()
    if as_json:
        click.echo(json.dumps({"size": size, "root": root, "missing_blobs": done.missing_blobs}))
        return
    click.echo(f"recovered {config.origin}: {size} entries, root {root}")
    if done.missing_blobs:
        click.echo(f"warning: the copy lacks {done.missing_blobs} blobs of collateral", err=True)


def _trusted(vkeys: Sequence[str], file: Path | None) -> tuple[tuple[VerifierKey, ...], Policy | None]:
    """The log's keys, and the policy if they came in one."""
    if bool(vkeys) == (file is not None):
        raise click.UsageError("give the log's keys, by --vkey or by --policy")
    if file is None:
        return tuple(parse_vkey(text) for text in vkeys), None
    policy = parse_policy(file.read_bytes())
    return tuple(log.key for log in policy.logs), policy


@contextmanager
def _open_store(directory: Path) -> Iterator[Store]:
    """The database of the log in a directory; none is made."""
    config = configuration.load(directory / FILE)
    store = open_store(config, folder=directory)
    try:
        file = store.database.file
        if file is not None and not file.exists():
            raise UnavailableError(f"there is no database {file}", code="absent")
        yield store
    finally:
        store.close()


def _copy(place: str) -> tuple[Source, ReadBlob]:
    """A copy's tiles, and its blobs."""
    if place.startswith(("http://", "https://")):
        return HttpTileSource(place, timeout_s=_TIMEOUT_S), HttpBlobs(place, timeout_s=_TIMEOUT_S)
    target = open_target(place, folder=Path.cwd())
    return CopySource(target), lambda sha256: target.read(blob_path(sha256))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(log: str, found: Findings, *, as_json: bool) -> None:
    checkpoint = found.checkpoint
    if as_json:
        value = {
            "clean": not found.faults,
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "entries": found.entries,
            "tiles": found.tiles,
            "kinds": found.kinds,
            "unknown": found.unknown,
            "blobs": found.blobs,
            "missing_blobs": found.missing_blobs,
            "faults": [{"path": each.path, "what": each.what} for each in found.faults],
            "more_faults": found.more_faults,
        }
        click.echo(json.dumps(value))
        return
    click.echo(f"{log}: {checkpoint.origin}, size {checkpoint.size}, root {checkpoint.root.hex()}")
    click.echo(f"  {found.entries} entries and {found.tiles} tiles read")
    for kind, count in sorted(found.kinds.items()):
        click.echo(f"  {count} of kind {kind}")
    if found.unknown:
        click.echo(f"  {found.unknown} of kinds that this version does not know")
    if found.blobs or found.missing_blobs:
        click.echo(f"  {found.blobs} blobs of evidence, {found.missing_blobs} missing")
    for fault in found.faults:
        click.echo(f"  FAULT {_shown(fault)}")
    if found.more_faults:
        click.echo(f"  and {found.more_faults} more")
    click.echo("clean" if not found.faults else f"{len(found.faults) + found.more_faults} faults")


def _shown(fault: Fault) -> str:
    return f"{fault.path}: {fault.what}"
