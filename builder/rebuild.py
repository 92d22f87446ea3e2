"""Rebuilding: repeat a published release from its source, compare, and publish the verdict, good or bad.

The release's provenance is found in the log. What it says is checked, not believed: the recipe and the lock
are looked for in the rebuilder's own source by their digests. A failure is a verdict too.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import admission, bundle, entry, signers, statement
from assay.attest.bundle import Bundle
from assay.attest.entry import Attestation
from assay.attest.statement import (
    LOG_TAIL_SIZE,
    MAX_DIFFERENCE_LENGTH,
    MAX_DIFFERENCES,
    Digests,
    Provenance,
    Rebuild,
    Release,
    Statement,
    Verdict,
)
from assay.builder.base import PackageFinder
from assay.builder.build import WheelFinder, build
from assay.builder.compose import Inputs
from assay.builder.diff import compare
from assay.builder.diff_read import read_build
from assay.builder.difference import lines_of
from assay.builder.publish import BUILD_TYPE, attest, digests_of
from assay.builder.recipe import LOCK_FILE, RECIPE_FILE
from assay.builder.side import Side, side_of_release
from assay.client.collect import logged_by_s
from assay.client.judge_log import quorum_time_s
from assay.client.judge_release import verify_publishers
from assay.client.log import Found, LogClient, Submitted
from assay.client.render import printable
from assay.client.trust import Policy
from assay.tlog import merkle
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.tlog_proof import verify_proof

_DIFFERENCES_SIZE = 12_288
"""Bytes of all lines on what differs: with the end of the log they must fit into one statement."""


@dataclass(frozen=True, slots=True)
class Task:
    """A release that was verified to be its publishers', and from what they say it was built."""

    release: Release
    leaf_hash: Hash
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A verdict that is in the log."""

    rebuild: Rebuild
    submitted: Submitted


def release_entry(data: bytes, *, policy: Policy) -> Attestation:
    """The entry in a release file, after verifying that it is its publishers' and in the log.

    Raises:
        MalformedError: no release.
        UntrustedError: not its publishers', or not in the log.
    """
    return _open_release(data, policy)[0]


def open_task(data: bytes, *, policy: Policy, log: LogClient) -> Task:
    """Read a release file, verify it, and find its provenance in the log.

    Raises:
        MalformedError: no release.
        UntrustedError: not its publishers', not in the log, or without provenance (code ``no-provenance``).
        LogError: the log does not answer.
    """
    attestation, release = _open_release(data, policy)
    leaf_hash = entry.leaf_hash_of(attestation)
    for found in log.search({"kind": "attestation", "sha256": release.digests.manifest_sha256.hex()}):
        provenance = _provenance(log, found, release, policy)
        if provenance is not None:
            return Task(release, leaf_hash, provenance)
    raise UntrustedError("the log has no provenance of this release by its publishers", code="no-provenance")


def rebuild(
    task: Task,
    *,
    source: Path,
    key: ec.EllipticCurvePrivateKey,
    log: LogClient,
    find_wheels: WheelFinder,
    find_packages: Callable[[Path], PackageFinder],
    verify_base: bool,
    report: Callable[[str], None],
    now_ms: Callable[[], int],
) -> Rebuilt:
    """Build the release again in a fresh folder and publish the verdict.

    Args:
        task: what to rebuild.
        source: the rebuilder's own checkout.
        key: the rebuilder's.
        log: where the verdict goes.
        find_wheels: gives the wheels of the lock.
        find_packages: for a recipe's folder, gives the packages of its base layer.
        verify_base: prove the base layer's list, instead of believing it.
        report: takes the build's lines, which are also its log.
        now_ms: the clock.

    Raises:
        LogError: the log refuses the verdict or does not answer; the build's own failures are verdicts.
    """
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(printable(line))
        report(lines[-1])

    started_ms = now_ms()
    observed, side = _build(
        task, source, find_wheels=find_wheels, find_packages=find_packages, verify_base=verify_base, note=note
    )
    verdict = _verdict(task.release.digests, observed)
    differences = explain(task, side) if verdict is Verdict.DIFFERENT and side is not None else ()
    for difference in differences:
        note(f"differs: {difference}")
    note(f"verdict: {verdict}")
    text = "\n".join(lines).encode("utf-8", "replace")
    said = Rebuild(
        product=task.release.product,
        release=task.release.release,
        release_leaf=task.leaf_hash,
        verdict=verdict,
        expected=task.release.digests,
        observed=observed,
        differences=differences,
        log_tail=text[-LOG_TAIL_SIZE:].decode("utf-8", "ignore"),
        log_sha256=hashlib.sha256(text).digest(),
        started_ms=started_ms,
        finished_ms=now_ms(),
    )
    signed = attest(Statement(statement.build_subjects(said.expected), said), [key])
    submitted = log.submit(entry.format_entry(signed))
    return Rebuilt(said, submitted)


def explain(task: Task, rebuilt: Side) -> tuple[str, ...]:
    """What differs between a release, as far as it and its provenance tell, and its rebuild; the cause first."""
    found = compare(side_of_release(task.release, task.provenance), rebuilt)
    lines = [printable(line)[:MAX_DIFFERENCE_LENGTH] for line in lines_of(found, max_lines=MAX_DIFFERENCES)]
    sizes = accumulate(len(line.encode()) for line in lines)
    return tuple(line for line, size in zip(lines, sizes, strict=True) if size <= _DIFFERENCES_SIZE)


def _build(
    task: Task,
    source: Path,
    *,
    find_wheels: WheelFinder,
    find_packages: Callable[[Path], PackageFinder],
    verify_base: bool,
    note: Callable[[str], None],
) -> tuple[Digests | None, Side | None]:
    """What the rebuild gave, or twice None if it failed."""
    try:
        recipe = find_recipe(source, task.provenance)
        note(f"recipe: {recipe.relative_to(source)}")
        with tempfile.TemporaryDirectory(prefix="assay-rebuild-") as folder:
            result = build(
                recipe,
                source,
                _inputs(task.provenance),
                Path(folder) / "out",
                find_wheels=find_wheels,
                find_package=find_packages(recipe),
                verify_base=verify_base,
                report=note,
            )
            side = read_build(result.out, progress=lambda done, total: None)
    except (LogError, OSError) as error:
        note(f"failed: {error}")
        return None, None
    return digests_of(result.record), side


def find_recipe(source: Path, provenance: Provenance) -> Path:
    """The folder in the source whose recipe and lock are those of the provenance.

    Raises:
        UntrustedError: there is none (code ``no-recipe``): the source is not that of the release.
    """
    wanted = tuple(str(provenance.external_parameters.get(name)) for name in ("recipe_sha256", "lock_sha256"))
    for path in sorted(source.glob(f"reproducible/*/{RECIPE_FILE}")):
        found = tuple(_sha256(path.with_name(name)) for name in (RECIPE_FILE, LOCK_FILE))
        if found == wanted:
            return path.parent
    raise UntrustedError(
        "no recipe in the source is the one that the release was built from", code="no-recipe"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _inputs(provenance: Provenance) -> Inputs:
    inputs = provenance.external_parameters.get("inputs")
    match inputs:
        case {"ca": str(ca), "log_policy": str(log_policy)}:
            return Inputs(log_policy=log_policy.encode(), ca=ca.encode())
        case _:
            raise MalformedError("the provenance does not hold the build's inputs", code="no-inputs")


def _verdict(expected: Digests, observed: Digests | None) -> Verdict:
    if observed is None:
        return Verdict.FAILED
    return Verdict.REPRODUCED if observed == expected else Verdict.DIFFERENT


def _open_release(data: bytes, policy: Policy) -> tuple[Attestation, Release]:
    parsed: Bundle = bundle.parse_bundle(data)
    attestation = _attestation(parsed.subject.leaf)
    release = admission.verify_attestation(attestation).predicate
    if not isinstance(release, Release):
        raise MalformedError("the file's subject is no release", code="no-release")
    leaf_hash = merkle.leaf_hash(parsed.subject.leaf)
    included = verify_proof(parsed.subject.proof, leaf=leaf_hash, policy=policy.log)
    _require_publishers(attestation, release, policy, lambda: quorum_time_s(included.cosigned))
    return attestation, release


def _attestation(leaf: bytes) -> Attestation:
    parsed = entry.parse_entry(leaf)
    if not isinstance(parsed, Attestation):
        raise MalformedError("the file's subject is no attestation", code="no-release")
    return parsed


def _require_publishers(
    attestation: Attestation, release: Release, policy: Policy, logged_by_s: Callable[[], int]
) -> None:
    verify_publishers(
        release.product,
        signers.key_ids(attestation),
        signers.certificates(attestation),
        policy=policy,
        logged_by_s=logged_by_s,
    )


def _provenance(log: LogClient, found: Found, release: Release, policy: Policy) -> Provenance | None:
    """The provenance in a leaf, if it is one of this release by its publishers; strangers' are passed over."""
    try:
        attestation = _attestation(found.leaf)
        said = admission.verify_attestation(attestation)
        _require_publishers(attestation, release, policy, lambda: logged_by_s(log, found, policy=policy))
    except LogError:
        return None
    if said.subjects != statement.build_subjects(release.digests):
        return None
    if not isinstance(said.predicate, Provenance):
        return None
    return said.predicate if said.predicate.build_type == BUILD_TYPE else None
