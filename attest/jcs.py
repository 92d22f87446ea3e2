"""Canonical JSON (RFC 8785) and strict readers for it.

``json.loads`` keeps the last of two equal keys, reads NaN and floats, and accepts any spacing. Here a
document has one spelling: what is parsed as canonical is re-encoded and compared byte for byte.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import rfc8785

from assay.tlog import strict
from assay.tlog.errors import MalformedError

T = TypeVar("T")

MAX_INTEGER = 2**53 - 1
"""The largest magnitude that every JSON reader keeps exactly (RFC 8785 §3.2.2.3, I-JSON)."""

MAX_DEPTH = 64
"""How deep arrays and objects may nest. A limit of our own: Python's depends on who calls and on its version,
and two judges of one entry must agree."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters (C0, DEL, C1), line separators, and what reorders the text around it."""

Json = Any
"""A JSON value without floats: None, bool, int, str, list or dict with text keys."""


def canonical(value: Json) -> bytes:
    """Encode a value of our own as RFC 8785 JSON.

    Raises:
        MalformedError: a float, an integer beyond 2**53 - 1, text that is not Unicode scalar values, or
            nesting deeper than 64.
    """
    _require_plain(value, MAX_DEPTH)
    data = _encode(value)
    # Only names beyond ASCII can sort differently by UTF-16 code units (§3.2.3) than by code points.
    return data if data.isascii() else rfc8785.dumps(value)


