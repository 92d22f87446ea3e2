"""Salted commitments: every field opens alone, and nothing else opens as it."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest import merkle_json
from assay.attest.merkle_json import FIELDS, commit, parse_openings, verify_opening
from assay.tlog.errors import LogError, MalformedError, UntrustedError


def salts(byte: int = 0) -> dict[str, bytes]:
    return {name: bytes([byte + position]) * 32 for position, name in enumerate(FIELDS)}


def reference_root(values, field_salts) -> bytes:
    """The root, written out from the layout and RFC 6962 §2.1."""
    import json

    def leaf(name: str) -> bytes:
        text = json.dumps(values.get(name), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        data = b"assay-field-v1" + field_salts[name]
        for part in (name.encode(), text.encode()):
            data += len(part).to_bytes(8, "big") + part
        return hashlib.sha256(b"\x00" + data).digest()

    def mth(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        k = 1
        while k * 2 < len(leaves):
            k *= 2
        return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()

    return mth([leaf(name) for name in FIELDS])


VALUES = st.dictionaries(
    st.sampled_from(FIELDS),
    st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text("ab ℵ", max_size=9) | st.just({"a": [1]}),
)


@settings(max_examples=60)
@given(VALUES, st.integers(0, 200))
def test_the_root_is_that_of_the_layout(values, byte):
    assert commit(values, salts(byte)).root == reference_root(values, salts(byte))


def test_the_fields_are_these_and_their_order_is_fixed():
    assert tuple(sorted(FIELDS)) == FIELDS
    assert set(FIELDS) == {
        "delegation",
        "key_release",
        "model",
        "nonce",
        "parameters",
        "parent_receipts",
        "prompt",
        "result",
        "tool_calls",
    }


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_opens_alone(make, name):
    made = make.commitments()
    assert set(made.openings) == set(FIELDS)
    opening = made.openings[name]
    assert verify_opening(opening, root=made.root) == make.values().get(name)
    only = parse_openings({name: opening.to_json()}, what="x")
    assert list(only) == [name]
    assert verify_opening(only[name], root=made.root) == make.values().get(name)


@pytest.mark.parametrize("name", FIELDS)
def test_anything_else_than_what_was_committed_is_refused(make, name):
    made = make.commitments()
    good = made.openings[name]
    wrong = [
        replace(good, value={"other": 1}),
        replace(good, value="" if good.value is None else None),
        replace(good, salt=bytes(32)),
        replace(good, salt=bytes([good.salt[0] ^ 1]) + good.salt[1:]),
        *(
            replace(good, path=(*good.path[:i], bytes(32), *good.path[i + 1 :]))
            for i in range(len(good.path))
        ),
        *([replace(good, path=good.path[::-1])] if len(good.path) > 1 else []),
        *(replace(good, name=other) for other in FIELDS if other != name),
    ]
    for opening in wrong:
        with pytest.raises(LogError) as caught:
            verify_opening(opening, root=made.root)
        assert caught.value.code in ("commitment", "malformed")
    with pytest.raises(UntrustedError) as caught:
        verify_opening(good, root=commit({}, salts()).root)
    assert caught.value.code == "commitment"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "prompts"},
        {"name": ""},
        {"salt": b""},
        {"salt": bytes(31)},
        {"salt": bytes(33)},
        {"path": ()},
        {"value": 0.5},
        {"value": "\ud800"},
    ],
    ids=repr,
)
def test_malformed_openings_are_refused(make, change):
    made = make.commitments()
    with pytest.raises(LogError):
        verify_opening(replace(made.openings["prompt"], **change), root=made.root)


def test_paths_of_another_length_are_refused(make):
    made = make.commitments()
    for opening in made.openings.values():
        for path in (opening.path[:-1], (*opening.path, bytes(32)), opening.path * 2):
            with pytest.raises(LogError):
                verify_opening(replace(opening, path=path), root=made.root)


def test_the_salt_hides_equal_values():
    same = commit(dict.fromkeys(FIELDS, "x"), salts())
    again = commit(dict.fromkeys(FIELDS, "x"), salts(100))
    assert same.root != again.root
    leaves = {merkle_json._leaf(name, "x", salts()[name]) for name in FIELDS}
    assert len(leaves) == len(FIELDS)


def test_the_shape_does_not_tell_which_fields_exist(make):
    for values in ({}, {"prompt": "x"}, dict.fromkeys(FIELDS, 1)):
        made = commit(values, salts())
        assert [len(made.openings[name].path) for name in FIELDS] == [4] * 8 + [1]
        assert len(made.root) == 32
    assert commit({"prompt": None}, salts()).root == commit({}, salts()).root


def test_name_value_and_salt_do_not_run_into_each_other():
    """Moving a byte over a border gives another leaf: every part but the fixed ones has its length."""
    a = merkle_json._leaf("ab", "c", bytes(32))
    assert a != merkle_json._leaf("a", "bc", bytes(32))
    assert a != merkle_json._leaf("ab", ["c"], bytes(32))


@pytest.mark.parametrize(
    ("values", "field_salts"),
    [
        ({"unknown": 1}, salts()),
        ({}, {}),
        ({}, {name: bytes(32) for name in FIELDS[1:]}),
        ({}, {**salts(), "unknown": bytes(32)}),
        ({}, {**salts(), "prompt": bytes(31)}),
        ({"prompt": 1.5}, salts()),
        ({"prompt": 2**53}, salts()),
    ],
)
def test_what_has_no_layout_is_not_committed_to(values, field_salts):
    with pytest.raises(MalformedError):
        commit(values, field_salts)


def test_openings_round_trip(make):
    made = make.commitments().openings
    value = {name: opening.to_json() for name, opening in made.items()}
    assert parse_openings(value, what="x") == made


@pytest.mark.parametrize(
    "change",
    [
        {"path": None},
        {"path": ["AA=="]},
        {"path": [1]},
        {"path": [None] * 9},
        {"path": ["!"]},
        {"salt": None},
        {"salt": ""},
        {"salt": "AAAA"},
        {"extra": 1},
    ],
    ids=repr,
)
def test_malformed_openings_do_not_parse(make, change):
    good = make.commitments().openings["prompt"].to_json()
    with pytest.raises(MalformedError):
        parse_openings({"prompt": {**good, **change}}, what="x")
    for member in good:
        without = {key: value for key, value in good.items() if key != member}
        with pytest.raises(MalformedError):
            parse_openings({"prompt": without}, what="x")


@pytest.mark.parametrize("value", [None, [], "x", {"other": {}}, {"prompt": None}, {"prompt": []}], ids=repr)
def test_other_json_is_no_openings(value):
    with pytest.raises(MalformedError):
        parse_openings(value, what="x")
