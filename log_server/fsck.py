"""``fsck``: everything that a log serves, derived again from its entries up.

Entries give leaf hashes, leaf hashes the bottom tiles, their roots the tiles above, and the last one the root
that the log signed. Every tile of the tree is read and compared; a fault does not end the check, so that one
run tells all of them. Nothing but the running right edge is kept in memory.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from assay.attest.index import Indexed, index_leaf
from assay.fetch.blobs import ReadBlob, blob_path
from assay.log_server.ahead import map_ahead
from assay.log_server.evidence import referred_blobs
from assay.log_server.regrown import Regrown, attempt, read_tile
from assay.tlog import merkle, tiles
from assay.tlog.checkpoint import Checkpoint, verify_checkpoint
from assay.tlog.errors import LogError
from assay.tlog.keys import VerifierKey
from assay.tlog.policy import Policy, verify_cosigned_checkpoint
from assay.tlog.tile_reader import TileSource
from assay.tlog.tiles import TILE_WIDTH, Bundle

MAX_FAULTS = 100
_READS_AT_ONCE = 8
_BLOBS_KEPT = 4096


class Source(TileSource, Protocol):
    """A log, or a copy of one."""

    def read_checkpoint(self) -> bytes:
        """Its newest checkpoint."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong where."""

    path: str
    what: str


@dataclass(slots=True)
class Findings:
    """What a check saw: how much there was, and what was wrong with it (at most 100 faults are kept).

    Attributes:
        kinds: how many entries there are of each kind that this version knows.
        unknown: entries that it does not: no fault, a newer log admits more.
        blobs: different ones that entries refer to and that are what their hash says.
        missing_blobs: different ones that are not there.
    """

    checkpoint: Checkpoint
    entries: int = 0
    tiles: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    blobs: int = 0
    missing_blobs: int = 0
    faults: list[Fault] = field(default_factory=list)
    more_faults: int = 0

    def fault(self, path: str, what: str) -> None:
        """Note a fault."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(path, what))
        else:
            self.more_faults += 1


CheckEntries = Callable[[int, Sequence[tuple[bytes, Indexed | None]]], Iterator[tuple[int, str]]]
"""Looks at entries beyond their hashes: the first one's index, and each one's bytes and index terms (None if this
version does not know its kind); gives the indices of those that are wrong, and what is wrong with them."""


def check_log(
    source: Source,
    *,
    log_keys: Sequence[VerifierKey],
    policy: Policy | None = None,
    read_blob: ReadBlob | None = None,
    check_entries: CheckEntries | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Check a whole log.

    Args:
        source: where its tiles are read.
        log_keys: the log's, all of which must have signed the checkpoint.
        policy: what else the checkpoint must meet: its witnesses' cosignatures, its quorum.
        read_blob: where the evidence is that entries refer to; None to leave it alone.
        check_entries: what else to ask of entries.
        progress: told how many entries of how many have been checked.

    Raises:
        MalformedError, UntrustedError: the checkpoint is not one of this log's; nothing else is looked at.
        UnavailableError: the source cannot be reached, or stopped answering. What it answers not to have is a
            fault instead.
    """
    note = source.read_checkpoint()
    findings = Findings(verify_checkpoint(note, log_keys=log_keys))
    if policy is not None:
        _check_policy(findings, note, policy)
    tree = Regrown(source, findings.checkpoint, fault=findings.fault)
    evidence = None if read_blob is None else _Evidence(findings, read_blob)
    for read in _read_all(source, findings.checkpoint.size):
        _check_bundle(findings, tree, read, check_entries)
        if evidence is not None and not isinstance(read.entries, LogError):
            evidence.check(read.entries)
        if progress:
            done = read.bundle.index * TILE_WIDTH + read.bundle.width
            progress(done, findings.checkpoint.size)
    tree.finish()
    findings.tiles = tree.tiles
    return findings


def _check_policy(findings: Findings, note: bytes, policy: Policy) -> None:
    try:
        verify_cosigned_checkpoint(note, policy)
    except LogError as error:
        findings.fault("checkpoint", str(error))


@dataclass(frozen=True, slots=True)
class _Read:
    """A bundle and its tile as they were read, or why they could not be."""

    bundle: Bundle
    entries: list[bytes] | LogError
    tile: bytes | LogError


def _read_all(source: Source, size: int) -> Iterator[_Read]:
    """All bundles with their tiles, in order, read a few ahead."""

    def read(bundle: Bundle) -> _Read:
        entries = attempt(lambda: tiles.parse_bundle(source.read_bundle(bundle), width=bundle.width))
        return _Read(bundle, entries, attempt(lambda: read_tile(source, bundle.tile)))

    return map_ahead(read, tiles.bundles_of_size(size), threads=_READS_AT_ONCE)


def _check_bundle(findings: Findings, tree: Regrown, read: _Read, check_entries: CheckEntries | None) -> None:
    if isinstance(read.entries, LogError):
        findings.fault(read.bundle.path, str(read.entries))
        tree.add(read.bundle, None, read.tile)
        return
    tree.add(read.bundle, [merkle.leaf_hash(leaf) for leaf in read.entries], read.tile)
    indexed = [(leaf, _index(findings, leaf)) for leaf in read.entries]
    if check_entries is not None:
        for index, what in check_entries(read.bundle.index * TILE_WIDTH, indexed):
            findings.fault(f"entry {index}", what)


def _index(findings: Findings, leaf: bytes) -> Indexed | None:
    findings.entries += 1
    try:
        indexed = index_leaf(leaf)
    except LogError:
        findings.unknown += 1
        return None
    findings.kinds[indexed.kind] = findings.kinds.get(indexed.kind, 0) + 1
    return indexed


class _Evidence:
    """Checks that blobs are what entries say; of those that were checked, the last few thousand are remembered."""

    def __init__(self, findings: Findings, read_blob: ReadBlob) -> None:
        self._findings = findings
        self._read_blob = read_blob
        self._checked: dict[bytes, None] = {}

    def check(self, leaves: Sequence[bytes]) -> None:
        """Check what these entries refer to."""
        for sha256 in dict.fromkeys(each for leaf in leaves for each in referred_blobs(leaf)):
            if sha256 not in self._checked:
                self._check(sha256)
                self._checked[sha256] = None
                if len(self._checked) > _BLOBS_KEPT:
                    del self._checked[next(iter(self._checked))]

    def _check(self, sha256: bytes) -> None:
        data = attempt(lambda: self._read_blob(sha256))
        if data is None:
            self._findings.missing_blobs += 1
        elif isinstance(data, LogError):
            self._findings.fault(blob_path(sha256), str(data))
        elif hashlib.sha256(data).digest() != sha256:
            self._findings.fault(blob_path(sha256), "the blob has another hash")
        else:
            self._findings.blobs += 1
