"""``recover``: a log's database made anew from a copy of its tiles, and proved to be the same tree.

Every entry is authenticated against the copy's checkpoint before it is written; identities, index terms and
tiles are derived from the entries. The database becomes the log's only when the recomputed root is the signed
one and the anchor is not ahead.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from assay.attest.admission import Admitted
from assay.attest.index import index_leaf
from assay.log_server import anchor as anchors
from assay.log_server import migrations, wiring
from assay.log_server.batch import Batch
from assay.log_server.config import Config
from assay.log_server.database import replacing
from assay.log_server.evidence import referred_blobs
from assay.log_server.files import sync_folder
from assay.log_server.fsck import Source
from assay.log_server.rows import StoredCosignature
from assay.log_server.store import Store
from assay.tlog import note as notes
from assay.tlog import proof
from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint, verify_checkpoint
from assay.tlog.cosignature import verify_cosignature
from assay.tlog.errors import InconsistentError, LogError, MalformedError, UntrustedError
from assay.tlog.keys import VerifierKey
from assay.tlog.note import Note
from assay.tlog.policy import Policy, verify_cosigned_checkpoint
from assay.tlog.tile_reader import TileReader

_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was recovered: the checkpoint, and how many blobs the copy did not have."""

    checkpoint: Checkpoint
    missing_blobs: int


def recover(
    config: Config,
    *,
    folder: Path,
    source: Source,
    read_blob: Callable[[bytes], bytes | None],
    now_ms: int,
    progress: Callable[[int, int], None] | None = None,
) -> Recovered:
    """Make a log's database from a copy.

    Args:
        config: the log's; its keys, its anchor and its witness policy are at hand, its database is not.
        folder: what the configuration's relative paths are relative to.
        source: the copy's tiles.
        read_blob: the copy's blobs by SHA-256; None for one that it has not got.
        now_ms: the clock.
        progress: told how many entries of how many are written.

    Raises:
        MalformedError: there is a database with entries already (code ``exists``).
        MalformedError: a server runs on the database (code ``serving``).
        UntrustedError: the copy is not this log's, or its tiles do not hash to its checkpoint; or there is no
            anchor (code ``no-anchor``).
        InconsistentError: the anchor is ahead of the copy (code ``behind-anchor``).
        UnavailableError: the copy cannot be read.
    """
    signers = wiring.read_signers(folder / config.key, origin=config.origin)
    log_keys = tuple(signer.verifier for signer in signers)
    policy = wiring.read_witness_policy(config, folder=folder)
    note = source.read_checkpoint()
    checkpoint = verify_checkpoint(note, log_keys=log_keys)
    anchored = _anchored(config.anchor, folder=folder)
    _require_anchored(checkpoint, anchored, log_keys)
    with ExitStack() as opened:
        target = _Target(config, folder)
        store = target.open()
        opened.callback(store.close)
        with store.write() as batch:
            # One transaction on a server, so that a crash leaves it empty; SQLite's file only counts once renamed.
            _require_still_empty(batch)
            missing = _fill(batch, source, checkpoint, read_blob, now_ms=now_ms, progress=progress)
            _require_continued(batch, anchored, log_keys)
            _sign(batch, checkpoint, note, log_keys=log_keys, policy=policy, now_ms=now_ms)
    target.keep()
    return Recovered(checkpoint, missing)


