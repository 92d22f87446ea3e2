"""The commands that read what others published."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from assay.attest.gramine.sigstruct import SIGSTRUCT_SIZE, SigStruct
from assay.builder.diff_read import read_bounded
from assay.builder.foreign_log import (
    MAX_PROOFS_SIZE,
    Placed,
    parse_proofs,
    place_by_proofs,
    place_whole_log,
    verify_foreign_checkpoint,
)
from assay.builder.imports import MAX_LEAF_SIZE, Group, Imported, import_leaves, import_sigstruct, summary
from assay.client.render import printable
from assay.tlog.errors import MalformedError
from assay.tlog.keys import parse_vkey
from assay.tlog.merkle import Hash
from assay.tlog.note import MAX_NOTE_SIZE
from assay.tlog.tree_head import Checkpoint

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Report:
    """Everything that was read, and where in the log its leaves are, if that was asked."""

    imported: tuple[Imported, ...]
    checkpoint: Checkpoint | None
    placed: dict[Hash, Placed]

    @property
    def good(self) -> bool:
        """Whether there is something, all of it verifies, and every leaf is in the log if there is one."""
        verified = all(each.refusal is None for each in self.imported)
        return (
            bool(self.imported)
            and verified
            and all(place.index is not None for place in self.placed.values())
        )


@click.group(name="import")
def import_group() -> None:
    """Read and verify what others published."""


@import_group.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_FILE)
@click.option(
    "--checkpoint", type=_FILE, help="The log's checkpoint, to show that the leaves are in the log."
)
@click.option("--vkey", help="The log's key, as a note verifier key; you must know it from elsewhere.")
@click.option("--proofs", type=_FILE, help="Inclusion proofs [default: the files are the whole log].")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def sigstruct(
    files: tuple[Path, ...], checkpoint: Path | None, vkey: str | None, proofs: Path | None, as_json: bool
) -> int:
    """Verify SIGSTRUCTs: Gramine's .sig files, and leaves of a log that holds SIGSTRUCTs, a line each.

    Of each it shows what its signature covers. A valid signature says nothing of whose the key is. Exits 1 if
    any is refused or, with --checkpoint, not shown to be in the log.
    """
    if (checkpoint is None) != (vkey is None) or (proofs is not None and checkpoint is None):
        raise click.UsageError("--checkpoint and --vkey go together, and --proofs needs both")
    head = None if checkpoint is None or vkey is None else _checkpoint(checkpoint, vkey)
    imported = tuple(_import_all(files))
    report = _Report(imported, head, {} if head is None else _place(imported, head, proofs))
    if as_json:
        click.echo(json.dumps(_report_json(report)))
    else:
        _print_report(report, Console(highlight=False))
    return 0 if report.good else 1


def _checkpoint(path: Path, vkey: str) -> Checkpoint:
    return verify_foreign_checkpoint(read_bounded(path, MAX_NOTE_SIZE), parse_vkey(vkey))


def _import_all(files: tuple[Path, ...]) -> Iterator[Imported]:
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for path in files:
            task = bar.add_task(printable(f"verifying {path.name}"), total=None)
            if _is_leaves(path):
                for each in import_leaves(path.name, _lines(path)):
                    bar.advance(task)
                    yield each
            else:
                yield import_sigstruct(path.name, _start(path, SIGSTRUCT_SIZE + 1))


def _is_leaves(path: Path) -> bool:
    return _start(path, 1) == b"{"


def _start(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LEAF_SIZE + 2):
            if len(line) > MAX_LEAF_SIZE + 1:
                raise MalformedError(f"{path}: a line of more than {MAX_LEAF_SIZE} bytes", code="too-large")
            yield line


def _place(imported: tuple[Imported, ...], head: Checkpoint, proofs: Path | None) -> dict[Hash, Placed]:
    hashes = [each.leaf_hash for each in imported if each.leaf_hash is not None]
    if proofs is None:
        places = place_whole_log(hashes, head)
    else:
        places = place_by_proofs(hashes, parse_proofs(read_bounded(proofs, MAX_PROOFS_SIZE)), head)
    return dict(zip(hashes, places, strict=True))


def _report_json(report: _Report) -> dict[str, object]:
    leaves = []
    for each in report.imported:
        place = None if each.leaf_hash is None else report.placed.get(each.leaf_hash)
        leaves.append({**each.to_json(), "log_index": None if place is None else place.index})
    head = report.checkpoint
    return {
        "sigstructs": leaves,
        "summary": [group.to_json() for group in summary(report.imported)],
        "refused": sum(each.refusal is not None for each in report.imported),
        "log": None
        if head is None
        else {
            "origin": head.origin,
            "size": head.size,
            "root": head.root.hex(),
            "included": sum(place.index is not None for place in report.placed.values()),
            "not_included": sum(place.index is None for place in report.placed.values()),
        },
        "ok": report.good,
    }


def _print_report(report: _Report, console: Console) -> None:
    for each in report.imported:
        _print(console, _line(each))
        place = None if each.leaf_hash is None else report.placed.get(each.leaf_hash)
        if place is not None and place.index is None:
            _print(console, Text(f"    not shown to be in the log: {printable(place.reason)}", style="red"))
    _print(console, Text("\nverified, by signer, product, security version:", style="bold"))
    for group in summary(report.imported):
        _print(console, _group(group))
    refused = sum(each.refusal is not None for each in report.imported)
    _print(console, Text(f"{len(report.imported) - refused} verified, {refused} refused"))
    if report.checkpoint is not None:
        included = sum(place.index is not None for place in report.placed.values())
        head = report.checkpoint
        name = printable(head.origin)
        _print(
            console,
            Text(f"{included} of {len(report.placed)} leaves are in the log {name} of size {head.size}"),
        )


def _line(each: Imported) -> Text:
    where = printable(each.file if each.line == 0 else f"{each.file}:{each.line}")
    if each.sigstruct is None:
        reason = "" if each.refusal is None else f"error[{each.refusal.code}]: {each.refusal.reason}"
        return Text.assemble(("✗", "bold red"), f" {where}  {printable(reason)}")
    about = printable(f"{each.description} {each.revision}".strip()[:120])
    return Text.assemble(("✓", "green"), f" {where}  {_fields(each.sigstruct)}  {about}".rstrip())


def _fields(signed: SigStruct) -> str:
    body = signed.body
    debug = " DEBUG" if body.debug_enclave else ""
    product = f"product {body.isv_prod_id} svn {body.isv_svn}"
    return f"{body.mr_enclave.hex()}  {product} flags {body.attribute_flags:#x}{debug} {body.date}"


def _group(group: Group) -> Text:
    debug = ", DEBUG" if group.debug else ""
    counts = f"{group.count} SIGSTRUCTs of {group.enclaves} enclaves"
    return Text(
        f"  {group.mr_signer.hex()}  product {group.isv_prod_id}, svn {group.isv_svn}{debug}: {counts}"
    )


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)
