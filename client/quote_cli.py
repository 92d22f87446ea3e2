"""``assay verify-quote``: one quote by itself, or many of them on all cores."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from assay.attest import jcs
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE
from assay.attest.quote.sgx import MAX_QUOTE_SIZE
from assay.attest.roots import TrustedRoot
from assay.client.cli import EXIT_REFUSED, EXIT_VERIFIED, Time
from assay.client.render import print_verdict, printable
from assay.client.trust import QuoteRules, load_quote_rules, load_root
from assay.client.verdict import Verdict
from assay.client.verify_quote import judge_one_quote
from assay.tlog import strict

_file = click.Path(path_type=Path, exists=True, dir_okay=False)

_PER_TASK = 16
"""Quotes that a worker process takes at a time."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What every quote of a run is judged with."""

    collateral: bytes
    root: TrustedRoot
    at_s: int
    policy: QuoteRules | None
    report_data: bytes | None
    today: bytes | None
    today_s: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A quote's verdict, and the one of today if there is collateral of today."""

    file: Path
    verdict: Verdict
    today: Verdict | None

    def to_json(self) -> dict[str, jcs.Json]:
        """The verdict, and beside it ``file`` and ``today``."""
        today = None if self.today is None else self.today.to_json()
        return {"file": str(self.file), **self.verdict.to_json(), "today": today}


@click.command("verify-quote")
@click.argument("quotes", metavar="QUOTE...", type=_file, nargs=-1, required=True)
@click.option("--collateral", required=True, type=_file, help="QuoteCollateralV3 as JSON.")
@click.option("--root", "root_name", required=True, metavar="intel|FILE", help="The root to judge under.")
@click.option(
    "--policy", type=_file, help="Rules for TCB states and enclaves: a policy, or its [quotes] alone."
)
@click.option("--at", "at_ms", type=Time(), help="Judge as of this time: RFC 3339 or Unix seconds.")
@click.option("--today", type=_file, help="Collateral of today, for a second verdict as of now.")
@click.option("--report-data", metavar="HEX", help="The 64 bytes that the quote should bind.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Worker processes for many quotes; else one a core."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; of many quotes, a line for each.")
def verify_quote(
    quotes: tuple[Path, ...],
    collateral: Path,
    root_name: str,
    policy: Path | None,
    at_ms: int | None,
    today: Path | None,
    report_data: str | None,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Verify QUOTE (SGX v3, TDX v4 or v5) under a root, with its collateral, at a time.

    Without --policy the evidence alone is judged: the platform's state is reported, whether it is good enough is
    not checked. What a quote does not prove is in docs/threat-model.md.
    """
    now_s = int(time.time())
    rules = Rules(
        collateral=_read(collateral, MAX_COLLATERAL_SIZE),
        root=load_root(root_name),
        at_s=now_s if at_ms is None else at_ms // 1000,
        policy=None if policy is None else load_quote_rules(policy),
        report_data=None
        if report_data is None
        else strict.hex_bytes(report_data, what="--report-data", length=64),
        today=None if today is None else _read(today, MAX_COLLATERAL_SIZE),
        today_s=now_s,
    )
    if rules.policy is not None and rules.policy.root.der != rules.root.der:
        raise click.UsageError(
            f"the policy trusts the root {rules.policy.root.name!r}, not --root {root_name!r}"
        )
    verified = True
    for judged in judge_all(quotes, rules, jobs=jobs):
        verified &= judged.verdict.verified
        _print(judged, as_json=as_json, many=len(quotes) > 1)
    return EXIT_VERIFIED if verified else EXIT_REFUSED


def judge_all(files: Sequence[Path], rules: Rules, *, jobs: int | None = None) -> Iterator[Judged]:
    """Judge quotes in their order; many of them in worker processes, for the library holds the interpreter's lock."""
    processes = min(jobs or os.cpu_count() or 1, -(-len(files) // _PER_TASK))
    if processes <= 1:
        yield from (_judge(file, rules) for file in files)
        return
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(rules,)
    ) as pool:
        yield from pool.map(_judge_in_worker, files, chunksize=_PER_TASK)


_rules: Rules | None = None
"""A worker process's; it is sent once and not with every quote."""


def _begin(rules: Rules) -> None:
    global _rules  # noqa: PLW0603  # a worker process has one run
    _rules = rules


def _judge_in_worker(file: Path) -> Judged:
    assert _rules is not None, "the worker was begun"
    return _judge(file, _rules)


def _judge(file: Path, rules: Rules) -> Judged:
    quote = _read(file, MAX_QUOTE_SIZE)
    verdict = judge_one_quote(
        quote,
        rules.collateral,
        root=rules.root,
        at_s=rules.at_s,
        rules=rules.policy,
        report_data=rules.report_data,
    )
    today = None
    if rules.today is not None:
        today = judge_one_quote(quote, rules.today, root=rules.root, at_s=rules.today_s, rules=rules.policy)
    return Judged(file, verdict, today)


def _read(file: Path, max_size: int) -> bytes:
    """The file's bytes; of one that is too long, one byte more than that, which no parser takes."""
    with file.open("rb") as opened:
        return opened.read(max_size + 1)


def _print(judged: Judged, *, as_json: bool, many: bool) -> None:
    if as_json:
        click.echo(json.dumps(judged.to_json()))
        return
    if many:
        click.echo(f"{judged.file}: {_in_a_line(judged.verdict)}")
        return
    console = Console()
    _print_quote(judged.verdict, console)
    print_verdict(judged.verdict, console)
    if judged.today is not None:
        console.print("\nToday, with the collateral of today:")
        print_verdict(judged.today, console)


def _in_a_line(verdict: Verdict) -> str:
    if not verdict.verified:
        problem = verdict.first_problem()
        return f"NOT VERIFIED: {problem.name}: {printable(problem.detail)}"
    tcb = verdict.facts["tcb"]
    assert isinstance(tcb, dict)
    return f"verified ({verdict.label}), {tcb['status']}"


def _print_quote(verdict: Verdict, console: Console) -> None:
    facts = verdict.facts.get("quote")
    if not isinstance(facts, dict):
        return
    for name, value in facts.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        console.print(Text(f"{name:<14} {printable(shown)}"), soft_wrap=True)
