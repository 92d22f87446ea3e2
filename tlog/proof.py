"""Inclusion, consistency and subtree proofs over RFC 6962 trees.

One walk from the root down to a range of leaves gives them all::

    inclusion of leaf i                 the walk to [i, i + 1)
    consistency of old with new size    the walk to [0, old)
    consistency of a subtree            the walk to [start, end)
    inclusion in a subtree              the walk to [i, i + 1), begun at [start, end) instead of the root

At each fork the walk takes the side that holds the range and notes the other side as a sibling. When the
range lies across the fork, its left part is the left side as a whole; the walk notes that and goes on with
the part on the right. What is left at the bottom is the seed, which the proof must contain unless it is
the very hash the verifier holds already.

The proof is the hash of the seed (if needed) and of the siblings, lowest first. *Planning* names the nodes
that make them, *computing* reads those nodes from a :class:`HashReader` in one call, *checking* replays the
same walk upwards over hashes of unknown origin. So prover and verifier cannot disagree on the order.

Everywhere ``size`` counts leaves, ``index`` is 0-based, and ranges are ``[start, end)``. A subtree is a
range that occurs as a node of some tree: see :func:`is_subtree`. Sources: RFC 6962 §2.1, and for subtrees
draft-ietf-plants-merkle-tree-certs §4.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.merkle import EMPTY_ROOT, Hash, HashReader, Node, as_hash, node_hash
from assay.tlog.strict import MAX_DECIMAL


class _Side(enum.Enum):
    """Where a sibling stands, seen from what the walk went on with."""

    RIGHT = "behind the range"
    LEFT = "before the range"
    WITHIN = "to the left, and part of the range itself"


class _Sibling(NamedTuple):
    side: _Side
    start: int
    end: int


class _Walk(NamedTuple):
    siblings: list[_Sibling]  # lowest first
    seed: tuple[int, int]
    seed_is_range: bool  # the seed is the whole range, whose hash the verifier holds

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges whose hashes are the proof, in its order."""
        seed = [] if self.seed_is_range else [self.seed]
        return seed + [(start, end) for _, start, end in self.siblings]


def is_subtree(start: int, end: int) -> bool:
    """Whether ``[start, end)`` is a node of the tree of ``end`` leaves, or empty.

    That is so if it starts at 0, or at a multiple of the smallest power of two that is not below its
    length.
    """
    if not 0 <= start <= end:
        return False
    return start in (0, end) or start % (1 << (end - start - 1).bit_length()) == 0


# --- planning: which nodes -------------------------------------------------------------------------


def subtree_nodes(start: int, end: int) -> list[Node]:
    """The largest complete subtrees that make up the subtree ``[start, end)``, left to right."""
    assert is_subtree(start, end)
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def right_edge_nodes(size: int) -> list[Node]:
    """The maximal complete subtrees of the tree, left to right; folded they are its root.

    They are all that a log must keep to append leaves.
    """
    return subtree_nodes(0, size)


def inclusion_nodes(index: int, size: int) -> list[list[Node]]:
    """The plan of an inclusion proof: for each of its hashes, the nodes that fold into it."""
    assert 0 <= index < size
    return _plan(_walk(index, index + 1, 0, size))


def consistency_nodes(old_size: int, new_size: int) -> list[list[Node]]:
    """The plan of a consistency proof: for each of its hashes, the nodes that fold into it."""
    return subtree_consistency_nodes(0, old_size, new_size)


def subtree_consistency_nodes(start: int, end: int, size: int) -> list[list[Node]]:
    """The plan of a subtree consistency proof: for each of its hashes, the nodes that fold into it."""
    assert is_subtree(start, end)
    assert end <= size
    return _plan(_walk(start, end, 0, size)) if start < end else []


