"""ELF images: what is refused, and what of a segment ends up in memory."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.gramine.elf import MAX_IMAGE_SIZE, parse_elf
from assay.tlog.errors import MalformedError

CODE = (5, 0, 0, 0x800, 0x800)
DATA = (6, 0x1F00, 0x2F00, 0x200, 0x1800)


def test_segments_are_read_in_order(elf):
    image = parse_elf(elf(CODE, DATA, entry=0x123))
    assert (image.entry, image.size) == (0x123, 0x5000)
    assert [(s.start, s.end, s.flags) for s in image.segments] == [(0, 0x1000, 5), (0x2000, 0x5000, 6)]


def test_pages_hold_file_bytes_and_zeros_elsewhere(elf):
    data = elf(CODE, DATA)
    pages = parse_elf(data).segments[1].pages()
    assert len(pages) == 0x3000
    assert pages[0xF00:0x1100] == data[0x1F00:0x2100]
    assert set(pages[:0xF00]) == set(pages[0x1100:]) == {0}


def test_headers_other_than_load_are_ignored(elf):
    data = bytearray(elf(CODE, DATA, (7, 1, 2, 3, 0)))
    struct.pack_into("<I", data, 64 + 2 * 56, 2)
    assert len(parse_elf(bytes(data)).segments) == 2


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(5, 0x1000, 0x1000, 0x100, 0x100)], "page 0"),
        ([], "program headers"),
        ([DATA], "page 0"),
        ([DATA, CODE], "unsorted"),
        ([CODE, (6, 0x2000, 0x4000, 16, 16), (6, 0x2000, 0x2000, 16, 16)], "unsorted"),
        ([CODE, (6, 0x900, 0x900, 16, 16)], "shares a page"),
        ([CODE, CODE], "shares a page"),
        ([(5, 0, 0, 0x1001, 0x1001), (6, 0x1000, 0x1000, 16, 16)], "shares a page"),
        ([CODE, (6, 0x1F00, 0x2F00, 0x201, 0x200)], "in memory"),
        ([CODE, (6, 0x1F00, 0x2F00, 0, 0)], "in memory"),
        ([CODE, (6, 0x5F00, 0x6F00, 0x101, 0x200)], "past the end"),
        ([CODE, (6, 2**64 - 0x100, 0x6F00, 0x200, 0x200)], "past the end"),
        ([CODE, (6, 0x1F00, 0x2F01, 0x200, 0x200)], "modulo"),
        ([CODE, (6, 0x1F00, 0x2F00, 0, MAX_IMAGE_SIZE)], "ends beyond"),
        ([CODE, (6, 0x1000, 2**64 - 0x1000, 0, 2**63)], "ends beyond"),
        ([CODE, (8, 0x1F00, 0x2F00, 0x200, 0x200)], "unknown flags"),
    ],
)
def test_segments_that_signer_and_loader_read_differently_are_refused(elf, segments, message):
    with pytest.raises(MalformedError, match=message):
        parse_elf(elf(*segments))


@pytest.mark.parametrize(
    "header",
    [
        {"type": 1},
        {"type": 4},
        {"machine": 40},
        {"version": 2},
        {"phoff": 0x6000},
        {"phoff": 2**64 - 1},
        {"phentsize": 32},
        {"ehsize": 52},
        {"phnum": 0},
        {"phnum": 65},
        {"phnum": 0xFFFF},
        {"entry": 0x5000},
        {"entry": 2**64 - 1},
    ],
    ids=str,
)
def test_unusable_headers_are_refused(elf, header):
    with pytest.raises(MalformedError):
        parse_elf(elf(CODE, DATA, **header))


@pytest.mark.parametrize("at", range(7))
def test_another_magic_class_order_or_version_is_refused(elf, at):
    data = bytearray(elf(CODE, DATA))
    data[at] ^= 3
    with pytest.raises(MalformedError):
        parse_elf(bytes(data))


def test_every_truncation_into_what_is_mapped_is_refused(elf):
    data = elf(CODE, DATA)
    for size in range(0x2100):
        with pytest.raises(MalformedError):
            parse_elf(data[:size])
    parse_elf(data[:0x2100])


@given(st.binary(max_size=400), st.integers(0, 300))
def test_hostile_bytes_are_refused_or_parsed_but_never_crash(junk, at):
    data = bytearray(
        struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0)
    )
    data += bytes(400)
    data[at : at + len(junk)] = junk
    try:
        image = parse_elf(bytes(data))
    except MalformedError:
        return
    assert image.size <= MAX_IMAGE_SIZE
