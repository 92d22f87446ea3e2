"""Strict parsers: one spelling, everything else refused."""

import base64
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from assay.tlog.errors import MalformedError
from assay.tlog.strict import (
    MAX_DECIMAL,
    base64_bytes,
    base64_text,
    decimal,
    hex_bytes,
    lines,
    shown,
    utf8_text,
)

# --- decimals


@given(st.integers(0, MAX_DECIMAL))
def test_decimal_inverts_str(number):
    assert decimal(str(number), what="size") == number


@pytest.mark.parametrize("number", [0, 1, 9, 10, 2**32, 2**53 + 1, MAX_DECIMAL])
def test_decimal_reaches_from_zero_to_the_largest_signed_64_bit_number(number):
    assert decimal(str(number), what="size") == number


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "00", "01", "08", "+0", "+1", "-0", "-1", "-5", " 42", "42 ", "42\n", "\n42", "\t42", "4 2", "4_2",
        "0x2a", "0b1", "1e3", "1.0", "1,000", "4２", "٤٢", "４２", "४२", "²", "½", "Ⅷ", "一", "\u200b42", "42\0", "nan", "inf", "None",
        str(MAX_DECIMAL + 1), str(2**64), "9" * 19, "1" + "0" * 19, "9" * 5000,
    ],
)  # fmt: skip
def test_decimal_refuses_every_other_spelling(text):
    with pytest.raises(MalformedError, match="size"):
        decimal(text, what="size")


@given(st.text(max_size=24))
def test_decimal_accepts_only_what_it_would_print(text):
    try:
        number = decimal(text, what="size")
    except MalformedError:
        return
    assert str(number) == text


@given(st.integers(0, MAX_DECIMAL), st.integers(0, 19), st.characters())
def test_decimal_with_a_character_put_in_is_refused_or_another_number(number, place, character):
    text = str(number)
    text = text[:place] + character + text[place:]
    if character in string.digits and (text[0] != "0" or text == "0") and int(text) <= MAX_DECIMAL:
        assert str(decimal(text, what="size")) == text
        return
    with pytest.raises(MalformedError):
        decimal(text, what="size")


# --- base64


@given(st.binary(max_size=100))
def test_base64_bytes_inverts_base64_text(data):
    assert base64_bytes(base64_text(data), what="hash") == data


@pytest.mark.parametrize(
    "text",
    [
        "A", "AA", "AAA", "AA=", "A===", "AA===", "AAAA=", "AAAA====", "====", "=", "=AAA", "AA==AA==", "AA=A", "AB==", "AAB=", "A/==",
        "AA==\n", "\nAA==", " AA==", "AA ==", "AA\n==", "A\0A=", "__8=", "-_8=", "AA==\u2028", "ＡＡ==", "é===", "AA==!", "!AA==",
        "\ud800===",
    ],
)  # fmt: skip
def test_base64_refuses_every_other_spelling(text):
    with pytest.raises(MalformedError, match="hash"):
        base64_bytes(text, what="hash")


@given(st.text(alphabet=string.ascii_letters + string.digits + "+/=-_ \n", max_size=12))
def test_base64_accepts_only_what_it_would_print(text):
    try:
        data = base64_bytes(text, what="hash")
    except MalformedError:
        return
    assert base64.standard_b64encode(data).decode() == text


@given(st.binary(max_size=70), st.integers(0, 70))
def test_base64_of_another_length_is_refused(data, length):
    if len(data) == length:
        assert base64_bytes(base64_text(data), what="hash", length=length) == data
        return
    with pytest.raises(MalformedError, match=f"hash: {len(data)} bytes, not {length}"):
        base64_bytes(base64_text(data), what="hash", length=length)


def test_every_other_base64_spelling_of_one_byte_is_refused():
    """The last digit of a lone byte carries four unused bits: 15 spellings too many."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    accepted = []
    for first in alphabet:
        for second in alphabet:
            try:
                accepted.append(base64_bytes(f"{first}{second}==", what="byte"))
            except MalformedError:
                continue
    assert sorted(accepted) == [bytes([value]) for value in range(256)]


# --- hexadecimal


@given(st.binary(max_size=100))
def test_hex_bytes_inverts_hex(data):
    assert hex_bytes(data.hex(), what="measurement") == data
    assert hex_bytes(data.hex(), what="measurement", length=len(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "abc",
        "AB",
        "aB",
        "ab cd",
        " ab",
        "ab ",
        "ab\n",
        "\nab",
        "0xab",
        "ab:cd",
        "gg",
        "ａｂ",
        "٤٢",
        "-1",
        "ab\0",
    ],
)
def test_hex_refuses_every_other_spelling(text):
    with pytest.raises(MalformedError, match="measurement"):
        hex_bytes(text, what="measurement")


@given(st.text(max_size=10))
def test_hex_accepts_only_what_it_would_print(text):
    try:
        data = hex_bytes(text, what="measurement")
    except MalformedError:
        return
    assert data.hex() == text


@given(st.binary(max_size=40), st.integers(0, 40))
def test_hex_of_another_length_is_refused(data, length):
    assume(len(data) != length)
    with pytest.raises(MalformedError, match=f"{len(data)} bytes, not {length}"):
        hex_bytes(data.hex(), what="measurement", length=length)


# --- text


@given(st.text())
def test_utf8_text_inverts_encode(text):
    assert utf8_text(text.encode("utf-8"), what="note") == text


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80", b"a\x80", b"\xf8\x88\x80\x80\x80"]
)  # fmt: skip
def test_utf8_refuses_overlong_surrogate_and_cut_sequences(data):
    with pytest.raises(MalformedError, match="note: not UTF-8"):
        utf8_text(data, what="note")


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8"))))
def test_lines_split_at_newlines_only(expected):
    text = "".join(line + "\n" for line in expected)
    assert lines(text, what="note") == expected


@pytest.mark.parametrize(
    "separator", ["\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
)
def test_lines_do_not_split_where_python_would(separator):
    text = f"a{separator}b\n"
    assert len(text.splitlines()) > 1
    assert lines(text, what="note") == text[:-1].split("\n")


@pytest.mark.parametrize("text", ["a", "a\nb", " ", "\r", "a\n ", "a\u2028"])
def test_lines_refuse_a_last_line_without_newline(text):
    with pytest.raises(MalformedError, match="note: the last line has no newline"):
        lines(text, what="note")


def test_empty_lines_count():
    assert lines("", what="note") == []
    assert lines("\n", what="note") == [""]
    assert lines("\n\na\n\n", what="note") == ["", "", "a", ""]


@given(st.text() | st.binary())
def test_quotations_are_short_and_printable(hostile):
    quotation = shown(hostile)
    assert len(quotation) <= 40 * 10 + 4
    assert quotation.isprintable()