class _Target:
    """The database under construction: for SQLite a file beside the log's, for a server the empty database."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._final = None if "://" in config.database else folder / config.database

    def open(self) -> Store:
        """A migrated, empty store.

        Raises:
            MalformedError: the log's database is there and has entries (code ``exists``).
        """
        self._require_empty()
        if self._final is None:
            return wiring.open_store(self._config, folder=self._folder)
        for name in self._files(self._draft):
            name.unlink(missing_ok=True)  # of a recovery that was interrupted
        store = Store(f"sqlite:///{self._draft}")
        migrations.upgrade(store.engine)
        return store

    def keep(self) -> None:
        """Make it the log's database.

        Raises:
            MalformedError: a server runs on the one that it would replace (code ``serving``).
        """
        if self._final is None:
            return
        try:
            with replacing(self._final):
                for name in self._files(self._final):
                    name.unlink(missing_ok=True)
                self._draft.rename(self._final)
                sync_folder(self._final.parent)
        except BlockingIOError as error:
            raise MalformedError(
                f"a server runs on {self._final}; stop it first, or it would go on with what is replaced",
                code="serving",
            ) from error

    @property
    def _draft(self) -> Path:
        assert self._final is not None
        return self._final.with_name(self._final.name + ".recovering")

    @staticmethod
    def _files(path: Path) -> list[Path]:
        return [path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", ".lock"))]

    def _require_empty(self) -> None:
        if self._final is not None and not self._final.exists():
            return
        store = wiring.open_store(self._config, folder=self._folder)
        try:
            migrations.upgrade(store.engine)
            size = store.latest().size
        except LookupError:
            size = 0
        finally:
            store.close()
        if size:
            raise MalformedError(
                f"the database holds {size} entries; move it away before recovering into its place",
                code="exists",
            )


def _anchored(place: str, *, folder: Path) -> bytes:
    try:
        return anchors.open_anchor(place, folder=folder).read()
    except FileNotFoundError as error:
        raise UntrustedError(
            f"there is no anchor at {place}: without it nothing tells whether the copy is the newest. Bring it back, "
            "or put the newest checkpoint of the log there that you can find, from its witnesses for instance",
            code="no-anchor",
        ) from error


def _require_anchored(checkpoint: Checkpoint, anchored: bytes, log_keys: tuple[VerifierKey, ...]) -> None:
    known = verify_checkpoint(anchored, log_keys=log_keys)
    if known.size > checkpoint.size:
        raise InconsistentError(
            f"the anchor is at size {known.size}, the copy only at {checkpoint.size}: entries are missing that the log "
            "has answered for. Recover from a newer copy",
            evidence={"anchor": anchored, "copy": checkpoint.text.encode()},
            code="behind-anchor",
        )


def _fill(
    batch: Batch,
    source: Source,
    checkpoint: Checkpoint,
    read_blob: Callable[[bytes], bytes | None],
    *,
    now_ms: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Write all entries; returns how many blobs the copy did not have."""
    missing = 0
    start = 0
    entries = TileReader(source, size=checkpoint.size, root=checkpoint.root).read_entries(0, checkpoint.size)
    while leaves := list(islice(entries, _AT_ONCE)):
        admitted = [_admitted(leaf, read_blob) for leaf in leaves]
        missing += sum(absent for _, absent in admitted)
        batch.append(start, [item for item, _ in admitted], now_ms=now_ms)
        start += len(leaves)
        if progress:
            progress(start, checkpoint.size)
    if start != checkpoint.size or proof.tree_root(start, batch.hashes()) != checkpoint.root:
        raise UntrustedError("the copy's entries do not give the signed root", code="root")
    return missing


def _require_continued(batch: Batch, anchored: bytes, log_keys: tuple[VerifierKey, ...]) -> None:
    """The anchor's tree is the beginning of the copy's."""
    known = verify_checkpoint(anchored, log_keys=log_keys)
    if proof.tree_root(known.size, batch.hashes()) != known.root:
        raise InconsistentError(
            f"the copy is not a continuation of the tree of size {known.size} in the anchor",
            evidence={"anchor": anchored},
            code="behind-anchor",
        )


def _require_still_empty(batch: Batch) -> None:
    try:
        size = batch.latest().size
    except LookupError:
        return
    if size:
        raise MalformedError("the database was filled by somebody else", code="exists")
    batch.forget()


def _admitted(leaf: bytes, read_blob: Callable[[bytes], bytes | None]) -> tuple[Admitted, int]:
    """A leaf as it was admitted once, and how many of its blobs are missing."""
    try:
        indexed = index_leaf(leaf)
    except LogError as error:
        raise UntrustedError(
            f"the copy has an entry that this version cannot index: {error}", code="unknown-kind"
        ) from error
    wanted = referred_blobs(leaf)
    blobs = tuple(_blobs(wanted, read_blob))
    return Admitted(leaf, indexed.identity, indexed.kind, indexed.terms, blobs), len(wanted) - len(blobs)


def _blobs(wanted: Sequence[bytes], read_blob: Callable[[bytes], bytes | None]) -> Iterator[bytes]:
    for sha256 in wanted:
        data = read_blob(sha256)
        if data is not None and hashlib.sha256(data).digest() == sha256:
            yield data


def _sign(
    batch: Batch,
    checkpoint: Checkpoint,
    note: bytes,
    *,
    log_keys: tuple[VerifierKey, ...],
    policy: Policy | None,
    now_ms: int,
) -> None:
    """Keep the copy's checkpoint as the log's newest; nothing is signed anew, nor published that no quorum cosigned."""
    signed = parse_signed_checkpoint(note).note
    own = tuple(line for line in signed.signatures if any(line.is_by(key) for key in log_keys))
    batch.identify(checkpoint.origin, [str(key) for key in log_keys])
    batch.sign(
        checkpoint, notes.format_note(Note(signed.text, own)), now_ms=now_ms, published=_is_met(note, policy)
    )
    for line in signed.signatures:
        for witness in policy.witnesses if policy else ():
            if line.is_by(witness.key):
                kept = verify_cosignature(checkpoint, line, witness.key)
                key = witness.key
                batch.keep_cosignature(
                    checkpoint.size, StoredCosignature(key.name, key.key_id, line.line, kept.time_s)
                )


def _is_met(note: bytes, policy: Policy | None) -> bool:
    if policy is None:
        return True
    try:
        verify_cosigned_checkpoint(note, policy)
    except LogError:
        return False
    return True
