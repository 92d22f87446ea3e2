"""Signed notes: a text, a blank line, and signature lines (c2sp.org/signed-note v1.0.0).

A parsed :class:`Note` is believed by nobody; :func:`verify_note` gives a :class:`VerifiedNote`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import KEY_ID_SIZE, VerifierKey, check_key_name
from assay.tlog.signed_message import verify_text
from assay.tlog.strict import base64_bytes, base64_text, lines, shown, utf8_text

MAX_NOTE_SIZE = 1 << 20
"""Bytes of a whole note: 100 lines of ML-DSA-44 signatures fit three times over."""

MAX_SIGNATURES = 100
"""Signature lines of a note; the specification asks for at least 16."""

_PREFIX = "\N{EM DASH} "
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: the key's name, its id (4 bytes) and the bytes after the id (at least one).

    Raises:
        MalformedError: a name that a line cannot carry, another id length, or no signature.
    """

    name: str
    key_id: bytes
    blob: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.key_id) != KEY_ID_SIZE:
            raise MalformedError(f"signature line: a key id has {KEY_ID_SIZE} bytes")
        if not self.blob:
            raise MalformedError(f"signature line of {shown(self.name)}: no signature")

    @property
    def line(self) -> str:
        r"""``— <name> <base64(key id ‖ blob)>\n``."""
        return f"{_PREFIX}{self.name} {base64_text(self.key_id + self.blob)}\n"

    def is_by(self, key: VerifierKey) -> bool:
        """Whether the line claims to be by ``key``: name and id agree. Nothing is verified."""
        return self.name == key.name and self.key_id == key.key_id


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note; neither the text nor any signature is verified.

    ``text`` ends with a newline. The order of the signatures is that of the lines.

    Raises:
        MalformedError: a text without its last newline or with control characters, or no signature or
            more than :data:`MAX_SIGNATURES`.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n"):
            raise MalformedError("note: the text does not end with a newline")
        if _CONTROL.search(self.text):
            raise MalformedError("note: a control character in the text")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise MalformedError(f"note: {len(self.signatures)} signature lines, not 1 to {MAX_SIGNATURES}")


@dataclass(frozen=True, slots=True)
class VerifiedNote:
    """A note with the keys of which every line in it verified, in the order of their first lines."""

    note: Note
    keys: tuple[VerifierKey, ...]


def parse_note(data: bytes) -> Note:
    """Parse a note; nothing is verified. :func:`format_note` gives the same bytes back.

    The text ends at the last blank line and may contain others.

    Raises:
        MalformedError: not a note, or beyond the bounds of this module; code ``signature-spelling`` if all
            that is wrong with a line is a second spelling of its base64.
    """
    if len(data) > MAX_NOTE_SIZE:
        raise MalformedError(f"note: longer than {MAX_NOTE_SIZE} bytes")
    whole = utf8_text(data, what="note")
    split = whole.rfind("\n\n")
    if split < 0:
        raise MalformedError("note: no blank line before the signatures")
    return Note(whole[: split + 1], parse_signature_lines(whole[split + 2 :]))


def format_note(note: Note) -> bytes:
    """The bytes of a note; the inverse of :func:`parse_note`.

    Raises:
        MalformedError: beyond the bound on a note's size.
    """
    data = f"{note.text}\n{''.join(signature.line for signature in note.signatures)}".encode()
    if len(data) > MAX_NOTE_SIZE:
        raise MalformedError(f"note: longer than {MAX_NOTE_SIZE} bytes")
    return data


def parse_signature_lines(text: str) -> tuple[NoteSignature, ...]:
    """Parse one or more signature lines, each with its newline; nothing is verified.

    Raises:
        MalformedError: none, more than :data:`MAX_SIGNATURES`, or a line in another spelling.
    """
    # Counted before splitting, so that a hostile text is not turned into a million strings first.
    if not 1 <= text.count("\n") <= MAX_SIGNATURES:
        raise MalformedError(f"signature lines: not 1 to {MAX_SIGNATURES}")
    return tuple(_parse_signature_line(row) for row in lines(text, what="signature lines"))


def verify_note(note: Note, keys: Sequence[VerifierKey]) -> VerifiedNote:
    """Check every line that claims to be by one of ``keys``; at least one must be there.

    Lines of unknown keys are ignored, also when only the name or only the id is known. A known key's
    bad signature rejects the whole note, even if another line of the same key is good.

    Raises:
        UntrustedError: no line by a known key (code ``no-known-signature``), a bad one (``signature``),
            or two different keys of one name and id (``ambiguous-key``).
        MalformedError: an ML-DSA-44 cosignature on a text that is no checkpoint.
    """
    known = _keys_by_line(keys)
    verified: dict[VerifierKey, None] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            verify_text(note.text, signature.blob, key)
            verified[key] = None
    if not verified:
        raise UntrustedError("note: no signature by a known key", code="no-known-signature")
    return VerifiedNote(note, tuple(verified))


def _keys_by_line(keys: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            text = f"two keys of the name {shown(key.name)} have the id {key.key_id.hex()}"
            raise UntrustedError(text, code="ambiguous-key")
    return known


def _parse_signature_line(row: str) -> NoteSignature:
    name, space, encoded = row.removeprefix(_PREFIX).partition(" ")
    if not row.startswith(_PREFIX) or not space:
        raise MalformedError(f"signature line {shown(row)}: not a dash, a name and a signature")
    value = _signature_bytes(encoded)
    return NoteSignature(name, value[:KEY_ID_SIZE], value[KEY_ID_SIZE:])


def _signature_bytes(encoded: str) -> bytes:
    """Decode; tell a second spelling of some bytes apart from what is not base64 at all.

    Other implementations decode the former, find that the signature fails, and answer accordingly.
    """
    try:
        return base64_bytes(encoded, what="signature line")
    except MalformedError as error:
        if _BASE64.fullmatch(encoded):
            raise MalformedError(str(error), code="signature-spelling") from error
        raise
