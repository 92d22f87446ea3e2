"""Canonical JSON: one spelling in, the same spelling out, and nothing that two readers could read in two ways."""

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import jcs
from assay.tlog.errors import MalformedError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-jcs.MAX_INTEGER, jcs.MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def parse(data: bytes):
    return jcs.parse_json(data, what="x", max_bytes=100_000)


def parse_canonical(data: bytes):
    return jcs.parse_canonical(data, what="x", max_bytes=100_000)


@given(JSON)
def test_parse_inverts_canonical(value):
    assert parse_canonical(jcs.canonical(value)) == value


@given(JSON, st.randoms(use_true_random=False))
def test_a_changed_byte_is_refused_or_another_value(value, random):
    data = bytearray(jcs.canonical(value))
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    try:
        changed = parse_canonical(bytes(data))
    except MalformedError:
        return
    assert jcs.canonical(changed) == data
    assert jcs.canonical(changed) != jcs.canonical(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        # RFC 8785 §3.2.3: keys in the order of UTF-16 code units, where a supplementary character comes
        # before U+FB33 although its code point is higher
        (
            {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7},
            '{"\\r":2,"1":4,"\x80":6,"ö":7,"€":1,"😀":5,"\ufb33":3}'.encode(),
        ),
        # RFC 8785 §3.2.2.2: the two-letter escapes, lower-case \u00xx, and no other escape
        ('€$\x0f\nA\'B"\\\\"/', b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
        ("\b\t\n\f\r\x00\x1f\x7f\u2028", b'"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\xe2\x80\xa8"'),
        ([], b"[]"),
        ({}, b"{}"),
        ([True, False, None], b"[true,false,null]"),
        (-1, b"-1"),
        (2**53 - 1, b"9007199254740991"),
        (-(2**53) + 1, b"-9007199254740991"),
    ],
)
def test_canonical_form_is_that_of_the_standard(value, expected):
    assert jcs.canonical(value) == expected
    assert parse_canonical(expected) == value


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        [1, {"a": 0.5}],
        2**53,
        -(2**53),
        "\ud800",
        {"\udfff": 1},
        b"bytes",
        {1: 2},
        {None: 1},
        {b"k": 1},
        {("a",): 1},
        {1, 2},
        type,
    ],
    ids=repr,
)
def test_what_has_no_exact_json_is_not_encoded(value):
    with pytest.raises(MalformedError):
        jcs.canonical(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 2",
        "1,",
        "{}{}",
        "[1,]",
        '{"a":1,}',
        "{'a':1}",
        "{a:1}",
        "1.0",
        "-1.5",
        "1e2",
        "1E2",
        "1e400",
        "-0.0",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "True",
        "+1",
        "01",
        "0x10",
        "1_000",
        "٣",
        "9007199254740992",
        "-9007199254740992",
        "9" * 5000,
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":2}',
        '{"x":{"a":1,"b":2,"a":3}}',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '{"\\ud800":1}',
        '["\\udfff"]',
        '"\t"',
        '"\\x41"',
        '"open',
        "\ufeff1",
        "1//",
        "/**/1",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_no_json_of_ours_in_any_spacing(text):
    with pytest.raises(MalformedError):
        parse(text.encode())


@pytest.mark.parametrize(
    "data", [b"\xff", b'"\xc0\x80"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", "1".encode("utf-16"), b"\x00"]
)
def test_bytes_that_are_not_utf8_json_are_refused(data):
    with pytest.raises(MalformedError):
        parse(data)


@pytest.mark.parametrize(
    "text",
    [
        " 1",
        "1 ",
        "1\n",
        "\t1",
        "-0",
        '{"a": 1}',
        '{"b":1,"a":2}',
        '{"\ufb33":1,"😀":2}',
        '"\\u0061"',
        '"\\/"',
        '"\\u00e9"',
        '"\\u000A"',
        '"\\u000a"',
        '"\\u001F"',
        '"\\u007f"',
        '"\\ud83d\\ude00"',
        "[1, 2]",
        "[ ]",
    ],
    ids=ascii,
)
def test_another_spelling_is_read_by_one_parser_and_refused_by_the_other(text):
    parse(text.encode())
    with pytest.raises(MalformedError) as caught:
        parse_canonical(text.encode())
    assert caught.value.code == "not-canonical"


def test_normalization_forms_are_different_texts():
    assert parse_canonical('"é"'.encode()) != parse_canonical('"e\u0301"'.encode())


def nested(depth: int, opening: bytes = b"[", inner: bytes = b"", closing: bytes = b"]") -> bytes:
    return opening * depth + inner + closing * depth


def test_nesting_is_bounded_by_a_number_of_ours():
    assert parse_canonical(nested(jcs.MAX_DEPTH))
    assert parse_canonical(nested(jcs.MAX_DEPTH, b'{"a":', b"1", b"}"))
    for depth in (jcs.MAX_DEPTH + 1, 500, 990, 20_000):
        for data in (nested(depth), nested(depth, b'{"a":', b"1", b"}")):
            with pytest.raises(MalformedError):
                jcs.parse_canonical(data, what="x", max_bytes=1_000_000)


def test_nesting_is_refused_alike_however_deep_the_caller_is():
    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
            return
        assert parse_canonical(nested(jcs.MAX_DEPTH))
        with pytest.raises(MalformedError):
            parse_canonical(nested(300))

    at(600)


def test_deep_values_are_not_encoded():
    value: list = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(MalformedError):
        jcs.canonical(value)


def test_the_size_is_looked_at_before_anything_else():
    assert jcs.parse_json(b"[1]", what="x", max_bytes=3) == [1]
    with pytest.raises(MalformedError) as caught:
        jcs.parse_json(b"\xff" * 4, what="x", max_bytes=3)
    assert caught.value.code == "too-large"


GOOD = {
    "text": "ok",
    "int": 5,
    "yes": True,
    "hex": "00ff",
    "b64": "AP8=",
    "list": [1],
    "names": ["a", "b"],
    "null": None,
    "object": {"a": 1},
}


def fields(**changes):
    return jcs.Fields({**GOOD, **changes}, what="it", required=GOOD)


def test_readers_give_good_members():
    good = fields()
    assert good.text("text") == "ok"
    assert good.integer("int") == 5
    assert good.boolean("yes") is True
    assert good.hex("hex", length=2) == b"\x00\xff"
    assert good.base64("b64") == b"\x00\xff"
    assert good.array("list", max_items=1) == [1]
    assert good.sorted_names("names", max_items=2, max_length=1) == ("a", "b")
    assert good.nullable("null", good.text) is None
    assert good.nullable("text", good.text) == "ok"
    assert good.fields("object", required=("a",)).integer("a") == 1


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_only_an_object_has_fields(value):
    with pytest.raises(MalformedError):
        jcs.Fields(value, what="it", required=())


def test_missing_and_unknown_members_are_refused():
    jcs.Fields({"a": 1}, what="it", required=("a",), optional=("b",))
    jcs.Fields({"a": 1, "b": 2}, what="it", required=("a",), optional=("b",))
    for value in ({}, {"b": 1}, {"a": 1, "c": 1}, {"a": 1, "A": 1}, {"a": 1, "": 1}):
        with pytest.raises(MalformedError, match="it: "):
            jcs.Fields(value, what="it", required=("a",), optional=("b",))


WRONG = {
    "text": ["", None, 1, True, [], {}, "a" * 1025, *(f"a{chr(c)}" for c in (0, 9, 10, 31, 127, 133, 155))],
    "int": [-1, 2**53, True, False, "5", None, [5]],
    "yes": [0, 1, "true", None],
    "hex": ["00FF", "00f", "00ff ", "0x00ff", "00", "00ff00", "", 0, None, "٠٠ff"],
    "b64": ["AP8", "AP9=", "AP8=\n", "A P8=", "_w==", "=", None, 1, "AP8=AP8="],
    "list": [None, {}, "x", [1, 2]],
    "names": [["b", "a"], ["a", "a"], [""], ["aa"], [1], [None], ["a", "b", "c"], "ab", ["\n"]],
    "object": [None, [], {}, {"a": 1, "b": 1}],
}
READ = {
    "text": lambda it: it.text("text"),
    "int": lambda it: it.integer("int"),
    "yes": lambda it: it.boolean("yes"),
    "hex": lambda it: it.hex("hex", length=2),
    "b64": lambda it: it.base64("b64"),
    "list": lambda it: it.array("list", max_items=1),
    "names": lambda it: it.sorted_names("names", max_items=2, max_length=1),
    "object": lambda it: it.fields("object", required=("a",)),
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values], ids=ascii
)
def test_readers_refuse_other_types_and_spellings(key, value):
    with pytest.raises(MalformedError, match="it"):
        READ[key](fields(**{key: value}))


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\u202e", "\u2066", "\x9b", "\x7f"], ids=ascii)
def test_text_cannot_control_or_reorder_what_is_printed(char):
    with pytest.raises(MalformedError):
        fields(text=f"agent{char}").text("text")


def test_bounds_of_readers_are_inclusive():
    assert fields(int=7).integer("int", high=7) == 7
    assert fields(text="aaa").text("text", max_length=3) == "aaa"
    assert fields(text="").text("text", empty=True) == ""
    assert fields().base64("b64", max_length=2)
    for refused in (
        lambda: fields(int=8).integer("int", high=7),
        lambda: fields(text="aaaa").text("text", max_length=3),
        lambda: fields().base64("b64", max_length=1),
        lambda: fields().base64("b64", length=3),
    ):
        with pytest.raises(MalformedError):
            refused()


@given(JSON)
def test_every_value_is_spelt_as_rfc_8785_spells_it(value):
    spelt = jcs.canonical(value)
    assert spelt == rfc8785.dumps(value)
    assert jcs.parse_canonical(spelt, what="x", max_bytes=len(spelt)) == value


def test_names_sort_by_utf_16_code_units():
    assert jcs.canonical({"\ue000": 1, "\U00010000": 2}) == '{"\U00010000":2,"\ue000":1}'.encode()
    with pytest.raises(MalformedError):
        jcs.parse_canonical('{"\ue000":1,"\U00010000":2}'.encode(), what="x", max_bytes=99)


@pytest.mark.parametrize("value", [{1: 2}, {None: 1}, b"x", object(), {"a": {2}}, 1.5, 2**53])
def test_what_is_no_json_of_ours_is_refused(value):
    with pytest.raises(MalformedError):
        jcs.canonical(value)
