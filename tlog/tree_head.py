"""The text of a checkpoint: which log, how many leaves, which root. Nothing here is signed yet.

Apart from the notes that carry it, because the messages of ML-DSA-44 signatures are built from its
three values and notes are verified through those messages. Source: c2sp.org/tlog-checkpoint.
"""

import re
from dataclasses import dataclass

from assay.tlog.errors import MalformedError
from assay.tlog.merkle import HASH_SIZE, Hash, as_hash
from assay.tlog.strict import MAX_DECIMAL, base64_bytes, base64_text, decimal, lines, shown

_ORIGIN = re.compile(r"[^\x00-\x1f]+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of one log: its origin line, its size in leaves, and its root (32 bytes).

    Compare whole checkpoints, never roots alone. A size of 0 with another root than the empty tree's
    can be represented, because a witness has to tell it from malformed bytes; who verifies refuses it.

    Raises:
        MalformedError: an empty origin or one with control characters, a size outside
            [0, 2**63 - 1], or a root of another length.
    """

    origin: str
    size: int
    root: Hash

    def __post_init__(self) -> None:
        check_origin(self.origin)
        if not 0 <= self.size <= MAX_DECIMAL:
            raise MalformedError(f"checkpoint: size {self.size} is out of range")
        as_hash(self.root, what="checkpoint's root")

    @property
    def text(self) -> str:
        r"""The note text: ``<origin>\n<size>\n<base64 root>\n``, without extension lines."""
        return f"{self.origin}\n{self.size}\n{base64_text(self.root)}\n"


def check_origin(origin: str) -> str:
    """Return ``origin`` if it can be a checkpoint's first line.

    Raises:
        MalformedError: empty, or with a newline or another control character.
    """
    if not _ORIGIN.fullmatch(origin):
        raise MalformedError(f"checkpoint: {shown(origin)} is no origin")
    return origin


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse a checkpoint's text; ``.text`` of the result is the same text.

    Extension lines are refused: ML-DSA-44 signatures do not cover them, so they would be words that a
    verifier may believe although nobody signed them.

    Raises:
        MalformedError: not exactly three lines in their one spelling (code ``extension-lines`` when
            there are more).
    """
    rows = lines(text, what="checkpoint")
    if len(rows) > 3:
        raise MalformedError("checkpoint: extension lines are not accepted", code="extension-lines")
    if len(rows) < 3:
        raise MalformedError(f"checkpoint: {len(rows)} lines, not 3")
    size = decimal(rows[1], what="checkpoint's size")
    return Checkpoint(rows[0], size, Hash(base64_bytes(rows[2], what="checkpoint's root", length=HASH_SIZE)))
