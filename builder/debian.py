"""One Debian package: who it says it is, and the files that it would install. Nothing is executed or installed."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass

from assay.builder import deb_archive
from assay.builder.deb_archive import FOLDER, HARD_LINK, REGULAR, Member
from assay.builder.tree import check_path
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

MAX_PACKAGE_SIZE = 256 << 20

PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,63}")
"""Debian Policy §5.6.1."""

PACKAGE_VERSION = re.compile(r"(?:[0-9]{1,9}:)?[0-9][0-9A-Za-z.+~-]{0,99}")
"""Debian Policy §5.6.12."""

ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

SECURITY_ARCHIVE = "debian-security"

_MAX_LINKS = 8
_FIELD = re.compile(r"([A-Za-z0-9-]+):[ \t]*(.*)")
_EXECUTABLE = 0o111


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A regular file of a package; ``program`` says that someone may execute it."""

    content: bytes
    program: bool


@dataclass(frozen=True, slots=True)
class Package:
    """An unpacked package.

    Attributes:
        name: and ``version``, ``architecture``: as its control file says.
        source: the source package that it was built from, whose folder it has in an archive's pool.
        files: by path relative to the root.
        links: symbolic links by path -> where each leads, relative to the root.
    """

    name: str
    version: str
    architecture: str
    source: str
    files: Mapping[str, PackagedFile]
    links: Mapping[str, str]

    @property
    def file_name(self) -> str:
        """What the package's file is called in an archive's pool, where the version's epoch is left out."""
        return f"{self.name}_{self.version.partition(':')[2] or self.version}_{self.architecture}.deb"

    def pool_path(self, archive: str) -> str:
        """Where the file lies in an archive, in its main component; security updates have a pool of their own."""
        pool = "pool/updates/main" if archive == SECURITY_ARCHIVE else "pool/main"
        folder = self.source[:4] if self.source.startswith("lib") else self.source[:1]
        return f"{pool}/{folder}/{self.source}/{self.file_name}"

    def file(self, path: str) -> PackagedFile:
        """The file at a path; the last part may be a symbolic link within the package.

        Raises:
            UntrustedError: the package has no such file (code ``base-missing``).
        """
        found = path
        for _ in range(_MAX_LINKS):
            if (file := self.files.get(found)) is not None:
                return file
            if (target := self.links.get(found)) is None:
                break
            found = target
        raise UntrustedError(f"package {self.name} {self.version}: holds no file {path}", code="base-missing")


def unpack_package(data: bytes, *, what: str) -> Package:
    """Unpack a ``.deb`` (deb(5), format 2.0) in memory.

    Args:
        data: the file, whose digest the caller compares with the lock.
        what: its name, for messages.

    Raises:
        MalformedError: too large, not a package, an unsafe or repeated path or a link that leaves the tree (code
            ``unsafe-path``), a device or the like (code ``unsafe-member``), a compression that is not known.
    """
    if len(data) > MAX_PACKAGE_SIZE:
        raise MalformedError(f"{what}: {len(data)} bytes are more than {MAX_PACKAGE_SIZE}", code="too-large")
    members = deb_archive.ar_members(data, what=what)
    names = list(members)
    if (
        len(names) != 3
        or (names[0], members[names[0]]) != ("debian-binary", b"2.0\n")
        or [name.partition(".tar")[:2] for name in names[1:]] != [("control", ".tar"), ("data", ".tar")]
    ):
        raise MalformedError(f"{what}: does not consist of debian-binary 2.0, control and data")
    control, _ = _unpack(names[1], members[names[1]], what=what)
    files, links = _unpack(names[2], members[names[2]], what=what)
    if "control" not in control:
        raise MalformedError(f"{what}: no control file")
    fields = _control_fields(control["control"].content, what=what)
    return Package(
        name=_field(fields, "Package", PACKAGE_NAME, what=what),
        version=_field(fields, "Version", PACKAGE_VERSION, what=what),
        architecture=_field(fields, "Architecture", ARCHITECTURE, what=what),
        source=_field(fields, "Source" if "Source" in fields else "Package", PACKAGE_NAME, what=what),
        files=files,
        links=links,
    )


def _unpack(name: str, data: bytes, *, what: str) -> tuple[dict[str, PackagedFile], dict[str, str]]:
    files: dict[str, PackagedFile] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    what = f"{what}: {name}"
    for member in deb_archive.tar_members(deb_archive.decompress(name, data, what=what), what=what):
        path = _path(member, what=what)
        if path in files or path in links or path in folders:
            raise MalformedError(f"{what}: {strict.shown(path)} is there twice", code="unsafe-path")
        if member.kind == FOLDER:
            folders.add(path)
        elif member.kind == REGULAR:
            files[path] = PackagedFile(member.content, program=bool(member.mode & _EXECUTABLE))
        elif member.kind == HARD_LINK:
            files[path] = _hard_linked(member, files, what=what)
        else:
            links[path] = _symbolic_target(path, member.link, what=what)
    _check_nesting(files.keys() | links.keys(), folders, what=what)
    return files, links


def _path(member: Member, *, what: str) -> str:
    """A member's path: Debian writes ``./usr/bin/x``, and ``./`` for the root itself."""
    path = member.name.removeprefix("./")
    if member.kind == FOLDER:
        path = path.removesuffix("/")
        if path in ("", "."):
            return ""
    return check_path(path, what=what)


def _hard_linked(member: Member, files: Mapping[str, PackagedFile], *, what: str) -> PackagedFile:
    target = check_path(member.link.removeprefix("./"), what=what)
    if target not in files:
        raise MalformedError(f"{what}: {member.name} links to no earlier file", code="unsafe-path")
    return files[target]


def _symbolic_target(path: str, link: str, *, what: str) -> str:
    """Where a symbolic link leads, relative to the root that the package is unpacked in."""
    parts = [] if link.startswith("/") else posixpath.dirname(path).split("/")
    for part in link.split("/"):
        if part == ".." and not [name for name in parts if name]:
            raise MalformedError(f"{what}: the link {strict.shown(path)} leaves the tree", code="unsafe-path")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    target = "/".join(name for name in parts if name)
    return check_path(target, what=what) if target else target


def _check_nesting(paths: set[str], folders: set[str], *, what: str) -> None:
    """Nothing may lie below what is no folder: a file "below" a link would be written where the link leads."""
    for path in paths | folders:
        above = posixpath.dirname(path)
        while above:
            if above in paths:
                raise MalformedError(f"{what}: {strict.shown(path)} lies below a file", code="unsafe-path")
            above = posixpath.dirname(above)


def _control_fields(data: bytes, *, what: str) -> dict[str, str]:
    """The first-line values of a control file's fields (Debian Policy §5.1)."""
    fields: dict[str, str] = {}
    for line in strict.utf8_text(data, what=what).removesuffix("\n").split("\n"):
        if line.startswith((" ", "\t")):
            continue
        match = _FIELD.fullmatch(line)
        if match is None or match[1] in fields:
            raise MalformedError(f"{what}: control: {strict.shown(line)} is no field, or a repeated one")
        fields[match[1]] = match[2].rstrip()
    return fields


def _field(fields: Mapping[str, str], name: str, pattern: re.Pattern[str], *, what: str) -> str:
    value = fields.get(name, "")
    if name == "Source":
        value = value.partition(" ")[0]  # "name (version)" where the versions differ
    if not pattern.fullmatch(value):
        raise MalformedError(f"{what}: control: {name} {strict.shown(value)} has another form")
    return value
