"""Hashing of RFC 6962 Merkle trees with SHA-256.

leaf hash = SHA-256(00 ‖ data); node hash = SHA-256(01 ‖ left ‖ right); the root of the empty tree is
SHA-256 of nothing. A tree of n > 1 leaves splits at the largest power of two below n (RFC 6962 §2.1).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

from assay.tlog.errors import MalformedError

Hash = NewType("Hash", bytes)
"""32 bytes: the SHA-256 hash of a leaf, of a node or of a whole tree."""

HASH_SIZE = 32

EMPTY_ROOT = Hash(hashlib.sha256(b"").digest())
"""The root of the tree without leaves."""


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """A complete subtree: the leaves ``[index << level, (index + 1) << level)``.

    Level 0 nodes are leaf hashes. Such a node never changes once the tree covers it, which is why
    proofs are planned over nodes and storage is one method that reads them.
    """

    level: int
    index: int


class HashReader(Protocol):
    """Where node hashes come from: a database, tiles, or a list in memory."""

    def read_hashes(self, nodes: Sequence[Node]) -> Sequence[Hash]:
        """The hashes of ``nodes``, in their order.

        The caller asks only for nodes that the tree it names covers completely. An implementation
        raises if it has not got one; it never returns fewer or placeholder values.
        """
        ...


def as_hash(value: bytes, *, what: str) -> Hash:
    """Check the length of a hash that came from outside.

    Raises:
        MalformedError: not 32 bytes.
    """
    if len(value) != HASH_SIZE:
        raise MalformedError(f"{what}: a hash has {HASH_SIZE} bytes, not {len(value)}")
    return Hash(value)


def leaf_hash(data: bytes) -> Hash:
    """The hash of a leaf's data (RFC 6962 §2.1)."""
    return Hash(hashlib.sha256(b"\x00" + data).digest())


def node_hash(left: Hash, right: Hash) -> Hash:
    """The hash of an inner node (RFC 6962 §2.1)."""
    return Hash(hashlib.sha256(b"\x01" + left + right).digest())


def root_of(leaf_hashes: Sequence[Hash]) -> Hash:
    """The root of a whole tree, from all its leaf hashes.

    Linear time and one list; the right edge's odd node is carried up unhashed, which equals the
    recursive definition because every left subtree is complete.
    """
    if not leaf_hashes:
        return EMPTY_ROOT
    level = list(leaf_hashes)
    while len(level) > 1:
        carried = level[-1:] if len(level) % 2 else []
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + carried
    return level[0]
