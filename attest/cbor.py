"""Deterministic CBOR (RFC 8949 §4.2.1), the part that receipts need.

Integers, byte and text strings, arrays, maps, tags, false, true and null; lengths definite, arguments
shortest, map keys in bytewise order of their encodings and none twice. Anything else is refused, so a
value has one spelling. It is our own because the measured enclave image then holds these lines instead
of a general decoder, and because general decoders accept what a log must refuse.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assay.tlog.errors import MalformedError

MAX_DEPTH = 8

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value (major type 6)."""

    number: int
    value: Any


def encode(value: Any) -> bytes:
    """Encode a value in the deterministic form.

    Raises:
        TypeError: a type outside the subset; that is a fault of ours.
    """
    match value:
        case bool() | None:
            return bytes([_SIMPLE << 5 | {False: 20, True: 21, None: 22}[value]])
        case int():
            return _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case list() | tuple():
            return _head(_ARRAY, len(value)) + b"".join(encode(item) for item in value)
        case Tag():
            return _head(_TAG, value.number) + encode(value.value)
        case Mapping():
            pairs = sorted((encode(key), encode(member)) for key, member in value.items())
            return _head(_MAP, len(pairs)) + b"".join(key + member for key, member in pairs)
        case _:
            raise TypeError(f"no CBOR for {type(value).__name__}")


def decode(data: bytes, *, what: str) -> Any:
    """Decode exactly one value that fills ``data``.

    Raises:
        MalformedError: truncated, followed by more bytes, nested deeper than 8, or not deterministic.
    """
    value, end = _decode(data, 0, MAX_DEPTH, what)
    if end != len(data):
        raise MalformedError(f"{what}: {len(data) - end} bytes follow the CBOR value")
    return value


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            return bytes([major << 5 | extra]) + argument.to_bytes(size, "big")
    raise TypeError("no CBOR for an integer beyond 64 bits")


def _read_head(data: bytes, start: int, what: str) -> tuple[int, int, int]:
    """Major type, argument, offset after the head; refuses longer-than-needed arguments."""
    first = _take(data, start, 1, what)[0]
    major, info = first >> 5, first & 0x1F
    if info < 24:
        return major, info, start + 1
    if info > 27 or major == _SIMPLE:
        raise MalformedError(f"{what}: a CBOR form that the deterministic subset has not")
    size = 1 << (info - 24)
    argument = int.from_bytes(_take(data, start + 1, size, what), "big")
    if _head(major, argument) != data[start : start + 1 + size]:
        raise MalformedError(f"{what}: a CBOR argument is not in its shortest form")
    return major, argument, start + 1 + size


def _take(data: bytes, start: int, count: int, what: str) -> bytes:
    # Compared before slicing: a claimed length of 2**60 must cost nothing.
    if count > len(data) - start:
        raise MalformedError(f"{what}: the CBOR ends early")
    return data[start : start + count]


def _decode(data: bytes, start: int, depth: int, what: str) -> tuple[Any, int]:
    if depth == 0:
        raise MalformedError(f"{what}: CBOR nested too deeply")
    major, argument, at = _read_head(data, start, what)
    match major:
        case 0:
            return argument, at
        case 1:
            return -1 - argument, at
        case 2:
            return _take(data, at, argument, what), at + argument
        case 3:
            return _text(_take(data, at, argument, what), what), at + argument
        case 4:
            return _decode_array(data, at, argument, depth, what)
        case 5:
            return _decode_map(data, at, argument, depth, what)
        case 6:
            value, end = _decode(data, at, depth - 1, what)
            return Tag(argument, value), end
        case _:
            if argument not in _SIMPLE_VALUES:
                raise MalformedError(f"{what}: a CBOR simple value that the subset has not")
            return _SIMPLE_VALUES[argument], at


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: a CBOR text string is not UTF-8") from error


def _decode_array(data: bytes, at: int, count: int, depth: int, what: str) -> tuple[list[Any], int]:
    items = []
    for _ in range(count):
        item, at = _decode(data, at, depth - 1, what)
        items.append(item)
    return items, at


def _decode_map(data: bytes, at: int, count: int, depth: int, what: str) -> tuple[dict[Any, Any], int]:
    members: dict[Any, Any] = {}
    previous = b""
    for _ in range(count):
        key, after = _decode(data, at, depth - 1, what)
        if not isinstance(key, int | str | bytes) or isinstance(key, bool):
            raise MalformedError(f"{what}: a CBOR map key of an unsupported type")
        if (encoded := data[at:after]) <= previous and members:
            raise MalformedError(f"{what}: CBOR map keys are not in ascending order")
        previous = encoded
        members[key], at = _decode(data, after, depth - 1, what)
    return members, at
