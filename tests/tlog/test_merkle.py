"""Hashing: RFC 6962 §2.1."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.errors import MalformedError
from assay.tlog.merkle import EMPTY_ROOT, Hash, Node, as_hash, leaf_hash, node_hash, root_of

# The eight inputs and roots with which Certificate Transparency implementations have always been tested.
CT_LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_certificate_transparency_trees(size):
    leaves = [leaf_hash(bytes.fromhex(text)) for text in CT_LEAVES[:size]]
    assert root_of(leaves).hex() == CT_ROOTS[size]


def test_root_agrees_with_the_recursive_definition_for_every_size(reference):
    leaves = [leaf_hash(reference.leaf_data(index)) for index in range(600)]
    for size in range(601):
        assert root_of(leaves[:size]) == reference.root(size)


def test_root_of_leaves_its_argument_alone():
    leaves = [leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")]
    before = list(leaves)
    root_of(leaves)
    assert leaves == before


@given(st.binary(max_size=200))
def test_leaves_and_nodes_are_hashed_with_different_prefixes(data):
    assert leaf_hash(data) == hashlib.sha256(b"\x00" + data).digest()
    left, right = leaf_hash(data), leaf_hash(data + b"x")
    assert node_hash(left, right) == hashlib.sha256(b"\x01" + left + right).digest()
    assert node_hash(left, right) != leaf_hash(left + right)
    assert node_hash(left, right) != node_hash(right, left)


def test_the_empty_root_is_no_leaf():
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT == root_of([])
    assert leaf_hash(b"") != EMPTY_ROOT


@given(st.integers(0, 80).filter(lambda length: length != 32))
def test_only_32_bytes_are_a_hash(length):
    with pytest.raises(MalformedError, match=f"root.*32 bytes, not {length}"):
        as_hash(bytes(length), what="root")


def test_32_bytes_are_a_hash():
    assert as_hash(bytes(range(32)), what="root") == Hash(bytes(range(32)))


def test_nodes_are_values():
    assert {Node(1, 2), Node(level=1, index=2)} == {Node(1, 2)}
    assert Node(0, 5) < Node(1, 0)
    with pytest.raises(AttributeError):
        Node(0, 0).level = 1
