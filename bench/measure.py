"""What MRENCLAVE costs on this machine: enclaves with and without dynamic memory, and what hashing alone takes.

    python bench/measure.py [--repeat 5]

The image is as large as a real libpal (90 pages). Prints a table, and one JSON line for machines.
"""

import argparse
import hashlib
import json
import struct
import time

from assay.attest.gramine.elf import parse_elf
from assay.attest.gramine.layout import layout
from assay.attest.gramine.measure import measure, stream
from assay.attest.gramine.options import parse_options

CASES = (
    ("256M", 4, False, None),
    ("1G", 16, False, 0.1),
    ("16G", 16, False, None),
    ("64G", 32, False, 5.0),
    ("1024G", 16, True, None),
)
"""Size, threads, EDMM and the target in seconds."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="take the best of so many runs")
    repeat = parser.parse_args().repeat
    results = [one(*case, repeat=repeat) for case in CASES]
    for result in results:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
    print(json.dumps({"benchmark": "measure", "results": results}))


def one(size: str, threads: int, edmm: bool, target_s: float | None, *, repeat: int) -> dict[str, object]:
    """The best of some runs, and how much of it is hashing."""
    manifest, image = manifest_of(size, threads, edmm), libpal()
    took = min(timed(manifest, image) for _ in range(repeat))
    count = stream_size(manifest, image)
    result: dict[str, object] = {
        "enclave": size + (" EDMM" if edmm else ""),
        "threads": threads,
        "seconds": round(took, 4),
        "hashed_mib": round(count / 2**20, 1),
        "of_hashing": round(took / (count * hash_seconds_per_byte()), 2),
    }
    return result if target_s is None else {**result, "of_target": round(took / target_s, 2)}


def timed(manifest: bytes, image: bytes) -> float:
    """Seconds of one measurement."""
    began = time.perf_counter()
    measure(manifest, image)
    return time.perf_counter() - began


def stream_size(manifest: bytes, image: bytes) -> int:
    """Bytes that are hashed."""
    options = parse_options(manifest)
    return sum(map(len, stream(options.enclave_size, layout(options, manifest, parse_elf(image)))))


def hash_seconds_per_byte() -> float:
    """The best of SHA-256 over pieces as large as those of the stream, which stay in the cache."""
    data = bytes(256 << 10)
    best, digest = float("inf"), hashlib.sha256()
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(64):
            digest.update(data)
        best = min(best, time.perf_counter() - began)
    return best / (64 * len(data))


def manifest_of(size: str, threads: int, edmm: bool) -> bytes:
    """A manifest with what the layout needs."""
    text = f'[sgx]\nenclave_size = "{size}"\nmax_threads = {threads}\nedmm_enable = {str(edmm).lower()}\n'
    return text.encode()


def libpal() -> bytes:
    """81 pages of code and 9 of data."""
    segments = ((5, 0, 81 * 4096), (6, 81 * 4096, 9 * 4096))
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0x1000, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    for flags, at, size in segments:
        head += struct.pack("<IIQQQQQQ", 1, flags, at, at, at, size, size, 4096)
    return head.ljust(90 * 4096, b"\x90")


if __name__ == "__main__":
    main()
