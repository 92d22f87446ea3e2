"""Reading a wheel without pip: every member checked against RECORD, nothing executed, nothing generated.

Only what a package's code needs is kept. ``*.data/purelib`` and ``platlib`` are merged, as an installer
does; scripts, headers and data files are left out, and so are RECORD, once it is checked, and whatever else an installer
writes into ``*.dist-info``.
"""

import base64
import csv
import hashlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable

from assay.builder.tree import check_path
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

MAX_WHEEL_SIZE = 256 << 20
MAX_UNPACKED_SIZE = 1 << 30
MAX_MEMBERS = 65_536

_SIGNATURES = (".jws", ".p7s")
_INSTALLER_FILES = {
    *("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"),
    *("RECORD", "RECORD.jws", "RECORD.p7s"),
}
_LIBRARY_SCHEMES = {"purelib", "platlib"}
_SEPARATORS = re.compile(r"[-_.]+")


def normalized(name: str) -> str:
    """A package's name in the form in which names are compared (PEP 503)."""
    return _SEPARATORS.sub("-", name).lower()


def unpack_wheel(data: bytes, *, name: str, version: str) -> dict[str, bytes]:
    """Return the files that a wheel puts on the import path.

    Args:
        data: the wheel, whose digest the caller has compared with the lock.
        name: the package that it must hold.
        version: the version that it must hold.

    Raises:
        MalformedError: no zip, too large, a repeated member, an unsafe name (code ``unsafe-path``), a link, or not
            exactly one ``.dist-info`` of this name and version.
        UntrustedError: RECORD leaves a member out, lists one too many, or has another digest (code ``bad-record``).
    """
    members = _read_members(data, what=f"wheel {name}")
    info = _dist_info(members, name=name, version=version)
    _check_record(members, f"{info}/RECORD", what=f"wheel {name}")
    files: dict[str, bytes] = {}
    for path, content in members.items():
        placed = _placed(path, info)
        if placed is not None and files.setdefault(placed, content) != content:
            raise MalformedError(f"wheel {name}: two contents for {placed}")
    return files


def wheel_paths(data: bytes, *, name: str, version: str) -> list[str]:
    """The paths that :func:`unpack_wheel` gives for a wheel that it accepted, without unpacking it again.

    Raises:
        MalformedError: no zip, or not exactly one ``.dist-info`` of this name and version.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, ValueError) as error:
        raise MalformedError(f"wheel {name}: not a readable zip archive ({error})") from error
    info = _dist_info(names, name=name, version=version)
    return [placed for path in names if (placed := _placed(path, info)) is not None]


def _read_members(data: bytes, *, what: str) -> dict[str, bytes]:
    if len(data) > MAX_WHEEL_SIZE:
        raise MalformedError(f"{what}: {len(data)} bytes are more than {MAX_WHEEL_SIZE}", code="too-large")
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_UNPACKED_SIZE:
                raise MalformedError(f"{what}: too many or too large members", code="too-large")
            for info in infos:
                _check_member(info, what=what)
                if info.filename in members:
                    raise MalformedError(f"{what}: {strict.shown(info.filename)} is there twice")
                members[info.filename] = archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise MalformedError(f"{what}: not a readable zip archive ({error})") from error
    return members


def _check_member(info: zipfile.ZipInfo, *, what: str) -> None:
    # zipfile cuts a name at its first NUL; orig_filename still has it.
    check_path(info.orig_filename, what=what)
    check_path(info.filename, what=what)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise MalformedError(f"{what}: {info.filename} is not a regular file", code="unsafe-path")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MalformedError(f"{what}: {info.filename} is encrypted or compressed in an unknown way")


def _dist_info(members: Iterable[str], *, name: str, version: str) -> str:
    folders = {path.split("/")[0] for path in members if path.split("/")[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise MalformedError(f"wheel {name}: {len(folders)} .dist-info folders, not one")
    folder = folders.pop()
    found, _, found_version = folder.removesuffix(".dist-info").partition("-")
    if (normalized(found), found_version) != (normalized(name), version):
        raise MalformedError(f"wheel {name}: holds {strict.shown(folder)}, not version {version}")
    return folder


def _check_record(members: dict[str, bytes], record: str, *, what: str) -> None:
    if record not in members:
        raise UntrustedError(f"{what}: no RECORD", code="bad-record")
    unlisted = {record} | {record + ending for ending in _SIGNATURES}
    listed: dict[str, tuple[str, str]] = {}
    for row in csv.reader(io.StringIO(strict.utf8_text(members[record], what=what), newline="")):
        if len(row) != 3 or row[0] in listed:
            raise UntrustedError(f"{what}: a malformed or repeated row in RECORD", code="bad-record")
        listed[row[0]] = (row[1], row[2])
    if stray := sorted((members.keys() ^ listed.keys()) - unlisted):
        raise UntrustedError(f"{what}: RECORD and archive disagree on {stray[0]}", code="bad-record")
    for path in sorted(members.keys() - unlisted):
        if listed[path] != (_record_digest(members[path]), str(len(members[path]))):
            raise UntrustedError(f"{what}: {path} has another digest or size than RECORD", code="bad-record")


def _record_digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + digest.rstrip(b"=").decode("ascii")


def _placed(path: str, dist_info: str) -> str | None:
    """Where a member goes on the import path, or None if it is left out."""
    folder, _, rest = path.partition("/")
    if folder == dist_info:
        return None if rest in _INSTALLER_FILES else path
    if folder == dist_info.removesuffix(".dist-info") + ".data":
        scheme, _, inner = rest.partition("/")
        return inner if scheme in _LIBRARY_SCHEMES and inner else None
    return path