def _walk(start: int, end: int, low: int, high: int) -> _Walk:
    """Go down from the subtree ``[low, high)`` to its non-empty part ``[start, end)``, itself a subtree."""
    siblings = []
    seed_is_range = True
    while (low, high) != (start, end):
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        if end <= middle:
            siblings.append(_Sibling(_Side.RIGHT, middle, high))
            high = middle
        elif start >= middle:
            siblings.append(_Sibling(_Side.LEFT, low, middle))
            low = middle
        else:  # across the fork: a subtree begins where the node begins, so its left part is all of it
            siblings.append(_Sibling(_Side.WITHIN, low, middle))
            seed_is_range = False
            start = low = middle
    siblings.reverse()
    return _Walk(siblings, (low, high), seed_is_range)


def _plan(walk: _Walk) -> list[list[Node]]:
    return [subtree_nodes(start, end) for start, end in walk.ranges]


# --- computing: from nodes to proofs and roots -----------------------------------------------------


def tree_root(size: int, reader: HashReader) -> Hash:
    """The root of the tree of the first ``size`` leaves."""
    return subtree_root(0, size, reader)


def subtree_root(start: int, end: int, reader: HashReader) -> Hash:
    """The hash of the subtree ``[start, end)``; of an empty one, the root of the empty tree."""
    if start == end:
        return EMPTY_ROOT
    return _compute([subtree_nodes(start, end)], reader)[0]


def prove_inclusion(*, index: int, size: int, reader: HashReader) -> list[Hash]:
    """Prove that leaf ``index`` is in the tree of ``size`` leaves, ``index < size`` (RFC 6962 §2.1.1)."""
    return _compute(inclusion_nodes(index, size), reader)


def prove_consistency(*, old_size: int, new_size: int, reader: HashReader) -> list[Hash]:
    """Prove that the tree of ``new_size`` leaves extends that of ``old_size`` (RFC 6962 §2.1.2).

    ``old_size <= new_size``. The proof is empty for equal sizes and for an empty old tree.
    """
    return _compute(consistency_nodes(old_size, new_size), reader)


def prove_subtree_inclusion(*, index: int, start: int, end: int, reader: HashReader) -> list[Hash]:
    """Prove that leaf ``index`` of the log is in the subtree ``[start, end)`` that covers it."""
    assert is_subtree(start, end)
    assert start <= index < end
    return _compute(_plan(_walk(index, index + 1, start, end)), reader)


def prove_subtree_consistency(*, start: int, end: int, size: int, reader: HashReader) -> list[Hash]:
    """Prove that the tree of ``size`` leaves, ``end <= size``, contains the subtree ``[start, end)``."""
    return _compute(subtree_consistency_nodes(start, end, size), reader)


def _compute(plan: list[list[Node]], reader: HashReader) -> list[Hash]:
    nodes = [node for part in plan for node in part]
    if not nodes:
        return []
    hashes = reader.read_hashes(nodes)
    if len(hashes) != len(nodes):
        raise AssertionError(f"the hash reader returned {len(hashes)} hashes for {len(nodes)} nodes")
    unused = iter(hashes)
    return [_fold([next(unused) for _ in part]) for part in plan]


def _fold(hashes: list[Hash]) -> Hash:
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


# --- checking --------------------------------------------------------------------------------------


def verify_inclusion(leaf: Hash, *, index: int, size: int, proof: Sequence[Hash], root: Hash) -> Hash:
    """Return ``leaf`` if ``proof`` shows that it is leaf ``index`` of the tree ``(size, root)``.

    Args:
        leaf: the leaf's hash, computed by the caller from the leaf's data. A hash taken from the other
            side would prove nothing: an inner node's hash fits as well, in a smaller tree.
        index: the leaf's place, below ``size``.
        size: number of leaves, from a checkpoint that the caller trusts.
        proof: the sibling hashes, the leaf's own sibling first.
        root: the root, from the same checkpoint.

    Raises:
        MalformedError: no such index or size, another number of hashes, or a hash that is not 32 bytes.
        UntrustedError: the hashes do not lead to the root (code ``inclusion``).
    """
    return verify_subtree_inclusion(leaf, index=index, start=0, end=size, proof=proof, subtree_root=root)


