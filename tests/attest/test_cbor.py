"""Deterministic CBOR: the examples of RFC 8949 Appendix A inside the subset, and a refusal of each outside it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import cbor
from assay.attest.cbor import Tag
from assay.tlog.errors import MalformedError

KEYS = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=9) | st.text(max_size=9)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


def decode(data: bytes):
    return cbor.decode(data, what="x")


def depth_of(value) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(item) for item in [*value, *value.values()]), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 1


@given(VALUES.filter(lambda value: depth_of(value) <= cbor.MAX_DEPTH))
def test_decode_inverts_encode(value):
    assert decode(cbor.encode(value)) == value


@given(st.binary(max_size=40))
def test_what_decodes_encodes_to_the_same_bytes(data):
    try:
        value = decode(data)
    except MalformedError:
        return
    assert cbor.encode(value) == data


@given(VALUES.filter(lambda value: depth_of(value) <= cbor.MAX_DEPTH), st.data())
def test_every_truncation_is_refused(value, data):
    encoded = cbor.encode(value)
    with pytest.raises(MalformedError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


EXAMPLES = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (Tag(0, "2013-03-21T20:04:00Z"), "c074323031332d30332d32315432303a30343a30305a"),
    (Tag(1, 1363896240), "c11a514b67b0"),
    (Tag(2, bytes.fromhex("010000000000000000")), "c249010000000000000000"),
    (Tag(23, bytes.fromhex("01020304")), "d74401020304"),
    (Tag(24, bytes.fromhex("6449455446")), "d818456449455446"),
    (b"", "40"),
    (bytes.fromhex("01020304"), "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("ü", "62c3bc"),
    ("水", "63e6b0b4"),
    ("𐅑", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    (
        {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
        "a56161614161626142616361436164614461656145",
    ),
]


@pytest.mark.parametrize(("value", "encoded"), EXAMPLES, ids=lambda x: x if isinstance(x, str) else None)
def test_examples_of_rfc8949_appendix_a(value, encoded):
    assert cbor.encode(value).hex() == encoded
    assert decode(bytes.fromhex(encoded)) == value
    assert type(decode(bytes.fromhex(encoded))) is type(value)


OUTSIDE = {
    "half float 0.0": "f90000",
    "half float 1.5": "f93e00",
    "single float": "fa47c35000",
    "double float": "fb3ff199999999999a",
    "infinity": "f97c00",
    "NaN": "f97e00",
    "undefined": "f7",
    "simple 16": "f0",
    "simple 0": "e0",
    "simple 24 in two bytes": "f818",
    "simple 255": "f8ff",
    "false in two bytes": "f814",
    "indefinite bytes": "5f42010243030405ff",
    "indefinite text": "7f657374726561646d696e67ff",
    "indefinite array": "9fff",
    "indefinite array with items": "9f018202039f0405ffff",
    "indefinite map": "bf61610161629f0203ffff",
    "break alone": "ff",
    "reserved 28": "1c",
    "reserved 29": "3d",
    "reserved 30": "5e",
    "indefinite integer": "1f",
    "indefinite tag": "df00",
    "nothing": "",
    "two values": "0000",
    "array one short": "830102",
    "map without a value": "a101",
    "tag without a value": "c1",
    "bad UTF-8": "62c328",
    "overlong UTF-8": "62c080",
    "surrogate in UTF-8": "63eda080",
    "UTF-8 cut off": "61c3",
    "unsorted integer keys": "a203040102",
    "negative key before a positive one": "a220010001",
    "shorter text key after a longer one": "a262616101616201",
    "equal keys": "a201020103",
    "equal text keys": "a2616101616102",
    "array as a key": "a1800 0".replace(" ", ""),
    "map as a key": "a1a000",
    "null as a key": "a1f600",
    "true as a key": "a1f500",
    "tag as a key": "a1c10000",
}


@pytest.mark.parametrize("encoded", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_what_the_subset_has_not_is_refused(encoded):
    with pytest.raises(MalformedError):
        decode(bytes.fromhex(encoded))


@pytest.mark.parametrize("major", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    ("info", "size", "argument"),
    [
        (24, 1, 0),
        (24, 1, 23),
        (25, 2, 0),
        (25, 2, 255),
        (26, 4, 0),
        (26, 4, 65_535),
        (27, 8, 0),
        (27, 8, 2**32 - 1),
    ],
)
def test_an_argument_has_only_its_shortest_form(major, info, size, argument):
    head = bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    with pytest.raises(MalformedError, match="shortest"):
        decode(head + bytes(70_000))


@pytest.mark.parametrize("argument", [23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
def test_arguments_around_each_size_keep_their_value(argument):
    assert decode(cbor.encode(argument)) == argument
    assert decode(cbor.encode(-1 - argument)) == -1 - argument
    assert decode(cbor.encode(Tag(argument, None))) == Tag(argument, None)


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("argument", [2**16, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_big_claimed_length_costs_nothing(major, argument):
    data = cbor.encode(argument)
    started = time.perf_counter()
    with pytest.raises(MalformedError, match="ends early"):
        decode(bytes([data[0] | major << 5]) + data[1:] + b"\x00")
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("opening", ["81", "a100", "c1"])
def test_nesting_is_bounded(opening):
    decode(bytes.fromhex(opening) * (cbor.MAX_DEPTH - 1) + b"\x00")
    for depth in (cbor.MAX_DEPTH, 100_000):
        with pytest.raises(MalformedError, match="deep"):
            decode(bytes.fromhex(opening) * depth + b"\x00")


def test_map_keys_are_sorted_by_their_encodings():
    value = {"aa": 0, "b": 0, -1: 0, 100: 0, 10: 0, b"": 0}
    encoded = cbor.encode(value)
    assert encoded.hex() == "a6" + "0a00" + "186400" + "2000" + "4000" + "616200" + "62616100"
    assert list(decode(encoded)) == [10, 100, -1, b"", "b", "aa"]


@pytest.mark.parametrize("value", [1.0, {1}, type, 2**64, -(2**64) - 1, bytearray(b"x")], ids=repr)
def test_encoding_another_type_is_a_fault_of_ours(value):
    with pytest.raises(TypeError):
        cbor.encode(value)
