"""Where everything lies in a Gramine enclave, and with which content: the areas in load order.

The layout is that of Gramine 1.5 to 1.9. Areas are carved downwards from the enclave's top and loaded in the
same order, so addresses fall from area to area and rise inside an area::

    manifest      its bytes, one NUL, zeros          sig_stack x threads   64 KiB each, zeros
    ssa           2 x 16 KiB a thread, zeros         pal                   the ELF segments
    tcs, tls      a page a thread each               free                  the rest down to 0x10000,
    stack         x threads, 256 KiB each, zeros                           not measured; absent with EDMM

The manifest comes first and so ends exactly at the top, where the enclave finds it. Thread 0 has the highest
stack, but the lowest SSA, TCS and TLS. The enclave's base is 0, so an address is an offset. Versions before
1.5 place the enclave elsewhere and are not supported.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from assay.attest.gramine.elf import EXECUTE, PAGE_SIZE, READ, WRITE, Image, round_up
from assay.attest.gramine.options import EnclaveOptions
from assay.tlog import strict
from assay.tlog.errors import MalformedError

GRAMINE_VERSIONS = ("1.5", "1.6.2", "1.7", "1.8", "1.9")
"""The versions whose layout this is. Another one's is not guessed: 1.4 already differs."""

HEAP_FLOOR = 0x10000
SSA_FRAME_SIZE = 0x4000
SSA_FRAMES = 2
STACK_SIZE = 0x40000
SIGNAL_STACK_SIZE = 0x10000
GPR_SIZE = 184
STACK_CANARY = 0xBADBADBADBAD

READ_PAGE, WRITE_PAGE, EXECUTE_PAGE, TCS_PAGE, REGULAR_PAGE = 1, 2, 4, 0x100, 0x200
"""Bits of SECINFO.FLAGS."""

_DATA_PAGE = REGULAR_PAGE | READ_PAGE | WRITE_PAGE
_FREE_PAGE = REGULAR_PAGE | READ_PAGE | WRITE_PAGE | EXECUTE_PAGE


@dataclass(frozen=True, slots=True)
class Area:
    """Pages ``[start, end)`` of one kind.

    Attributes:
        name: what Gramine calls it: manifest, ssa, tcs, tls, stack, sig_stack, code, data, free.
        secinfo: SECINFO.FLAGS of every page.
        content: the measured bytes; None means zeros.
        measured: whether the content is part of MRENCLAVE; the pages themselves always are.
    """

    name: str
    start: int
    end: int
    secinfo: int
    content: bytes | None = None
    measured: bool = True


def check_version(version: str) -> str:
    """Return a version of Gramine if its enclaves are laid out as here.

    Raises:
        MalformedError: an older or an unknown one (code ``gramine-version``).
    """
    if version not in GRAMINE_VERSIONS:
        known = ", ".join(GRAMINE_VERSIONS)
        raise MalformedError(
            f"the layout of Gramine {strict.shown(version)} is not known; known are {known}",
            code="gramine-version",
        )
    return version


def layout(options: EnclaveOptions, manifest: bytes, image: Image) -> list[Area]:
    """All areas in load order.

    Raises:
        MalformedError: an area would start below the heap's floor (code ``enclave-too-small``).
    """
    threads = options.max_threads
    carver = _Carver(options.enclave_size)
    text = carver.take(round_up(len(manifest) + 1))
    ssa = carver.take(threads * SSA_FRAMES * SSA_FRAME_SIZE)
    tcs = carver.take(threads * PAGE_SIZE)
    tls = carver.take(threads * PAGE_SIZE)
    stacks = [carver.take(STACK_SIZE) for _ in range(threads)]
    signal_stacks = [carver.take(SIGNAL_STACK_SIZE) for _ in range(threads)]
    base = carver.take(image.size)
    thread_pages = _ThreadPages(options.enclave_size, ssa.start, tcs.start, tls.start, base.start)
    areas = [
        Area("manifest", text.start, text.stop, REGULAR_PAGE | READ_PAGE, manifest.ljust(len(text), b"\0")),
        Area("ssa", ssa.start, ssa.stop, _DATA_PAGE),
        Area("tcs", tcs.start, tcs.stop, TCS_PAGE, thread_pages.tcs(threads, image.entry)),
        Area(
            "tls", tls.start, tls.stop, _DATA_PAGE, thread_pages.tls(stacks, signal_stacks, len(manifest) + 1)
        ),
    ]
    areas += [Area("stack", stack.start, stack.stop, _DATA_PAGE) for stack in stacks]
    areas += [Area("sig_stack", stack.start, stack.stop, _DATA_PAGE) for stack in signal_stacks]
    areas += _image_areas(image, base.start)
    if not options.edmm and base.start > HEAP_FLOOR:
        areas.append(Area("free", HEAP_FLOOR, base.start, _FREE_PAGE, measured=False))
    return areas


