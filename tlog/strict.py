"""Parsers that accept one spelling only.

Python's conveniences are holes here: ``int()`` takes ``" 42"``, ``"+42"``, ``"4_2"`` and other
scripts' digits; ``b64decode(validate=True)`` takes ``"AB=="`` for ``"AA=="``; ``bytes.fromhex`` takes
spaces; ``str.splitlines`` splits at U+2028. Whatever is parsed by this module formats back to itself.
"""

import base64
import binascii
import re

from assay.tlog.errors import MalformedError

MAX_DECIMAL = 2**63 - 1
"""The largest number that a C2SP format carries: signed 64-bit tools read them."""

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def shown(text: str | bytes, limit: int = 40) -> str:
    """A short quotation of hostile input, safe to print in a message."""
    return repr(text[:limit]) + ("…" if len(text) > limit else "")


def decimal(text: str, *, what: str) -> int:
    """Parse an unsigned decimal in its only spelling, at most 2**63 - 1.

    Raises:
        MalformedError: sign, leading zero, white space, other digits, or too large.
    """
    if not _DECIMAL.fullmatch(text) or (value := int(text)) > MAX_DECIMAL:
        raise MalformedError(f"{what}: {shown(text)} is not a canonical decimal")
    return value


def base64_bytes(text: str, *, what: str, length: int | None = None) -> bytes:
    """Decode standard padded base64 in its only spelling (RFC 4648 §4, canonical trailing bits).

    Args:
        text: the encoded form.
        what: the field's name, for the message.
        length: the exact number of decoded bytes, if the format fixes it.

    Raises:
        MalformedError: another alphabet, missing padding, stray bits or another length.
    """
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise MalformedError(f"{what}: {shown(text)} is not base64") from error
    if base64_text(value) != text:
        raise MalformedError(f"{what}: {shown(text)} is not canonical base64")
    if length is not None and len(value) != length:
        raise MalformedError(f"{what}: {len(value)} bytes, not {length}")
    return value


def base64_text(value: bytes) -> str:
    """Encode as standard padded base64; the inverse of :func:`base64_bytes`."""
    return base64.b64encode(value).decode("ascii")


def hex_bytes(text: str, *, what: str, length: int | None = None) -> bytes:
    """Decode lower-case hexadecimal without separators.

    Raises:
        MalformedError: upper case, white space, an odd number of digits or another length.
    """
    if not _HEX.fullmatch(text):
        raise MalformedError(f"{what}: {shown(text)} is not lower-case hexadecimal")
    value = bytes.fromhex(text)
    if length is not None and len(value) != length:
        raise MalformedError(f"{what}: {len(value)} bytes, not {length}")
    return value


def utf8_text(data: bytes, *, what: str) -> str:
    """Decode UTF-8 strictly (no surrogates, no overlong forms).

    Raises:
        MalformedError: not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: not UTF-8") from error


def lines(text: str, *, what: str) -> list[str]:
    r"""Split at ``\n`` only; the text must be empty or end with a newline.

    Raises:
        MalformedError: a last line without its newline.
    """
    if not text:
        return []
    if not text.endswith("\n"):
        raise MalformedError(f"{what}: the last line has no newline")
    return text[:-1].split("\n")
