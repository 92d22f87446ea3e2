"""The fingerprint that does not see order is the merkle-json package's; what is called "order only" is exact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.builder.fingerprint import fingerprint, same_but_for_order

PUBLISHED = [
    ({"keyD": 1, "keyA": 2, "keyC": [4, 3], "keyB": 4}, "7001bd2b415e6a624a23d7bc7c249b21"),
    ({"keyC": [3, 4], "keyA": 2, "keyB": 4, "keyD": 1}, "7001bd2b415e6a624a23d7bc7c249b21"),
    ({"key1": "something", "key2": "otherthing"}, "ff55be553d7bcfbf6233891554378ddd"),
    ({"key1": "something"}, "95f6d042c35c1cedc7e3dea0a255c332"),
    ([{"test": None, "test2": 1}], "0cf3a78d7746983efea449bf54fa8664"),
    ([{"test2": 1}], "c9153ef54418f96e7937f25be9a8c27f"),
]
"""Examples in the README of merkle-json 1.0.0."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(("value", "expected"), PUBLISHED, ids=range(len(PUBLISHED)))
def test_the_fingerprint_is_the_published_one(value, expected):
    assert fingerprint(value) == expected


@given(VALUES.filter(lambda value: "merkleHash" not in repr(value)))
def test_the_package_itself_agrees(value):
    package = pytest.importorskip("merkle_json", reason="merkle-json is not installed")
    assert fingerprint(value) == package.MerkleJson().hash(value, cached=False)


def test_a_member_called_merkle_hash_is_not_believed():
    a, b = ({"x": {"merkleHash": "same", "value": value}} for value in (1, 2))
    assert fingerprint(a) != fingerprint(b)


@given(st.lists(VALUES, max_size=5), st.randoms())
def test_order_changes_neither(items, random):
    shuffled = list(items)
    random.shuffle(shuffled)
    assert fingerprint(items) == fingerprint(shuffled)
    assert same_but_for_order(items, shuffled)


@pytest.mark.parametrize(
    ("a", "b"),
    [([1], ["1"]), ([True], ["True"]), ([None], ["None"]), ({"a": 1}, {"a": "1"})],
    ids=repr,
)
def test_what_the_fingerprint_confuses_is_not_the_same_content(a, b):
    assert fingerprint(a) == fingerprint(b)
    assert not same_but_for_order(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1], [1, 1]),
        ([1, 1, 2], [1, 2, 2]),
        ([[1], [2]], [[1, 2]]),
        ([1], [True]),
        ([], {}),
        ([], None),
        ("a", ["a"]),
        ({"a": [1], "b": [2]}, {"a": [2], "b": [1]}),
        (["a,b"], ["a", "b"]),
        (['a","b'], ["a", "b"]),
    ],
    ids=repr,
)
def test_other_content_is_not_the_same_in_another_order(a, b):
    assert not same_but_for_order(a, b)
    assert not same_but_for_order(b, a)