def parse_json(data: bytes, *, what: str, max_bytes: int) -> Json:
    """Parse JSON in any spacing and key order, but only with what :func:`canonical` can write.

    Raises:
        MalformedError: longer than ``max_bytes`` (code ``too-large``), not UTF-8, not JSON, a float, NaN, a
            repeated key, a huge integer, a lone surrogate, or nesting deeper than 64.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"{what}: {len(data)} bytes are more than {max_bytes}", code="too-large")
    text = strict.utf8_text(data, what=what)
    try:
        value = _DECODER.decode(text)
        _require_plain(value, MAX_DEPTH)
    except MalformedError as error:
        raise MalformedError(f"{what}: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise MalformedError(f"{what}: not JSON ({type(error).__name__})") from error
    return value


def parse_canonical(data: bytes, *, what: str, max_bytes: int) -> Json:
    """Parse JSON that must already be in its RFC 8785 spelling.

    Raises:
        MalformedError: as :func:`parse_json`, or another spelling of the same value (code ``not-canonical``).
    """
    value = parse_json(data, what=what, max_bytes=max_bytes)
    # ASCII in, ASCII out: then both encoders agree, and the quick one is enough.
    spelling = _encode(value) if data.isascii() else rfc8785.dumps(value)
    if spelling != data:
        raise MalformedError(f"{what}: not the RFC 8785 spelling of its value", code="not-canonical")
    return value


_encode_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
"""RFC 8785 but for the order of names beyond ASCII: the escapes of §3.2.2.2 are those of ``json``."""


def _encode(value: Json) -> bytes:
    return _encode_text(value).encode()


def _require_plain(value: Json, depth: int) -> None:
    """Only what an entry may hold: no floats, small integers, Unicode text, at most ``depth`` containers deep."""
    kind = type(value)
    if isinstance(value, str):
        if not value.isascii():
            _require_unicode(value)
    elif kind is dict or kind is list or kind is tuple:
        if depth == 0:
            raise MalformedError(f"nested deeper than {MAX_DEPTH}")
        for key in value if kind is dict else ():
            if not isinstance(key, str):
                raise MalformedError("a member's name is not text")
            if not key.isascii():
                _require_unicode(key)
        for item in value.values() if kind is dict else value:
            _require_plain(item, depth - 1)
    elif kind is int:
        if abs(value) > MAX_INTEGER:
            raise MalformedError("an integer is beyond 2**53 - 1")
    elif kind is float:
        raise MalformedError("floating-point numbers have no place in an entry")
    elif value is not None and kind is not bool:
        raise MalformedError(f"{kind.__name__} is not JSON")


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"{strict.shown(text)} is not Unicode text") from error


def _unique_members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("an object has the same key twice")
    return members


def _bounded_integer(text: str) -> int:
    # The length is looked at first: int() of a very long literal is slow, and refused by Python anyway.
    if len(text) > 17 or abs(value := int(text)) > MAX_INTEGER:
        raise MalformedError(f"the integer {strict.shown(text)} is beyond 2**53 - 1")
    return value


def _check_names(
    value: Mapping[str, Json], *, what: str, required: Collection[str], optional: Collection[str]
) -> None:
    if missing := sorted(set(required) - set(value)):
        raise MalformedError(f"{what}: {', '.join(missing)} is missing")
    if unknown := sorted(set(value) - set(required) - set(optional)):
        raise MalformedError(f"{what}: {strict.shown(unknown[0])} is not a known field")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_members, parse_int=_bounded_integer)


class Fields:
    """The members of one JSON object, read strictly: known keys only, each of the type that is asked for.

    Args:
        value: what should be an object.
        what: the object's name, for messages.
        required: keys that must be there.
        optional: keys that may be absent.

    Raises:
        MalformedError: no object, a missing key or an unknown one; the readers raise it for a wrong type.
    """

    def __init__(
        self, value: Json, *, what: str, required: Collection[str], optional: Collection[str] = ()
    ) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what}: not a JSON object")
        if optional or value.keys() != set(required):
            _check_names(value, what=what, required=required, optional=optional)
        self._members = value
        self._what = what

    def name(self, key: str) -> str:
        """The path of a member, for messages."""
        return f"{self._what}.{key}"

    def has(self, key: str) -> bool:
        """Whether an optional member is there."""
        return key in self._members

    def value(self, key: str) -> Json:
        """A member of any type."""
        return self._members[key]

    def text(self, key: str, *, max_length: int = 1024, empty: bool = False) -> str:
        """A string of at most ``max_length`` characters, none of which controls or reorders what is printed."""
        value = self._typed(key, str)
        if not value and not empty:
            raise MalformedError(f"{self.name(key)}: empty")
        return self._printable(key, value, max_length=max_length)

    def integer(self, key: str, *, high: int = MAX_INTEGER) -> int:
        """An integer in [0, high]; JSON's ``true`` is not one."""
        value = self._members[key]
        if type(value) is not int or not 0 <= value <= high:
            raise MalformedError(f"{self.name(key)}: not an integer in [0, {high}]")
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        return self._typed(key, bool)

    def hex(self, key: str, *, length: int) -> bytes:
        """Lower-case hexadecimal of exactly ``length`` bytes."""
        return strict.hex_bytes(self._typed(key, str), what=self.name(key), length=length)

    def base64(self, key: str, *, length: int | None = None, max_length: int = 65_535) -> bytes:
        """Standard base64 in its only spelling."""
        value = strict.base64_bytes(self._typed(key, str), what=self.name(key), length=length)
        if len(value) > max_length:
            raise MalformedError(f"{self.name(key)}: longer than {max_length} bytes")
        return value

    def array(self, key: str, *, max_items: int) -> list[Json]:
        """A list of at most ``max_items`` values."""
        value = self._typed(key, list)
        if len(value) > max_items:
            raise MalformedError(f"{self.name(key)}: more than {max_items} items")
        return value

    def texts(self, key: str, *, max_items: int, max_length: int) -> tuple[str, ...]:
        """A list of non-empty strings in any order, each as :meth:`text` takes it."""
        items = self.array(key, max_items=max_items)
        if any(not isinstance(item, str) or not item for item in items):
            raise MalformedError(f"{self.name(key)}: not a list of texts")
        return tuple(self._printable(key, item, max_length=max_length) for item in items)

    def sorted_names(self, key: str, *, max_items: int, max_length: int) -> tuple[str, ...]:
        """A list of different, non-empty names in ascending order of their code points."""
        names = self.array(key, max_items=max_items)
        if any(not isinstance(name, str) or not name for name in names):
            raise MalformedError(f"{self.name(key)}: not a list of names")
        if sorted(set(names)) != names:
            raise MalformedError(f"{self.name(key)}: not sorted, or one stands twice")
        return tuple(self._printable(key, name, max_length=max_length) for name in names)

    def fields(self, key: str, *, required: Collection[str], optional: Collection[str] = ()) -> "Fields":
        """A member that is itself an object."""
        return Fields(self._members[key], what=self.name(key), required=required, optional=optional)

    def nullable(self, key: str, read: Callable[[str], T]) -> T | None:
        """None for JSON null, else what ``read(key)`` gives."""
        return None if self._members[key] is None else read(key)

    def _printable(self, key: str, value: str, *, max_length: int) -> str:
        if len(value) > max_length or _UNPRINTABLE.search(value):
            raise MalformedError(f"{self.name(key)}: too long, or has control characters")
        return value

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self._members[key]
        if not isinstance(value, kind):
            raise MalformedError(f"{self.name(key)}: not a {kind.__name__}")
        return value
