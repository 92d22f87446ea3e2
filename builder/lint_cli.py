"""``assay lint``: what a linter sees in a manifest, for people and for programs."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from assay.builder.lint import Finding, Linted
from assay.builder.lint import lint as lint_manifest
from assay.tlog import strict

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("manifest", type=_FILE)
@click.option(
    "--allow",
    "allowances",
    multiple=True,
    metavar="RULE=REASON",
    help="Let a rule's findings pass, for this reason; repeat for more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def lint(manifest: Path, allowances: tuple[str, ...], as_json: bool) -> int:
    """Name what in MANIFEST gives the host a say, or makes its measurement hard to repeat.

    Exits 0 if nothing was found that is not allowed, else 1. The reasons of a recipe stand in its [[allow]] and are
    published with the release.
    """
    linted = lint_manifest(manifest.read_bytes(), _allowances(allowances))
    if as_json:
        click.echo(json.dumps(_as_json(linted)))
    else:
        _print(linted, dict(item.split("=", 1) for item in allowances))
    if linted.findings:
        click.echo(f"{_counted(linted.findings)} not allowed", err=True)
    return 1 if linted.findings else 0


def _allowances(given: Sequence[str]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for item in given:
        rule, equals, reason = item.partition("=")
        if not equals or rule in parsed:
            raise click.UsageError(f"--allow {strict.shown(item)}: not RULE=REASON, or the rule stands twice")
        parsed[rule] = reason
    return parsed


def _as_json(linted: Linted) -> dict[str, object]:
    return {
        "clean": not linted.findings,
        "findings": [_finding_json(item) for item in linted.findings],
        "allowed": [_finding_json(item) for item in linted.allowed],
        "statement": linted.result.to_json(),
    }


def _finding_json(item: Finding) -> dict[str, str]:
    return {
        "rule": item.rule.name,
        "where": item.where,
        "what": item.what,
        "why": item.rule.why,
        "fix": item.rule.fix,
    }


def _print(linted: Linted, reasons: dict[str, str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for item in linted.findings:
        _line(console, item, "bold red")
        console.print(f"    why: {item.rule.why}\n    fix: {item.rule.fix}", markup=False)
    for item in linted.allowed:
        _line(console, item, "yellow")
        console.print(f"    allowed: {reasons[item.rule.name]}", markup=False)
    console.print(f"{_counted(linted.findings)}, {len(linted.allowed)} allowed", markup=False)


def _line(console: Console, item: Finding, style: str) -> None:
    console.print(Text.assemble((item.rule.name, style), f"  {item.where}: {item.what}"))


def _counted(findings: Sequence[Finding]) -> str:
    return f"{len(findings)} finding{'' if len(findings) == 1 else 's'}"
