"""The command that explains why two builds differ."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from assay.builder.diff import compare
from assay.builder.diff_read import read_side
from assay.builder.difference import Change, Difference, Label, Measured, Section
from assay.builder.side import Side
from assay.client.render import printable

_MAX_SHOWN = 20
_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("a", metavar="A", type=_PATH)
@click.argument("b", metavar="B", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def diff(a: Path, b: Path, as_json: bool) -> int:
    """Explain why two enclaves differ: which file, which key of the manifest, which wheel, or order only.

    A and B are builds (folders), releases, manifests or SIGSTRUCTs, in any combination. Nothing in them is
    believed or trusted. Exits 0 if they are the same, 1 if not.
    """
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        sides = [_read(path, bar) for path in (a, b)]
    found = compare(*sides)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        print_difference(found, Console(highlight=False))
    return 0 if found.same else 1


def _read(path: Path, bar: Progress) -> Side:
    task = bar.add_task(printable(f"reading {path.name}"), total=None)

    def progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return read_side(path, progress=progress)


def print_difference(found: Difference, console: Console) -> None:
    """Print a comparison for people; at most 20 changes of each section."""
    for letter, label in (("A", found.a), ("B", found.b)):
        _print(console, _label(letter, label))
    for section in found.sections:
        _print_section(section, console)
    _print(console, Text(f"\nmeasured inputs: {found.measured}", style=_STYLES[found.measured]))
    _print(console, Text(printable(found.cause), style="bold"))


_STYLES = {Measured.EQUAL: "green", Measured.DIFFERENT: "red", Measured.UNKNOWN: "yellow"}


def _label(letter: str, label: Label) -> Text:
    digest = "-" if label.mr_enclave is None else label.mr_enclave.hex()
    return Text(f"{letter}  {label.kind:9} {printable(label.name)}  MRENCLAVE {digest}")


def _print_section(section: Section, console: Console) -> None:
    suffix = "" if section.topic.measured else ", not measured"
    _print(console, Text(f"\n{section.topic} ({section.count}{suffix})", style="bold"))
    for change in section.changes[:_MAX_SHOWN]:
        _print_change(change, console)
    if (more := section.count - _MAX_SHOWN) > 0:
        _print(console, Text(f"  … and {more} more; --json lists them"))


def _print_change(change: Change, console: Console) -> None:
    note = f"  ({printable(change.note)})" if change.note else ""
    _print(console, Text(f"  {printable(change.what)}{note}"))
    if change.a is None and change.b is None:
        return
    for letter, value in (("A", change.a), ("B", change.b)):
        _print(console, Text(f"    {letter} {'-' if value is None else printable(value)}"))


def _print(console: Console, text: Text) -> None:
    # Text takes no markup from what it quotes; soft_wrap leaves lines as they are for pipes.
    console.print(text, soft_wrap=True)
