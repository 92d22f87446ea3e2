"""What a comparison of two builds finds: a frozen tree of sections and changes, with a conclusion in words.

Values are quoted from files that may be hostile: they are cut to a bounded length here, and whoever prints them
keeps control characters from the terminal. JSON escapes them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

MAX_VALUE_LENGTH = 160
MAX_CHANGES = 1000
"""Of each section; how many more there are is counted."""


class Topic(StrEnum):
    """What a section is about, in the order in which sections are shown."""

    FILES = "trusted files"
    MANIFEST = "manifest"
    ORDER = "order only"
    LIBPAL = "libpal"
    ENCLAVE = "enclave"
    WHEELS = "wheels"
    INPUTS = "inputs"
    RECIPE = "recipe"
    SIGSTRUCT = "sigstruct"
    FOLDER = "folder"

    @property
    def measured(self) -> bool:
        """Whether a change of this kind is by itself a change of what MRENCLAVE is computed from."""
        return self in (Topic.FILES, Topic.MANIFEST, Topic.ORDER, Topic.LIBPAL, Topic.ENCLAVE)


class Measured(StrEnum):
    """Whether the measured inputs (manifest text, loadable segments of libpal, layout) are equal."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        what: a path, a dotted key, a package's or a field's name.
        a: the value in the first, or None if it is not there; ``b`` in the second.
        note: where it comes from, or what it means; empty if there is nothing to say.
    """

    what: str
    a: str | None
    b: str | None
    note: str = ""

    def to_json(self) -> dict[str, str | None]:
        """Four members."""
        return {"what": self.what, "a": self.a, "b": self.b, "note": self.note or None}


@dataclass(frozen=True, slots=True)
class Section:
    """All changes on one topic; ``omitted`` counts those beyond :data:`MAX_CHANGES`."""

    topic: Topic
    changes: tuple[Change, ...]
    omitted: int = 0

    @property
    def count(self) -> int:
        """How many changes there are in all."""
        return len(self.changes) + self.omitted

    def to_json(self) -> dict[str, Any]:
        """``{"changes", "measured", "omitted", "topic"}``."""
        return {
            "topic": str(self.topic),
            "measured": self.topic.measured,
            "changes": [change.to_json() for change in self.changes],
            "omitted": self.omitted,
        }


@dataclass(frozen=True, slots=True)
class Label:
    """Which of the two it is: its kind, its name and, if it is known, its MRENCLAVE."""

    kind: str
    name: str
    mr_enclave: bytes | None

    def to_json(self) -> dict[str, str | None]:
        """Three members."""
        digest = None if self.mr_enclave is None else self.mr_enclave.hex()
        return {"kind": self.kind, "name": self.name, "mr_enclave": digest}


@dataclass(frozen=True, slots=True)
class Difference:
    """The whole comparison.

    Attributes:
        same: nothing differs of what both say, and both say something that is measured.
        measured: whether the measured inputs are equal.
        cause: the conclusion, a sentence.
    """

    a: Label
    b: Label
    sections: tuple[Section, ...]
    same: bool
    measured: Measured
    cause: str

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "same": self.same,
            "measured_inputs": str(self.measured),
            "cause": self.cause,
            "sections": [section.to_json() for section in self.sections],
        }


def lines_of(found: Difference, *, max_lines: int) -> list[str]:
    """The comparison in at most ``max_lines`` lines, each with one change; the first is the cause."""
    lines = [found.cause]
    for part in found.sections:
        lines += [f"{part.topic}: {_line(change)}" for change in part.changes]
    more = len(lines) + sum(part.omitted for part in found.sections) - max_lines
    return lines if more <= 0 else [*lines[: max_lines - 1], f"and {more + 1} more"]


def _line(change: Change) -> str:
    note = f" ({change.note})" if change.note else ""
    if change.a is None and change.b is None:
        return change.what + note
    return f"{change.what}: {change.a or 'absent'} -> {change.b or 'absent'}{note}"


def section(topic: Topic, changes: Iterable[Change]) -> Section:
    """A section of the first :data:`MAX_CHANGES` changes; the rest is counted and not kept."""
    rest = iter(changes)
    kept = tuple(islice(rest, MAX_CHANGES))
    return Section(topic, kept, sum(1 for _ in rest))


def shown(value: object) -> str:
    """A value as JSON, bytes as hex, cut to a bounded length."""
    text = value.hex() if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, default=str)
    return cut(text)


def cut(text: str) -> str:
    """Text of at most :data:`MAX_VALUE_LENGTH` characters."""
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 1] + "…"


def changes_of(a: Mapping[str, str], b: Mapping[str, str], *, both: bool = False) -> list[Change]:
    """One change for each name whose text differs.

    Args:
        a: names and texts of the first.
        b: of the second.
        both: leave out names that only one of them has, because the other is of a kind that does not say.
    """
    names = sorted(a.keys() & b.keys() if both else a.keys() | b.keys())
    return [
        Change(cut(name), _cut_or_none(a.get(name)), _cut_or_none(b.get(name)))
        for name in names
        if a.get(name) != b.get(name)
    ]


def _cut_or_none(text: str | None) -> str | None:
    return None if text is None else cut(text)
