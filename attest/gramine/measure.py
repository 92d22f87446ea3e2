r"""MRENCLAVE of a Gramine enclave, from the manifest's bytes and libpal's bytes alone.

MRENCLAVE is SHA-256 over a stream of records (Intel SDM volume 3D, ECREATE, EADD and EEXTEND), all integers
little-endian::

    ECREATE   64   "ECREATE\0" · u32 SSA frame size in pages · u64 enclave size · zeros
    EADD      64   "EADD\0\0\0\0" · u64 page address · u64 SECINFO flags · zeros
    EEXTEND  320   "EEXTEND\0" · u64 chunk address · zeros to 64 · the chunk's 256 bytes

After one ECREATE comes every page in load order: its EADD and, if its content is measured, sixteen EEXTEND.
What the pages are is :mod:`assay.attest.gramine.layout`'s business. Attributes, the product's ids, the date and the
signing key are not part of MRENCLAVE: they stand in the SIGSTRUCT, and a verifier checks them there.
"""

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from assay.attest.gramine.elf import PAGE_SIZE, parse_elf
from assay.attest.gramine.layout import SSA_FRAME_SIZE, Area, layout
from assay.attest.gramine.options import EnclaveOptions, parse_options

_ECREATE, _EADD, _EEXTEND = (
    int.from_bytes(tag.ljust(8, b"\0"), "little") for tag in (b"ECREATE", b"EADD", b"EEXTEND")
)
_CHUNK_SIZE = 256
_CHUNKS = PAGE_SIZE // _CHUNK_SIZE
_EADD_SIZE = 64
_EADD_WORDS = _EADD_SIZE // 8
_EEXTEND_WORDS = (64 + _CHUNK_SIZE) // 8
_PAGE_WORDS = _EADD_WORDS + _CHUNKS * _EEXTEND_WORDS
_PAGES_PER_BATCH = 256
_ADDRESS_AT, _SECINFO_AT = 8, 16
_FREE_SPAN = 1 << 24
_FREE_TEMPLATE = b"".join(struct.pack("<QQ48x", _EADD, page) for page in range(0, _FREE_SPAN, PAGE_SIZE))
"""EADD records of the pages below 16 MiB, without their SECINFO."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An MRENCLAVE (32 bytes) and the options that shaped it."""

    mr_enclave: bytes
    options: EnclaveOptions


def measure(manifest: bytes, libpal: bytes, *, sink: BinaryIO | None = None) -> Measured:
    """Compute MRENCLAVE.

    Args:
        manifest: the exact bytes of the ``.manifest.sgx``.
        libpal: the bytes of the SGX ``libpal.so``.
        sink: takes the whole stream, which is a valid SGXS file: its SHA-256 is MRENCLAVE.

    Raises:
        MalformedError: the manifest or the image is refused, or they do not fit into the enclave.
    """
    options = parse_options(manifest)
    areas = layout(options, manifest, parse_elf(libpal))
    digest = hashlib.sha256()
    for records in stream(options.enclave_size, areas):
        digest.update(records)
        if sink is not None:
            sink.write(records)
    return Measured(digest.digest(), options)


def stream(enclave_size: int, areas: Sequence[Area]) -> Iterator[bytes]:
    """The hashed records in pieces of at most 2 MiB."""
    yield struct.pack("<QIQ44x", _ECREATE, SSA_FRAME_SIZE // PAGE_SIZE, enclave_size)
    for area in areas:
        yield from _measured_records(area) if area.measured else _added_records(area)


def _measured_records(area: Area) -> Iterator[bytes]:
    """EADD and EEXTEND of every page, a batch at a time.

    The fixed words of a batch are written by strided assignment, one statement for all its pages: a loop
    over 256-byte chunks would make Python the bottleneck instead of SHA-256.
    """
    for start in range(area.start, area.end, _PAGES_PER_BATCH * PAGE_SIZE):
        end = min(start + _PAGES_PER_BATCH * PAGE_SIZE, area.end)
        words = _add_headers(start, end, area.secinfo)
        for chunk in range(_CHUNKS):
            at = _EADD_WORDS + chunk * _EEXTEND_WORDS
            addresses = range(start + chunk * _CHUNK_SIZE, end, PAGE_SIZE)
            words[at::_PAGE_WORDS] = array("Q", [_EEXTEND]) * len(addresses)
            words[at + 1 :: _PAGE_WORDS] = array("Q", addresses)
        records = bytearray(_little_endian(words))
        if area.content is not None:
            _fill_chunks(records, memoryview(area.content)[start - area.start : end - area.start])
        yield bytes(records)


def _fill_chunks(records: bytearray, content: memoryview) -> None:
    for number in range(len(content) // _CHUNK_SIZE):
        page, chunk = divmod(number, _CHUNKS)
        at = (page * _PAGE_WORDS + _EADD_WORDS + chunk * _EEXTEND_WORDS) * 8 + 64
        records[at : at + _CHUNK_SIZE] = content[number * _CHUNK_SIZE : (number + 1) * _CHUNK_SIZE]


def _added_records(area: Area) -> Iterator[bytes]:
    """EADD alone for every page.

    A batch covers addresses that differ in their three lowest bytes only, so those stand in one template for all
    batches, and the upper five are written by one strided assignment each when they change: a terabyte's records
    cost little more than their hashing.
    """
    records = bytearray(_FREE_TEMPLATE)
    _spread(records, _SECINFO_AT, area.secinfo.to_bytes(8, "little"))
    upper = b""
    for base in range(area.start & -_FREE_SPAN, area.end, _FREE_SPAN):
        first, upper = upper, base.to_bytes(8, "little")[3:]
        _spread(records, _ADDRESS_AT + 3, upper, first)
        begin, end = (min(max(at - base, 0), _FREE_SPAN) // PAGE_SIZE for at in (area.start, area.end))
        yield bytes(records[begin * _EADD_SIZE : end * _EADD_SIZE])


def _spread(records: bytearray, offset: int, value: bytes, previous: bytes = b"") -> None:
    """Write a value into every EADD record at an offset, but not the bytes that are there from before."""
    for at, byte in enumerate(value):
        if previous[at : at + 1] != bytes((byte,)):
            records[offset + at :: _EADD_SIZE] = bytes((byte,)) * (len(records) // _EADD_SIZE)


def _add_headers(start: int, end: int, secinfo: int) -> "array[int]":
    """Zeroed records of measured pages, with the EADD header at the start of each page's."""
    pages = range(start, end, PAGE_SIZE)
    words = array("Q", bytes(8 * _PAGE_WORDS * len(pages)))
    words[0::_PAGE_WORDS] = array("Q", [_EADD]) * len(pages)
    words[1::_PAGE_WORDS] = array("Q", pages)
    words[2::_PAGE_WORDS] = array("Q", [secinfo]) * len(pages)
    return words


def _little_endian(words: "array[int]") -> bytes:
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
