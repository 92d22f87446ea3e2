"""The two archive formats inside a Debian package, read strictly: ar outside, (compressed) tar inside.

Neither dpkg nor tarfile has a part in it: what they skip or tolerate would be a second opinion on what a package
holds. Only what Debian's own packages use is accepted, and everything has a bound before it is unpacked.
"""

import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from assay.tlog import strict
from assay.tlog.errors import MalformedError

MAX_UNPACKED_SIZE = 512 << 20
"""Bytes of one unpacked tar."""

MAX_TAR_MEMBERS = 65_536

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_BLOCK = 512
_XZ_MEMORY = 256 << 20
_OCTAL = re.compile(rb"[0-7]{1,11}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,9}")

REGULAR, HARD_LINK, SYMBOLIC_LINK, FOLDER = b"0", b"1", b"2", b"5"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_MAX_LONG_NAME = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar.

    Attributes:
        name: as the archive spells it.
        kind: one of ``REGULAR``, ``HARD_LINK``, ``SYMBOLIC_LINK`` and ``FOLDER``.
        mode: permission bits.
        link: where a link leads, as the archive spells it.
        content: of a regular file.
    """

    name: str
    kind: bytes
    mode: int
    link: str
    content: bytes


def ar_members(data: bytes, *, what: str) -> dict[str, bytes]:
    r"""Split an ar archive into its members, in their order.

    Layout (deb(5)): ``!<arch>\n``, then for each member name(16) mtime(12) uid(6) gid(6) mode(8) size(10) and
    a backtick with a newline, padded with spaces; the content; a newline if its length is odd.

    Raises:
        MalformedError: another magic, a header of another form, a repeated name, a member that is cut off.
    """
    if not data.startswith(_AR_MAGIC):
        raise MalformedError(f"{what}: not an ar archive")
    members: dict[str, bytes] = {}
    at = len(_AR_MAGIC)
    while at < len(data):
        header = data[at : at + _AR_HEADER]
        size = header[48:58].rstrip(b" ")
        if len(header) != _AR_HEADER or header[58:] != b"`\n" or not _NUMBER.fullmatch(size):
            raise MalformedError(f"{what}: a malformed ar header at byte {at}")
        name = header[:16].rstrip(b" ").decode("ascii", "backslashreplace")
        at, end = at + _AR_HEADER, at + _AR_HEADER + int(size)
        if end > len(data) or name in members:
            raise MalformedError(f"{what}: ar member {strict.shown(name)} is cut off or repeated")
        members[name] = data[at:end]
        at = end + (end & 1)
        if end & 1 and data[end:at] != b"\n":
            raise MalformedError(f"{what}: ar member {strict.shown(name)} is not padded")
    return members


def decompress(name: str, data: bytes, *, what: str, max_size: int = MAX_UNPACKED_SIZE) -> bytes:
    """Unpack a tar by the ending of its member's name: none, ``.gz`` or ``.xz``.

    Raises:
        MalformedError: another compression (code ``compression``), more than ``max_size`` bytes (code ``too-large``),
            damaged, or followed by anything.
    """
    ending = name.partition(".tar")[2]
    try:
        match ending:
            case "":
                if len(data) > max_size:
                    raise MalformedError(f"{what}: {name} is larger than {max_size} bytes", code="too-large")
                return data
            case ".gz":
                gzip = zlib.decompressobj(wbits=31)
                content, ended = gzip.decompress(data, max_size + 1), gzip.eof
                rest = gzip.unused_data
            case ".xz":
                xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
                content, ended = xz.decompress(data, max_size + 1), xz.eof
                rest = xz.unused_data
            case _:
                raise MalformedError(f"{what}: {name}: only .gz and .xz are known", code="compression")
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise MalformedError(f"{what}: {name} is damaged ({error})") from error
    if len(content) > max_size:
        raise MalformedError(f"{what}: {name} unpacks to more than {max_size} bytes", code="too-large")
    if not ended or rest:
        raise MalformedError(f"{what}: {name} is cut off or followed by other bytes")
    return content


def tar_members(data: bytes, *, what: str) -> Iterator[Member]:
    """Read a tar in the ustar or GNU layout (POSIX.1 ustar; GNU long names ``L`` and ``K``).

    Raises:
        MalformedError: a wrong checksum, a member of another kind than a file, a folder or a link (code
            ``unsafe-member``), too many members, one that is cut off, or no end mark followed by zeros only.
    """
    at = 0
    names: dict[bytes, bytes] = {}
    for _ in range(MAX_TAR_MEMBERS):
        header = data[at : at + _BLOCK]
        if header == bytes(_BLOCK):
            _check_end(data, at, what=what)
            return
        kind, size = _check_header(header, at=at, what=what)
        content = data[at + _BLOCK : at + _BLOCK + size]
        if len(content) != size:
            raise MalformedError(f"{what}: a tar member is cut off")
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
        if kind in (_LONG_NAME, _LONG_LINK):
            names[kind] = _long_name(content, repeated=kind in names, what=what)
            continue
        yield _member(header, kind, content, names, what=what)
        names.clear()
    raise MalformedError(f"{what}: more than {MAX_TAR_MEMBERS} members", code="too-large")


def _check_header(header: bytes, *, at: int, what: str) -> tuple[bytes, int]:
    """The kind of a member and how many bytes follow its header."""
    if len(header) != _BLOCK or header[257:262] != b"ustar":
        raise MalformedError(f"{what}: no tar header at byte {at}")
    blanked = sum(header) - sum(header[148:156]) + 8 * 0x20
    if _octal(header[148:156], what=what) != blanked:
        raise MalformedError(f"{what}: a tar header with a wrong checksum at byte {at}")
    kind = REGULAR if header[156:157] == b"\0" else header[156:157]
    if kind not in (REGULAR, HARD_LINK, SYMBOLIC_LINK, FOLDER, _LONG_NAME, _LONG_LINK):
        name = strict.shown(_cut(header[:100]))
        raise MalformedError(f"{what}: {name} is neither file, folder nor link", code="unsafe-member")
    size = _octal(header[124:136], what=what)
    if size and kind not in (REGULAR, _LONG_NAME, _LONG_LINK):
        raise MalformedError(f"{what}: a tar member with content that has none")
    return kind, size


def _member(header: bytes, kind: bytes, content: bytes, names: dict[bytes, bytes], *, what: str) -> Member:
    name, link = _cut(header[:100]), _cut(header[157:257])
    if header[257:265] == b"ustar\x0000" and (prefix := _cut(header[345:500])):
        name = prefix + b"/" + name
    return Member(
        name=strict.utf8_text(names.get(_LONG_NAME, name), what=what),
        kind=kind,
        mode=_octal(header[100:108], what=what) & 0o7777,
        link=strict.utf8_text(names.get(_LONG_LINK, link), what=what),
        content=content,
    )


def _long_name(content: bytes, *, repeated: bool, what: str) -> bytes:
    if repeated or not 1 < len(content) <= _MAX_LONG_NAME or content.find(0) != len(content) - 1:
        raise MalformedError(f"{what}: a malformed long name")
    return content[:-1]


def _check_end(data: bytes, at: int, *, what: str) -> None:
    rest = data[at:]
    if len(rest) < 2 * _BLOCK or len(rest) % _BLOCK or any(rest):
        raise MalformedError(f"{what}: the tar does not end in zero blocks")


def _octal(field: bytes, *, what: str) -> int:
    digits = field.strip(b" \0")
    if not _OCTAL.fullmatch(digits):
        raise MalformedError(f"{what}: {strict.shown(field)} is no octal number of a tar header")
    return int(digits, 8)


def _cut(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