class _Carver:
    """Hands out address ranges from the enclave's top downwards."""

    def __init__(self, top: int) -> None:
        self.top = top

    def take(self, size: int) -> range:
        start = self.top - size
        if start < HEAP_FLOOR:
            raise MalformedError("the enclave size is too small for its areas", code="enclave-too-small")
        taken = range(start, self.top)
        self.top = start
        return taken


@dataclass(frozen=True, slots=True)
class _ThreadPages:
    """The pages that describe a thread to the CPU (TCS) and to Gramine (TLS), from the areas' addresses."""

    enclave_size: int
    ssa: int
    tcs_start: int
    tls_start: int
    base: int

    def _ssa_of(self, thread: int) -> int:
        return self.ssa + thread * SSA_FRAMES * SSA_FRAME_SIZE

    def tcs(self, threads: int, entry: int) -> bytes:
        """One TCS page a thread (Intel SDM volume 3D, 38.8): OSSA, NSSA, OENTRY, OGSBASE and the limits."""
        pages = bytearray(threads * PAGE_SIZE)
        for thread in range(threads):
            page = thread * PAGE_SIZE
            struct.pack_into(
                "<QIIQ", pages, page + 0x10, self._ssa_of(thread), 0, SSA_FRAMES, self.base + entry
            )
            struct.pack_into("<QII", pages, page + 0x38, self.tls_start + page, 0xFFF, 0xFFF)
        return bytes(pages)

    def tls(self, stacks: Sequence[range], signal_stacks: Sequence[range], manifest_size: int) -> bytes:
        """One TLS page a thread, as Gramine lays it out; ``manifest_size`` counts the NUL."""
        pages = bytearray(len(stacks) * PAGE_SIZE)
        for thread, (stack, signal_stack) in enumerate(zip(stacks, signal_stacks, strict=True)):
            page = thread * PAGE_SIZE
            ssa = self._ssa_of(thread)
            fields = {
                0x000: self.tls_start + page,
                0x008: STACK_CANARY,
                0x110: self.enclave_size,
                0x118: self.tcs_start + page,
                0x120: stack.stop,
                0x130: signal_stack.start,
                0x138: signal_stack.stop,
                0x148: ssa,
                0x150: ssa + SSA_FRAME_SIZE - GPR_SIZE,
                0x1A0: manifest_size,
                0x1A8: HEAP_FLOOR,
                0x1B0: self.base,
            }
            for offset, value in fields.items():
                struct.pack_into("<Q", pages, page + offset, value)
        return bytes(pages)


def _image_areas(image: Image, base: int) -> list[Area]:
    return [
        Area(
            "code" if segment.flags & EXECUTE else "data",
            base + segment.start,
            base + segment.end,
            _secinfo(segment.flags),
            segment.pages(),
        )
        for segment in image.segments
    ]


def _secinfo(flags: int) -> int:
    permissions = ((READ, READ_PAGE), (WRITE, WRITE_PAGE), (EXECUTE, EXECUTE_PAGE))
    return REGULAR_PAGE | sum(bit for flag, bit in permissions if flags & flag)
