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

from assay.attest import entry, jcs
from assay.attest.entry import Registration
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, format_collateral
from assay.attest.quote.sgx import MAX_QUOTE_SIZE
from assay.attest.roots import TrustedRoot
from assay.attest.roots.pinned import SnpRoot
from assay.client.cli import EXIT_REFUSED, EXIT_VERIFIED, Time
from assay.client.render import print_verdict, printable
from assay.client.trust import EvidenceRules, load_evidence_rules, load_root
from assay.client.verdict import Verdict
from assay.client.verify_quote import judge_one_quote
from assay.client.verify_report import judge_one_report
from assay.fetch.blobs import HttpBlobs
from assay.fetch.collateral_archive import CollateralArchive
from assay.tlog import strict
from assay.tlog.errors import MalformedError

_file = click.Path(path_type=Path, exists=True, dir_okay=False)

_TIMEOUT_S = 30.0

_PER_TASK = 16
"""Quotes that a worker process takes at a time."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What every quote of a run is judged with.

    ``archive`` is the address of a log: then the files are its ``enclave`` entries, each judged with the collateral
    that its appraisal names, and as of the appraisal's time unless ``at_s`` says another.
    """

    collateral: bytes
    archive: str | None
    root: TrustedRoot | SnpRoot
    at_s: int | None
    policy: EvidenceRules | None
    report_data: bytes | None
    crl: bytes | None
    today: bytes | None
    now_s: int


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
@click.option("--collateral", type=_file, help="QuoteCollateralV3 as JSON; for SEV-SNP the chain.")
@click.option(
    "--archive", metavar="URL", help="A log: QUOTE is an entry of it, its archive has the collateral."
)
@click.option(
    "--root", "root_name", required=True, metavar="intel|amd-…|FILE", help="The root to judge under."
)
@click.option("--policy", type=_file, help="Rules: a policy, or its [quotes], or [quotes] and [snp], alone.")
@click.option("--at", "at_ms", type=Time(), help="Judge as of this time: RFC 3339 or Unix seconds.")
@click.option("--today", type=_file, help="Collateral of today, for a second verdict as of now.")
@click.option("--crl", type=_file, help="AMD's revocation list as DER, for SEV-SNP.")
@click.option("--report-data", metavar="HEX", help="The 64 bytes that the quote should bind.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), help="Worker processes for many quotes; else one a core."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; of many quotes, a line for each.")
def verify_quote(
    quotes: tuple[Path, ...],
    collateral: Path | None,
    archive: str | None,
    root_name: str,
    policy: Path | None,
    at_ms: int | None,
    today: Path | None,
    crl: Path | None,
    report_data: str | None,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Verify QUOTE (SGX v3, TDX v4 or v5, or a SEV-SNP report) under a root, with its collateral, at a time.

    With --archive QUOTE is the leaf of an enclave's registration, judged again with what the log judged it with, as
    of then.

    Roots: intel; amd-milan, amd-genoa, amd-turin; or a certificate's file. Without --policy the evidence alone is
    judged: the platform's state is reported, whether it is good enough is not checked. What a quote does not prove
    is in docs/threat-model.md.
    """
    if (collateral is None) == (archive is None):
        raise click.UsageError("give --collateral, or --archive for an entry of a log")
    rules = Rules(
        collateral=b"" if collateral is None else _read(collateral, MAX_COLLATERAL_SIZE),
        archive=archive,
        root=load_root(root_name),
        at_s=None if at_ms is None else at_ms // 1000,
        policy=None if policy is None else load_evidence_rules(policy),
        report_data=None
        if report_data is None
        else strict.hex_bytes(report_data, what="--report-data", length=64),
        crl=None if crl is None else _read(crl, MAX_COLLATERAL_SIZE),
        today=None if today is None else _read(today, MAX_COLLATERAL_SIZE),
        now_s=int(time.time()),
    )
    _require_usable(rules, root_name)
    verified = True
    for judged in judge_all(quotes, rules, jobs=jobs):
        verified &= judged.verdict.verified
        _print(judged, as_json=as_json, many=len(quotes) > 1)
    return EXIT_VERIFIED if verified else EXIT_REFUSED


def _require_usable(rules: Rules, root_name: str) -> None:
    """Refuse options that would be passed over in silence."""
    if isinstance(rules.root, SnpRoot):
        if rules.policy is not None and rules.policy.snp is None:
            raise click.UsageError("the policy has no [snp] rules")
        return
    if rules.crl is not None:
        raise click.UsageError("--crl is for SEV-SNP; the collateral of a quote has its own lists")
    if rules.policy is None:
        return
    if rules.policy.quotes is None:
        raise click.UsageError("the policy has no [quotes] rules")
    if rules.policy.quotes.root.der != rules.root.der:
        raise click.UsageError(
            f"the policy trusts the root {rules.policy.quotes.root.name!r}, not --root {root_name!r}"
        )


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
    evidence, collateral, at_s = _material(file, rules)
    verdict = _verdict(evidence, collateral, rules, at_s=at_s)
    today = None if rules.today is None else _verdict(evidence, rules.today, rules, at_s=rules.now_s)
    return Judged(file, verdict, today)


def _material(file: Path, rules: Rules) -> tuple[bytes, bytes, int]:
    """Evidence, collateral and the time to judge at."""
    if rules.archive is None:
        at_s = rules.now_s if rules.at_s is None else rules.at_s
        return _read(file, MAX_QUOTE_SIZE), rules.collateral, at_s
    registration = entry.parse_entry(_read(file, entry.MAX_LEAF_SIZE))
    if not isinstance(registration, Registration):
        raise MalformedError(f"{file}: not an enclave's registration", code="other-entry")
    appraisal = registration.appraisal
    appraised_s = appraisal.appraised_at_ms // 1000
    archive = CollateralArchive(HttpBlobs(rules.archive, timeout_s=_TIMEOUT_S))
    provided = archive.collateral(appraisal.collateral, appraised_at_s=appraised_s)
    at_s = appraised_s if rules.at_s is None else rules.at_s
    return registration.evidence.quote, format_collateral(provided.collateral), at_s


def _verdict(evidence: bytes, collateral: bytes, rules: Rules, *, at_s: int) -> Verdict:
    if isinstance(rules.root, SnpRoot):
        return judge_one_report(
            evidence,
            collateral,
            root=rules.root,
            at_s=at_s,
            crl=rules.crl,
            rules=rules.policy.snp if rules.policy else None,
            report_data=rules.report_data,
        )
    return judge_one_quote(
        evidence,
        collateral,
        root=rules.root,
        at_s=at_s,
        rules=rules.policy.quotes if rules.policy else None,
        report_data=rules.report_data,
    )


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
    state = f", {tcb['status']}" if tcb["status"] else ""
    return f"verified ({verdict.label}){state}"


def _print_quote(verdict: Verdict, console: Console) -> None:
    facts = verdict.facts.get("quote")
    if not isinstance(facts, dict):
        return
    for name, value in facts.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        console.print(Text(f"{name:<14} {printable(shown)}"), soft_wrap=True)
