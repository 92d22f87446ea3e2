"""A reader of C2SP logs that shares no code with Assay: hashlib, base64 and cryptography only.

It is given a function that fetches a path and the log's vkeys, and re-verifies everything from bytes: both
signatures of the checkpoint, every tile and every bundle that a tree of that size has, partial ones included.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

Fetch = Callable[[str], bytes]


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, as it is written."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\1" + root(hashes[:k]) + root(hashes[k:])).digest()


def path(level: str, index: int, width: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    partial = "" if width == 256 else f".p/{width}"
    return f"/tile/{level}/{'/'.join(groups)}{partial}"


def read_checkpoint(note: bytes, vkeys: Sequence[str]) -> tuple[int, bytes]:
    """Size and root, after every key of the log has verified."""
    text, _, signatures = note.decode().rpartition("\n\n")
    text += "\n"
    origin, size, encoded = text.rstrip("\n").split("\n")
    lines = [line.removeprefix("— ").split(" ") for line in signatures.rstrip("\n").split("\n")]
    for vkey in vkeys:
        name, key_id, key = vkey.split("+", 2)
        blob = base64.b64decode(key)
        expected = hashlib.sha256(name.encode() + b"\n" + blob).digest()[:4]
        assert expected.hex() == key_id
        (signature,) = [
            base64.b64decode(line[1])
            for line in lines
            if line[0] == name and base64.b64decode(line[1])[:4] == expected
        ]
        _verify(blob, signature[4:], text, origin, int(size), base64.b64decode(encoded))
    return int(size), base64.b64decode(encoded)


def _verify(blob: bytes, signature: bytes, text: str, origin: str, size: int, tree: bytes) -> None:
    if blob[0] == 1:
        Ed25519PublicKey.from_public_bytes(blob[1:]).verify(signature, text.encode())
        return
    assert blob[0] == 6
    time = signature[:8]
    name = origin.encode()
    message = b"subtree/v1\n\0" + bytes([len(name)]) + name + time + bytes([len(name)]) + name
    message += (0).to_bytes(8, "big") + size.to_bytes(8, "big") + tree
    MLDSA44PublicKey.from_public_bytes(blob[1:]).verify(signature[8:], message)


def read_entries(fetch: Fetch, size: int) -> list[bytes]:
    """All entries, from the bundles of a tree of this size."""
    entries: list[bytes] = []
    for index in range(-(-size // 256)):
        width = min(256, size - index * 256)
        data = fetch(path("entries", index, width))
        for _ in range(width):
            length = int.from_bytes(data[:2], "big")
            entries.append(data[2 : 2 + length])
            assert len(entries[-1]) == length
            data = data[2 + length :]
        assert data == b""
    return entries


def check(fetch: Fetch, note: bytes, vkeys: Sequence[str]) -> tuple[int, bytes, list[bytes]]:
    """Verify a checkpoint and everything under it; returns size, root and the entries."""
    size, tree = read_checkpoint(note, vkeys)
    entries = read_entries(fetch, size)
    hashes = [leaf_hash(entry) for entry in entries]
    assert root(hashes) == tree
    level = 0
    while hashes:
        for index in range(-(-len(hashes) // 256)):
            row = hashes[index * 256 : index * 256 + 256]
            assert fetch(path(str(level), index, len(row))) == b"".join(row), f"tile {level}/{index}"
        hashes = [root(hashes[at : at + 256]) for at in range(0, len(hashes) - 255, 256)]
        level += 1
    return size, tree, entries
