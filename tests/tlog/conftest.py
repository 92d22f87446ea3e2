"""The slow reference: RFC 6962 §2.1 and draft-ietf-plants-merkle-tree-certs §4, transcribed as recursions.

It shares nothing with the code under test but the shape of its results.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import pytest

from assay.tlog.merkle import Hash, Node


def leaf_data(index: int) -> bytes:
    """What the leaves of the test trees hold; no two are equal."""
    return f"leaf {index}".encode()


@cache
def mth(start: int, end: int) -> Hash:
    """MTH(D[start:end])."""
    if start == end:
        return Hash(hashlib.sha256().digest())
    if end - start == 1:
        return Hash(hashlib.sha256(b"\x00" + leaf_data(start)).digest())
    k = split(end - start)
    return Hash(hashlib.sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest())


def split(n: int) -> int:
    """The largest power of two below n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


class Reference:
    """Trees over the leaves ``leaf_data(0)``, ``leaf_data(1)``, …, of any size that a test asks for."""

    leaf_data = staticmethod(leaf_data)
    mth = staticmethod(mth)

    def root(self, size: int) -> Hash:
        return mth(0, size)

    def path(self, index: int, start: int, end: int) -> list[Hash]:
        """PATH(m, D[n]), over a part of the leaves."""
        if end - start == 1:
            return []
        middle = start + split(end - start)
        if index < middle:
            return [*self.path(index, start, middle), mth(middle, end)]
        return [*self.path(index, middle, end), mth(start, middle)]

    def subtree_proof(self, start: int, end: int, size: int) -> list[Hash]:
        """SUBTREE_PROOF(start, end, D[n]); with start 0 it is PROOF(m, D[n]) of RFC 6962."""
        return [] if start == end else self._subproof(start, end, 0, size, known=True)

    def _subproof(self, start: int, end: int, low: int, high: int, *, known: bool) -> list[Hash]:
        if (start, end) == (low, high):
            return [] if known else [mth(low, high)]
        middle = low + split(high - low)
        if end <= middle:
            return [*self._subproof(start, end, low, middle, known=known), mth(middle, high)]
        if start >= middle:
            return [*self._subproof(start, end, middle, high, known=known), mth(low, middle)]
        return [*self._subproof(middle, end, middle, high, known=False), mth(low, middle)]

    def subtrees(self, size: int) -> list[tuple[int, int]]:
        """Every node of every tree up to this size, and every empty range."""
        nodes = {(start, start) for start in range(size + 1)}
        for n in range(1, size + 1):
            self._collect(0, n, nodes)
        return sorted(nodes)

    def _collect(self, low: int, high: int, nodes: set[tuple[int, int]]) -> None:
        nodes.add((low, high))
        if high - low > 1:
            middle = low + split(high - low)
            self._collect(low, middle, nodes)
            self._collect(middle, high, nodes)

    def reader(self, size: int) -> "Reader":
        return Reader(size)


class Reader:
    """A hash reader over one tree, which also checks how it is asked."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls: list[list[Node]] = []

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        assert nodes, "nothing was asked for"
        assert len(set(nodes)) == len(nodes), "a node was asked for twice"
        assert all((node.index + 1) << node.level <= self.size for node in nodes), "beyond the tree"
        self.calls.append(list(nodes))
        return [mth(node.index << node.level, (node.index + 1) << node.level) for node in nodes]


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The slow reference."""
    return Reference()
