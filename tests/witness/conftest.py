"""A log to be witnessed: its keys, its trees and the requests that it sends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.keys import KeyType, SignerKey, format_key_file
from assay.tlog.merkle import Hash, Node, leaf_hash, root_of
from assay.tlog.note import Note, NoteSignature, format_note
from assay.tlog.proof import prove_consistency
from assay.tlog.witness_protocol import AddCheckpoint, format_add_checkpoint

ORIGIN = "log.example/1"
WITNESS = "witness.example/w"
LOG_SIGNERS = (
    SignerKey(ORIGIN, KeyType.ED25519, bytes([1]) * 32),
    SignerKey(ORIGIN, KeyType.COSIGNATURE_ML_DSA_44, bytes([2]) * 32),
)
WITNESS_SIGNERS = (
    SignerKey(WITNESS, KeyType.COSIGNATURE_ED25519, bytes([3]) * 32),
    SignerKey(WITNESS, KeyType.COSIGNATURE_ML_DSA_44, bytes([4]) * 32),
)


@dataclass(frozen=True)
class Log:
    """A log whose leaves from ``fork_at`` on depend on ``branch``: two branches show two histories."""

    branch: str = "a"
    fork_at: int = 0
    origin: str = ORIGIN
    signers: Sequence[SignerKey] = field(default=LOG_SIGNERS)

    def leaf(self, index: int) -> Hash:
        return leaf_hash(f"{self.branch if index >= self.fork_at else 'common'} {index}".encode())

    def root(self, size: int) -> Hash:
        return root_of([self.leaf(index) for index in range(size)])

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        return [
            root_of([self.leaf(i) for i in range(n.index << n.level, (n.index + 1) << n.level)])
            for n in nodes
        ]

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, self.root(size))

    def note(self, size: int, *others: NoteSignature, checkpoint: Checkpoint | None = None) -> bytes:
        """A signed checkpoint, with lines of others before and after the log's."""
        signed = sign_checkpoint(checkpoint or self.checkpoint(size), self.signers, time_s=1)
        return format_note(Note(signed.text, (*others, *signed.signatures, *others)))

    def proof(self, old: int, new: int) -> tuple[Hash, ...]:
        if not 0 < old <= new:
            return ()
        return tuple(prove_consistency(old_size=old, new_size=new, reader=self))

    def request(self, old: int, new: int, *others: NoteSignature) -> bytes:
        """An honest request to cosign size ``new`` to a witness that is at ``old``."""
        return format_add_checkpoint(AddCheckpoint(old, self.proof(old, new), self.note(new, *others)))


@pytest.fixture(scope="session")
def make_log() -> type[Log]:
    return Log


@pytest.fixture(scope="session")
def log_signers() -> tuple[SignerKey, SignerKey]:
    return LOG_SIGNERS


@pytest.fixture(scope="session")
def witness_signers() -> tuple[SignerKey, SignerKey]:
    return WITNESS_SIGNERS


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A witness's files, ready to be served: it knows the one log."""
    (tmp_path / "witness.key").write_text(format_key_file(WITNESS_SIGNERS))
    (tmp_path / "logs.txt").write_text("".join(f"{signer.verifier}\n" for signer in LOG_SIGNERS))
    file = tmp_path / "witness.toml"
    file.write_text('key = "witness.key"\nstate = "witness.db"\nlogs = "logs.txt"\n')
    return file
