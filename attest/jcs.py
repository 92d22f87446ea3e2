"""Canonical JSON (RFC 8785) and strict readers for it.

``json.loads`` keeps the last of two equal keys, reads NaN and floats, and accepts any spacing. Here a
document has one spelling: what is parsed as canonical is re-encoded and compared byte for byte.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import rfc8785

from assay.tlog import strict
from assay.tlog.errors import MalformedError

T = TypeVar("T")

MAX_INTEGER = 2**53 - 1
"""The largest magnitude that every JSON reader keeps exactly (RFC 8785 §3.2.2.3, I-JSON)."""

Json = Any
"""A JSON value without floats: None, bool, int, str, list or dict with text keys."""


def canonical(value: Json) -> bytes:
    """Encode a value of our own as RFC 8785 JSON.

    Raises:
        MalformedError: a float, an integer beyond 2**53 - 1, or text that is not Unicode scalar values.
    """
    _refuse_floats(value)
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise MalformedError(f"no canonical JSON: {error}") from error


def parse_json(data: bytes, *, what: str, max_bytes: int) -> Json:
    """Parse JSON in any spacing and key order, but without floats, NaN, repeated keys or huge integers.

    Raises:
        MalformedError: longer than ``max_bytes``, not UTF-8, not JSON, or any of the above.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"{what}: {len(data)} bytes are more than {max_bytes}", code="too-large")
    text = strict.utf8_text(data, what=what)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_members,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            parse_int=_bounded_integer,
        )
    except MalformedError as error:
        raise MalformedError(f"{what}: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise MalformedError(f"{what}: not JSON ({type(error).__name__})") from error


def parse_canonical(data: bytes, *, what: str, max_bytes: int) -> Json:
    """Parse JSON that must already be in its RFC 8785 spelling.

    Raises:
        MalformedError: as :func:`parse_json`, or another spelling of the same value (code ``not-canonical``).
    """
    value = parse_json(data, what=what, max_bytes=max_bytes)
    if canonical(value) != data:
        raise MalformedError(f"{what}: not the RFC 8785 spelling of its value", code="not-canonical")
    return value


def _refuse_floats(value: Json) -> None:
    match value:
        case float():
            raise MalformedError("floating-point numbers have no place in an entry")
        case Mapping():
            for member in value.values():
                _refuse_floats(member)
        case str() | bytes():
            return
        case Sequence():
            for item in value:
                _refuse_floats(item)


def _unique_members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("an object has the same key twice")
    return members


def _refuse_number(text: str) -> NoReturn:
    raise MalformedError(f"{strict.shown(text)} is not an integer")


def _bounded_integer(text: str) -> int:
    # The length is looked at first: int() of a very long literal is slow, and refused by Python anyway.
    if len(text) > 17 or abs(value := int(text)) > MAX_INTEGER:
        raise MalformedError(f"the integer {strict.shown(text)} is beyond 2**53 - 1")
    return value


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
        if missing := sorted(set(required) - set(value)):
            raise MalformedError(f"{what}: {', '.join(missing)} is missing")
        if unknown := sorted(set(value) - set(required) - set(optional)):
            raise MalformedError(f"{what}: {strict.shown(unknown[0])} is not a known field")
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
        """A string of at most ``max_length`` characters without control characters below 0x20."""
        value = self._typed(key, str)
        if not value and not empty:
            raise MalformedError(f"{self.name(key)}: empty")
        if len(value) > max_length or any(ord(char) < 0x20 for char in value):
            raise MalformedError(f"{self.name(key)}: too long, or has control characters")
        return value

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

    def fields(self, key: str, *, required: Collection[str], optional: Collection[str] = ()) -> "Fields":
        """A member that is itself an object."""
        return Fields(self._members[key], what=self.name(key), required=required, optional=optional)

    def nullable(self, key: str, read: Callable[[str], T]) -> T | None:
        """None for JSON null, else what ``read(key)`` gives."""
        return None if self._members[key] is None else read(key)

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self._members[key]
        if not isinstance(value, kind):
            raise MalformedError(f"{self.name(key)}: not a {kind.__name__}")
        return value
