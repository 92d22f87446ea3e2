"""Strict reading of the TOML files that a recipe is made of: known keys only, each of its type."""

import re
import tomllib
from typing import Any

from assay.tlog import strict
from assay.tlog.errors import MalformedError

_CONTROL = re.compile("[\x00-\x1f\x7f]")


class Table:
    """One TOML table.

    Args:
        value: what should be a table.
        what: its name, for messages.
        required: keys that must be there.
        optional: keys that may be absent; readers then give an empty value.

    Raises:
        MalformedError: no table, a missing key or an unknown one; the readers raise it for another type.
    """

    def __init__(
        self, value: object, *, what: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{what}: not a table")
        if missing := sorted(set(required) - value.keys()):
            raise MalformedError(f"{what}: {', '.join(missing)} is missing")
        if unknown := sorted(value.keys() - set(required) - set(optional)):
            raise MalformedError(f"{what}: {strict.shown(unknown[0])} is not a known key")
        self._members: dict[str, Any] = value
        self._what = what

    def name(self, key: str) -> str:
        """The path of a member, for messages."""
        return f"{self._what}.{key}"

    def value(self, key: str) -> Any:
        """A member as TOML gave it, or an empty table."""
        return self._members.get(key, {})

    def text(self, key: str) -> str:
        """A non-empty string without control characters."""
        return _text(self._members[key], what=self.name(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of such strings."""
        return tuple(_text(item, what=self.name(key)) for item in self._array(key))

    def texts_of(self, *keys: str) -> dict[str, str]:
        """Those of the keys that are there, in this order, with such strings as values."""
        return {key: self.text(key) for key in keys if key in self._members}

    def text_map(self, key: str) -> dict[str, str]:
        """A table whose values are such strings."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise MalformedError(f"{self.name(key)}: not a table")
        return {name: _text(item, what=f"{self.name(key)}.{name}") for name, item in value.items()}

    def documents(self, key: str) -> dict[str, str]:
        """A table whose values are strings of any kind: whole texts."""
        value = self.value(key)
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise MalformedError(f"{self.name(key)}: not a table of texts")
        return value

    def tables(
        self, key: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> tuple["Table", ...]:
        """An array of tables, each with these keys."""
        return tuple(
            Table(item, what=f"{self.name(key)}[{number}]", required=required, optional=optional)
            for number, item in enumerate(self._array(key))
        )

    def integer(self, key: str, *, low: int, high: int) -> int:
        """An integer in [low, high]."""
        value = self._members[key]
        if type(value) is not int or not low <= value <= high:
            raise MalformedError(f"{self.name(key)}: not an integer in [{low}, {high}]")
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self._members[key]
        if not isinstance(value, bool):
            raise MalformedError(f"{self.name(key)}: not true or false")
        return value

    def sha256(self, key: str) -> bytes:
        """A SHA-256 digest in lower-case hex."""
        return strict.hex_bytes(self.text(key), what=self.name(key), length=32)

    def _array(self, key: str) -> list[Any]:
        value = self._members.get(key, [])
        if not isinstance(value, list):
            raise MalformedError(f"{self.name(key)}: not an array")
        return value


def parse_toml(data: bytes, *, what: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    """Parse a TOML file whose top-level keys are these.

    Raises:
        MalformedError: not UTF-8, not TOML, a missing or an unknown key.
    """
    try:
        table = tomllib.loads(strict.utf8_text(data, what=what))
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what}: not TOML ({error})") from error
    return Table(table, what=what, required=required, optional=optional)


def _text(value: object, *, what: str) -> str:
    if not isinstance(value, str) or not value or _CONTROL.search(value):
        raise MalformedError(f"{what}: not a non-empty string of printable characters")
    return value
