r"""The exact bytes that each type of note signature signs, and the layout around the bare signature.

====  ==========================================  =========================================
type  bytes after the key id                      signed message
====  ==========================================  =========================================
0x01  signature (64)                              the note text
0x02  signature (ASN.1 DER)                       the note text
0x04  u64 time ‖ signature (64)                   ``cosignature/v1\ntime <time>\n`` ‖ text
0x06  u64 time ‖ signature (2420)                 see :func:`subtree_message`
====  ==========================================  =========================================

Integers are big-endian; times are Unix seconds. Sources: c2sp.org/signed-note, c2sp.org/tlog-cosignature.
"""

import struct
from typing import assert_never

from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import KeyType, VerifierKey
from assay.tlog.merkle import Hash
from assay.tlog.strict import MAX_DECIMAL, shown
from assay.tlog.tree_head import parse_checkpoint

_SUBTREE_LABEL = b"subtree/v1\n\x00"
_TIME = struct.Struct(">Q")
_SIGNATURE_SIZE = {KeyType.COSIGNATURE_ED25519: 64, KeyType.COSIGNATURE_ML_DSA_44: 2420}
_MAX_OPAQUE = 255


def timed_text_message(text: str, *, time_s: int) -> bytes:
    """What a 0x04 cosignature signs: two header lines, then the whole note text.

    It does not bind the cosigner's name: an Ed25519 key belongs to one cosigner only.
    """
    check_time(time_s)
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def subtree_message(*, cosigner: str, time_s: int, origin: str, start: int, end: int, root: Hash) -> bytes:
    r"""What a 0x06 cosignature signs.

    ============= ==============================
    field         bytes
    ============= ==============================
    label         12: ``subtree/v1\n\0``
    cosigner      u8 length (1..255) ‖ UTF-8
    time          u64, Unix seconds
    log origin    u8 length (1..255) ‖ UTF-8
    start, end    u64, u64
    hash          32
    ============= ==============================

    A checkpoint is the subtree from 0 to its size.

    Raises:
        MalformedError: a name or number that the structure cannot carry, or a time other than 0 on a
            subtree that does not start at 0.
    """
    check_time(time_s)
    if not 0 <= start <= end <= MAX_DECIMAL:
        raise MalformedError(f"subtree [{start}, {end}) is out of range")
    if start != 0 and time_s != 0:
        raise MalformedError("a subtree that does not start at 0 carries no time")
    return b"".join(
        (
            _SUBTREE_LABEL,
            _opaque(cosigner, what="cosigner's name"),
            _TIME.pack(time_s),
            _opaque(origin, what="origin"),
            _TIME.pack(start),
            _TIME.pack(end),
            root,
        )
    )


def format_timed(time_s: int, signature: bytes) -> bytes:
    """The bytes after the key id of a 0x04 or 0x06 signature."""
    check_time(time_s)
    return _TIME.pack(time_s) + signature


def parse_timed(blob: bytes, key_type: KeyType) -> tuple[int, bytes]:
    """Split the bytes after the key id into the time (Unix seconds) and the bare signature.

    Raises:
        MalformedError: another length, or a time above 2**63 - 1.
    """
    size = _TIME.size + _SIGNATURE_SIZE[key_type]
    if len(blob) != size:
        raise MalformedError(f"cosignature: {len(blob)} bytes, not {size}", code="signature")
    (time_s,) = _TIME.unpack_from(blob)
    check_time(time_s)
    return time_s, blob[_TIME.size :]


def verify_text(text: str, blob: bytes, key: VerifierKey) -> int:
    """Check the bytes after the key id as a signature of ``key`` on a note text; return its time.

    The time is Unix seconds for cosignature types and 0 (no claim) for plain ones. The text of a 0x06
    signature must be a checkpoint without extension lines, which it would not cover.

    Raises:
        UntrustedError: the signature does not verify (code ``signature``), whatever the reason.
        MalformedError: a 0x06 signature on a text that is no checkpoint.
    """
    match key.type:
        case KeyType.ED25519 | KeyType.ECDSA:
            key.verify(blob, message=text.encode())
            return 0
        case KeyType.COSIGNATURE_ED25519:
            time_s, signature = _believable_timed(blob, key)
            key.verify(signature, message=timed_text_message(text, time_s=time_s))
            return time_s
        case KeyType.COSIGNATURE_ML_DSA_44:
            time_s, signature = _believable_timed(blob, key)
            head = parse_checkpoint(text)
            message = subtree_message(
                cosigner=key.name, time_s=time_s, origin=head.origin, start=0, end=head.size, root=head.root
            )
            key.verify(signature, message=message)
            return time_s
        case _:
            assert_never(key.type)


def check_time(time_s: int) -> int:
    """Return ``time_s`` if a cosignature can carry it: 0 to 2**63 - 1 Unix seconds.

    Raises:
        MalformedError: out of range.
    """
    if not 0 <= time_s <= MAX_DECIMAL:
        raise MalformedError(f"cosignature: time {time_s} is out of range")
    return time_s


def _believable_timed(blob: bytes, key: VerifierKey) -> tuple[int, bytes]:
    try:
        return parse_timed(blob, key.type)
    except MalformedError as error:
        text = f"a signature of {shown(key.name)} ({key.key_id.hex()}) does not verify: {error}"
        raise UntrustedError(text, code="signature") from error


def _opaque(text: str, *, what: str) -> bytes:
    value = text.encode()
    if not 1 <= len(value) <= _MAX_OPAQUE:
        raise MalformedError(f"{what} {shown(text)}: {len(value)} bytes, not 1 to {_MAX_OPAQUE}")
    return bytes([len(value)]) + value
