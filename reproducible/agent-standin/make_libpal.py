"""Write libpal-standin.so: the small ELF image that stands where a release has Gramine's libpal.so.

It holds no code of Gramine's and cannot start an enclave. It has what the measurement looks at: an entry
point, one segment to read and execute, one to read and write that continues into zeros. The bytes follow
from this file alone; recipe.lock pins them. Usage: make_libpal.py OUT
"""

import hashlib
import struct
import sys
from pathlib import Path

PAGE = 4096
TEXT_SIZE = 0x480
DATA_ADDRESS = 2 * PAGE + 0x300  # congruent to its file offset modulo the page, as loaders want it
DATA_OFFSET = PAGE + 0x300
DATA_SIZE = 0x200
MEMORY_SIZE = 0x1800
ENTRY = 0x400
NOTICE = b"Assay stand-in for libpal.so. Not Gramine: it measures, and starts nothing.\0"


def filler(label: bytes, size: int) -> bytes:
    """Bytes that no accident repeats: SHA-256 over a label and a counter."""
    blocks = (hashlib.sha256(label + struct.pack("<I", i)).digest() for i in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def libpal() -> bytes:
    """The image."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, ENTRY, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.Struct("<IIQQQQQQ")
    text = load.pack(1, 5, 0, 0, 0, TEXT_SIZE, TEXT_SIZE, PAGE)
    data = load.pack(1, 6, DATA_OFFSET, DATA_ADDRESS, DATA_ADDRESS, DATA_SIZE, MEMORY_SIZE, PAGE)
    code = (header + text + data + NOTICE).ljust(ENTRY, b"\xcc") + b"\x0f\x0b"  # ud2: it must not run
    image = code.ljust(TEXT_SIZE, b"\xcc").ljust(DATA_OFFSET, b"\0")
    return image + filler(b"assay-libpal-standin-v1", DATA_SIZE)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(libpal())
