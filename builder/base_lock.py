"""The base layer of a recipe: what it takes from which packages (``[base]``), and the lock of what that gives.

``[base]`` of ``recipe.toml`` chooses files by package and path. The lock beside it holds the packages by name,
version, architecture, place in the archive and SHA-256, the moment of the archive they are from, and every file
that results, by its place in the enclave, its origin, its class, SHA-256 and size. A manifest trusts files by digest, so
MRENCLAVE needs the lock alone; :mod:`assay.builder.base` makes it from packages, and proves it with them.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from assay.builder.debian import ARCHITECTURE, PACKAGE_NAME, PACKAGE_VERSION
from assay.builder.tables import Table, parse_toml
from assay.builder.tree import check_path, depth_first, is_bytecode
from assay.tlog import strict
from assay.tlog.errors import MalformedError

SNAPSHOT = re.compile(r"[0-9]{8}T[0-9]{6}Z")
"""A moment of an archive, as Debian's snapshot archive writes it: UTC, ``20261120T000000Z``."""

MAX_FILES = 65_536

_ARCHIVE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_CLASSES = {"data": False, "program": True}
_MAX_SIZE = 1 << 30


@dataclass(frozen=True, slots=True)
class Origin:
    """A file of a package."""

    package: str
    path: str


@dataclass(frozen=True, slots=True)
class ZipSpec:
    """A deterministic zip of ``*.py`` in the tree: Python's standard library, for one.

    Attributes:
        target: where it goes.
        origins: folders of packages; the path of a member is relative to its folder.
        exclude: members left out: a path, a path ending in ``/`` (a folder), or a bare file name.
    """

    target: str
    origins: tuple[Origin, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """``[base]`` of a recipe.

    Attributes:
        lock: the lock's file name in the recipe's folder.
        architecture: of every package that is not for ``all``.
        packages: name -> the archive that it is from.
        files: target in the tree -> origin.
        zip: or None.
        libraries: ``libpal`` and ``libsysdb`` -> origin, or empty if the recipe's own folder has them.
    """

    lock: str
    architecture: str
    packages: Mapping[str, str]
    files: Mapping[str, Origin]
    zip: ZipSpec | None
    libraries: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One package, pinned; ``path`` is its place in its archive."""

    name: str
    version: str
    architecture: str
    archive: str
    path: str
    sha256: bytes
    size: int

    @property
    def file(self) -> str:
        """The package's file name."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class LockedContent:
    """What a file holds; ``origin`` is None for the zip, which is made from its members."""

    origin: Origin | None
    program: bool
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class BaseLock:
    """A parsed lock.

    Attributes:
        snapshot: the moment of the archives.
        packages: sorted by name.
        files: target -> content, depth first; with the zip, if there is one.
        members: of the zip: name -> content, sorted by name.
        libraries: ``libpal`` and ``libsysdb``; empty if the lock was made without Gramine's package.
    """

    architecture: str
    snapshot: str
    packages: tuple[LockedPackage, ...]
    files: Mapping[str, LockedContent]
    members: Mapping[str, LockedContent]
    libraries: Mapping[str, LockedContent]

    def to_bytes(self) -> bytes:
        """The lock's only spelling; the inverse of :func:`parse_base_lock`."""
        head: dict[str, str | int] = {
            "format": 1,
            "architecture": self.architecture,
            "snapshot": self.snapshot,
        }
        lines = [_COMMENT, *(f"{name} = {_value(value)}" for name, value in head.items())]
        lines += _array("package", map(_package_fields, self.packages))
        lines += _array("file", ({"to": to, **_content_fields(file)} for to, file in self.files.items()))
        lines += _array("member", ({"to": to, **_content_fields(file)} for to, file in self.members.items()))
        lines += _array(
            "library", ({"to": to, **_content_fields(file)} for to, file in self.libraries.items())
        )
        return ("\n".join(lines) + "\n").encode()

    @property
    def sha256(self) -> bytes:
        """Of :meth:`to_bytes`."""
        return hashlib.sha256(self.to_bytes()).digest()


LIBRARIES = ("libpal", "libsysdb")

_COMMENT = "# Made by `assay base lock` from the packages themselves; not to be written by hand."


def parse_base_spec(value: object, *, what: str) -> BaseSpec:
    """Parse ``[base]`` of a recipe.

    Raises:
        MalformedError: an unknown or missing key, a value of another form, a target twice, a package that is used and not
            listed or listed and not used.
    """
    table = Table(
        value,
        what=what,
        required=("lock", "architecture", "packages", "files"),
        optional=("zip", "libraries"),
    )
    packages = table.tables("packages", required=("name", "archive"))
    spec = BaseSpec(
        lock=_plain_name(table, "lock"),
        architecture=_matching(table, "architecture", ARCHITECTURE),
        packages={_matching(p, "name", PACKAGE_NAME): _matching(p, "archive", _ARCHIVE) for p in packages},
        files=_targets(table.tables("files", required=("to", "package", "from"))),
        zip=_parse_zip(table) if table.value("zip") else None,
        libraries=_parse_libraries(table) if table.value("libraries") else {},
    )
    if len(spec.packages) != len(packages):
        raise MalformedError(f"{what}.packages: a package is there twice")
    origins = [*spec.files.values(), *spec.libraries.values(), *(spec.zip.origins if spec.zip else ())]
    if stray := sorted(spec.packages.keys() ^ {origin.package for origin in origins}):
        raise MalformedError(f"{what}: package {stray[0]} is listed or used, but not both")
    if spec.zip is not None and spec.zip.target in spec.files:
        raise MalformedError(f"{what}: {spec.zip.target} is a file and the zip")
    return spec


def parse_base_lock(data: bytes, *, what: str) -> BaseLock:
    """Parse a lock.

    Raises:
        MalformedError: an unknown or missing key, a value of another form, a file of a package that is not listed, or
            another spelling than :meth:`BaseLock.to_bytes` gives (code ``not-canonical``).
    """
    table = parse_toml(
        data,
        what=what,
        required=("format", "architecture", "snapshot", "package", "file", "member", "library"),
    )
    table.integer("format", low=1, high=1)
    lock = BaseLock(
        architecture=_matching(table, "architecture", ARCHITECTURE),
        snapshot=_matching(table, "snapshot", SNAPSHOT),
        packages=tuple(
            parse_package(item)
            for item in table.tables("package", required=tuple(LockedPackage.__dataclass_fields__))
        ),
        files=_parse_contents(table, "file"),
        members=_parse_contents(table, "member"),
        libraries=_parse_contents(table, "library"),
    )
    names = [package.name for package in lock.packages]
    if names != sorted(set(names)) or list(lock.files) != depth_first(lock.files):
        raise MalformedError(f"{what}: packages or files are not in order")
    contents = [*lock.files.values(), *lock.members.values(), *lock.libraries.values()]
    if stray := sorted({c.origin.package for c in contents if c.origin is not None} - set(names)):
        raise MalformedError(f"{what}: a file is from package {stray[0]}, which is not listed")
    if lock.to_bytes() != data:
        raise MalformedError(f"{what}: not the one spelling of a base lock", code="not-canonical")
    return lock


def parse_package(item: Table) -> LockedPackage:
    """Parse the table of one package.

    Raises:
        MalformedError: a value of another form.
    """
    return LockedPackage(
        name=_matching(item, "name", PACKAGE_NAME),
        version=_matching(item, "version", PACKAGE_VERSION),
        architecture=_matching(item, "architecture", ARCHITECTURE),
        archive=_matching(item, "archive", _ARCHIVE),
        path=check_path(item.text("path"), what=item.name("path")),
        sha256=item.sha256("sha256"),
        size=item.integer("size", low=1, high=_MAX_SIZE),
    )


def _parse_contents(table: Table, key: str) -> dict[str, LockedContent]:
    items = table.tables(key, required=("to", "class", "sha256", "size"), optional=("package", "from"))
    if len(items) > MAX_FILES:
        raise MalformedError(f"{table.name(key)}: more than {MAX_FILES}", code="too-large")
    found: dict[str, LockedContent] = {}
    for item in items:
        target = _target(item)
        if target in found:
            raise MalformedError(f"{item.name('to')}: {target} is there twice")
        found[target] = LockedContent(
            origin=_origin_of(item, made=key == "file"),
            program=_CLASSES[_known(item, "class", _CLASSES)],
            sha256=item.sha256("sha256"),
            size=item.integer("size", low=0, high=_MAX_SIZE),
        )
    return found


def _parse_zip(table: Table) -> ZipSpec:
    zipped = Table(table.value("zip"), what=table.name("zip"), required=("to", "from"), optional=("exclude",))
    origins = tuple(_origin(item) for item in zipped.tables("from", required=("package", "from")))
    exclude = zipped.texts("exclude")
    for entry in exclude:
        check_path(entry.removesuffix("/"), what=zipped.name("exclude"))
    return ZipSpec(_target(zipped), origins, exclude)


def _parse_libraries(table: Table) -> dict[str, Origin]:
    libraries = Table(table.value("libraries"), what=table.name("libraries"), required=LIBRARIES)
    return {
        name: _origin(Table(libraries.value(name), what=libraries.name(name), required=("package", "from")))
        for name in LIBRARIES
    }


def _targets(items: Iterable[Table]) -> dict[str, Origin]:
    found: dict[str, Origin] = {}
    for item in items:
        target = _target(item)
        if target in found:
            raise MalformedError(f"{item.name('to')}: {target} is there twice")
        found[target] = _origin(item)
    return {target: found[target] for target in depth_first(found)}


def _target(item: Table) -> str:
    target = check_path(item.text("to"), what=item.name("to"))
    if is_bytecode(target):
        raise MalformedError(f"{item.name('to')}: {target} is bytecode", code="bytecode")
    return target


def _origin(item: Table) -> Origin:
    path = check_path(item.text("from"), what=item.name("from"))
    return Origin(_matching(item, "package", PACKAGE_NAME), path)


def _origin_of(item: Table, *, made: bool) -> Origin | None:
    """Where a listed file is from; only the zip, a file, is made and is from nowhere."""
    given = item.texts_of("package", "from")
    if len(given) == 2:
        return _origin(item)
    if given or not made:
        raise MalformedError(f"{item.name('from')}: a file without its package and path")
    return None


def _plain_name(table: Table, key: str) -> str:
    name = check_path(table.text(key), what=table.name(key))
    if "/" in name:
        raise MalformedError(f"{table.name(key)}: not a file of the recipe's folder")
    return name


def _known(item: Table, key: str, values: Iterable[str]) -> str:
    value = item.text(key)
    if value not in values:
        raise MalformedError(f"{item.name(key)}: {strict.shown(value)} is none of {', '.join(values)}")
    return value


def _matching(table: Table, key: str, pattern: re.Pattern[str]) -> str:
    value = table.text(key)
    if not pattern.fullmatch(value):
        raise MalformedError(f"{table.name(key)}: {strict.shown(value)} has another form")
    return value


def _package_fields(package: LockedPackage) -> dict[str, str | int]:
    return {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "archive": package.archive,
        "path": package.path,
        "sha256": package.sha256.hex(),
        "size": package.size,
    }


def _content_fields(content: LockedContent) -> dict[str, str | int]:
    origin = content.origin
    fields: dict[str, str | int] = {} if origin is None else {"package": origin.package, "from": origin.path}
    fields["class"] = "program" if content.program else "data"
    return fields | {"sha256": content.sha256.hex(), "size": content.size}


def _array(name: str, items: Iterable[Mapping[str, str | int]]) -> list[str]:
    lines = [
        "    { " + ", ".join(f"{key} = {_value(v)}" for key, v in item.items()) + " }," for item in items
    ]
    return [f"{name} = [", *lines, "]"] if lines else [f"{name} = []"]


def _value(value: str | int) -> str:
    # A printable JSON string is a TOML basic string too; check_path and the patterns leave nothing else.
    return json.dumps(value, ensure_ascii=False)