def verify_subtree_inclusion(
    leaf: Hash, *, index: int, start: int, end: int, proof: Sequence[Hash], subtree_root: Hash
) -> Hash:
    """Return ``leaf`` if ``proof`` shows that it is leaf ``index`` of the log, inside ``[start, end)``.

    What places the subtree itself is verify_subtree_consistency, or a cosignature over the subtree.

    Raises:
        MalformedError: no subtree or not its leaf, another number of hashes, or one not of 32 bytes.
        UntrustedError: the hashes do not lead to the subtree's (code ``inclusion``).
    """
    _check_subtree(start, end)
    if not start <= index < end:
        raise MalformedError(f"leaf {index} is not in [{start}, {end})")
    _, computed = _replay(_walk(index, index + 1, start, end), as_hash(leaf, what="leaf hash"), proof)
    if computed != as_hash(subtree_root, what="root"):
        raise UntrustedError(f"leaf {index} is not proved to be in [{start}, {end})", code="inclusion")
    return leaf


def verify_consistency(
    *, old_size: int, old_root: Hash, new_size: int, new_root: Hash, proof: Sequence[Hash]
) -> None:
    """Ensure that the tree ``(new_size, new_root)`` begins with the leaves of ``(old_size, old_root)``.

    Equal sizes need equal roots and no proof. Every tree extends the empty one, again without a proof,
    so of a new tree with leaves nothing is then checked.

    Raises:
        MalformedError: old above new size, another number of hashes, or a hash not of 32 bytes.
        UntrustedError: the hashes do not lead to both roots (code ``consistency``).
    """
    verify_subtree_consistency(
        start=0, end=old_size, subtree_root=old_root, size=new_size, root=new_root, proof=proof
    )
    if old_size == 0:  # then nothing has looked at the new root yet
        as_hash(new_root, what="new root")
    if new_size == 0 and new_root != EMPTY_ROOT:
        raise UntrustedError("a tree without leaves has another root", code="consistency")


def verify_subtree_consistency(
    *, start: int, end: int, subtree_root: Hash, size: int, root: Hash, proof: Sequence[Hash]
) -> None:
    """Ensure that the leaves ``[start, end)`` of the tree ``(size, root)`` hash to ``subtree_root``.

    An empty subtree has the hash of the empty tree and is part of every tree, without a proof: it says
    nothing of ``root``.

    Raises:
        MalformedError: no subtree of that tree, another number of hashes, or a proof hash not of 32 bytes.
        UntrustedError: the hashes do not lead to both roots (code ``consistency``).
    """
    _check_subtree(start, end)
    if not end <= size <= MAX_DECIMAL:
        raise MalformedError(f"[{start}, {end}) is not part of a tree of {size} leaves")
    if start < end:
        inner, outer = _replay(_walk(start, end, 0, size), subtree_root, proof)
    else:
        _check_length(proof, 0)
        inner, outer = EMPTY_ROOT, root
    if inner != subtree_root or outer != root:
        which = "the new root" if inner == subtree_root else "the old root"
        raise UntrustedError(
            f"the proof of [{start}, {end}) in {size} leaves does not lead to {which}", code="consistency"
        )


def _replay(walk: _Walk, known: Hash, proof: Sequence[Hash]) -> tuple[Hash, Hash]:
    """The hashes of the range and of the whole tree that the proof leads to."""
    _check_length(proof, len(walk.ranges))
    hashes = [as_hash(value, what="proof") for value in proof]
    seed = known if walk.seed_is_range else hashes.pop(0)
    inner = outer = seed
    for (side, _, _), sibling in zip(walk.siblings, hashes, strict=True):
        if side is _Side.RIGHT:
            outer = node_hash(outer, sibling)
            continue
        outer = node_hash(sibling, outer)
        if side is _Side.WITHIN:
            inner = node_hash(sibling, inner)
    return inner, outer


def _check_subtree(start: int, end: int) -> None:
    if end > MAX_DECIMAL or not is_subtree(start, end):
        raise MalformedError(f"[{start}, {end}) is not a subtree")


def _check_length(proof: Sequence[Hash], length: int) -> None:
    if len(proof) != length:
        raise MalformedError(f"the proof has {len(proof)} hashes, not {length}")
