"""The loadable segments of a little-endian ELF64 image, as an SGX loader maps them.

Strict where Gramine's signer and its loader read the same file differently: an image that the two would
measure differently has no value here. Only PT_LOAD headers matter; relocations, RELRO and the dynamic
section do not, because the image is measured as it lies in the file.
"""

import struct
from dataclasses import dataclass

from assay.tlog.errors import MalformedError

PAGE_SIZE = 4096
MAX_IMAGE_SIZE = 64 << 20
"""The largest image in memory that is measured; a real libpal has less than 1 MiB."""

EXECUTE, WRITE, READ = 1, 2, 4
"""Bits of ``p_flags``; SGX numbers its permission bits the other way round."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64-bit, little-endian, version 1
_X86_64 = 62
_TYPES = (2, 3)  # ET_EXEC, ET_DYN
_PT_LOAD = 1
_MAX_HEADERS = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: ``data`` lies at ``address``, zeros follow up to ``memory_size`` bytes.

    Attributes:
        address: ``p_vaddr``, relative to the image's start.
        memory_size: ``p_memsz``; at least ``len(data)`` and never 0.
        flags: ``p_flags``, some of EXECUTE, WRITE and READ.
        data: the file's bytes for it.
    """

    address: int
    memory_size: int
    flags: int
    data: bytes

    @property
    def start(self) -> int:
        """The address of its first page."""
        return self.address // PAGE_SIZE * PAGE_SIZE

    @property
    def end(self) -> int:
        """The address behind its last page."""
        return round_up(self.address + self.memory_size)

    def pages(self) -> bytes:
        """The content of its pages: zeros wherever the segment has no file bytes, before its start as well."""
        before = bytes(self.address - self.start)
        return (before + self.data).ljust(self.end - self.start, b"\0")


@dataclass(frozen=True, slots=True)
class Image:
    """An ELF image: ``entry`` is ``e_entry``; segments ascend and share no page, the first is in page 0."""

    entry: int
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Bytes of address space, in whole pages."""
        return self.segments[-1].end


def round_up(value: int) -> int:
    """The next multiple of the page size."""
    return -(-value // PAGE_SIZE) * PAGE_SIZE


def parse_elf(data: bytes) -> Image:
    """Parse an x86-64 ELF64 image.

    Raises:
        MalformedError: another class, byte order or machine; truncated headers; segments that are empty, unsorted or
            overlap (also by sharing a page), that do not start in page 0, run past the file, hold more in the file
            than in memory, or whose file offset and address differ modulo the page size.
    """
    header = _read_header(data)
    segments: list[Segment] = []
    for number in range(header.count):
        values = _PROGRAM_HEADER.unpack_from(data, header.offset + number * _PROGRAM_HEADER.size)
        if values[0] == _PT_LOAD:
            floor = segments[-1].end if segments else 0
            segments.append(_segment(data, values, what=f"ELF program header {number}", floor=floor))
    if not segments or segments[0].start != 0:
        raise MalformedError("ELF: the first loadable segment does not start in page 0")
    image = Image(header.entry, tuple(segments))
    if header.entry >= image.size:
        raise MalformedError("ELF: the entry point lies outside the image")
    return image


@dataclass(frozen=True, slots=True)
class _Header:
    entry: int
    offset: int
    count: int


def _read_header(data: bytes) -> _Header:
    if len(data) < _HEADER.size:
        raise MalformedError(f"ELF: {len(data)} bytes are no header")
    (ident, kind, machine, version, entry, offset, _, _, size, entry_size, count, *_) = _HEADER.unpack_from(
        data
    )
    if not ident.startswith(_IDENT) or version != 1 or size != _HEADER.size:
        raise MalformedError("ELF: not a little-endian ELF64 file of version 1")
    if machine != _X86_64 or kind not in _TYPES:
        raise MalformedError("ELF: not an x86-64 executable or shared object")
    if entry_size != _PROGRAM_HEADER.size or not 0 < count <= _MAX_HEADERS:
        raise MalformedError(f"ELF: {count} program headers of {entry_size} bytes")
    if offset + count * entry_size > len(data):
        raise MalformedError("ELF: the program headers run past the end of the file")
    return _Header(entry, offset, count)


def _segment(data: bytes, values: tuple[int, ...], *, what: str, floor: int) -> Segment:
    _, flags, offset, address, _, file_size, memory_size, _ = values
    if memory_size == 0 or file_size > memory_size:
        raise MalformedError(f"{what}: {file_size} bytes in the file, {memory_size} in memory")
    if offset + file_size > len(data):
        raise MalformedError(f"{what}: the segment runs past the end of the file")
    if offset % PAGE_SIZE != address % PAGE_SIZE:
        raise MalformedError(f"{what}: offset and address differ modulo the page size")
    if address + memory_size > MAX_IMAGE_SIZE:
        raise MalformedError(f"{what}: the segment ends beyond {MAX_IMAGE_SIZE} bytes")
    if flags & ~(EXECUTE | WRITE | READ):
        raise MalformedError(f"{what}: unknown flags {flags:#x}")
    segment = Segment(address, memory_size, flags, data[offset : offset + file_size])
    if segment.start < floor:
        raise MalformedError(f"{what}: the segment is unsorted or shares a page with the one before")
    return segment
