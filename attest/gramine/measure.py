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
_EADD_WORDS = 64 // 8
_EEXTEND_WORDS = (64 + _CHUNK_SIZE) // 8
_PAGE_WORDS = _EADD_WORDS + _CHUNKS * _EEXTEND_WORDS
_PAGES_PER_BATCH = 256
_FREE_PAGES_PER_BATCH = 65536


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
    """The hashed records in pieces of at most 4 MiB."""
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
        words = _add_headers(start, end, area.secinfo, stride=_PAGE_WORDS)
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
    """EADD alone for every page."""
    for start in range(area.start, area.end, _FREE_PAGES_PER_BATCH * PAGE_SIZE):
        end = min(start + _FREE_PAGES_PER_BATCH * PAGE_SIZE, area.end)
        yield _little_endian(_add_headers(start, end, area.secinfo, stride=_EADD_WORDS))


def _add_headers(start: int, end: int, secinfo: int, *, stride: int) -> "array[int]":
    """Zeroed records of ``stride`` words a page, with the EADD header at the start of each."""
    pages = range(start, end, PAGE_SIZE)
    words = array("Q", bytes(8 * stride * len(pages)))
    words[0::stride] = array("Q", [_EADD]) * len(pages)
    words[1::stride] = array("Q", pages)
    words[2::stride] = array("Q", [secinfo]) * len(pages)
    return words


def _little_endian(words: "array[int]") -> bytes:
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
