"""The base layer made from packages: to write its lock, or to prove a lock that is there.

Both go through one function, :func:`derive`. A proof is that the packages of the lock, each with its locked digest,
give exactly the lock: no file more, none less, none from elsewhere.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from assay.builder import tree
from assay.builder.base_lock import (
    BaseLock,
    BaseSpec,
    LockedContent,
    LockedPackage,
    Origin,
    ZipSpec,
)
from assay.builder.debian import Package, PackagedFile, unpack_package
from assay.tlog.errors import MalformedError, UntrustedError

PackageFinder = Callable[[LockedPackage], bytes]
"""Gives the bytes of a locked package, digest checked (:mod:`assay.builder.base_pool`)."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_ZIP_MODE = 0o100444 << 16
_SOURCE_SUFFIX = ".py"


@dataclass(frozen=True, slots=True)
class Layer:
    """A base layer with its bytes.

    Attributes:
        lock: what pins it.
        files: target -> content, in the lock's order.
        libraries: ``libpal`` and ``libsysdb``, or empty.
    """

    lock: BaseLock
    files: Mapping[str, bytes]
    libraries: Mapping[str, bytes]


def derive(spec: BaseSpec, packages: Mapping[str, tuple[LockedPackage, Package]], *, snapshot: str) -> Layer:
    """Take a layer out of its packages.

    Args:
        spec: ``[base]`` of the recipe.
        packages: by name, each with the lock's entry for it. The package of the libraries may be absent: then the
            layer has none.
        snapshot: the moment of the archives that the lock names.

    Raises:
        UntrustedError: a package lacks a file (code ``base-missing``).
        MalformedError: a zip without members or with two of one name, or a file where another has a folder.
    """
    for locked, _ in packages.values():
        if locked.architecture not in (spec.architecture, "all"):
            raise MalformedError(
                f"package {locked.name}: is for {locked.architecture}, not {spec.architecture}"
            )

    def take(origin: Origin) -> PackagedFile:
        return packages[origin.package][1].file(origin.path)

    taken = {target: take(origin) for target, origin in spec.files.items()}
    contents = {target: _locked(spec.files[target], file) for target, file in taken.items()}
    files = {target: file.content for target, file in taken.items()}
    members: dict[str, LockedContent] = {}
    if spec.zip is not None:
        zipped = zip_sources(spec.zip, {name: package for name, (_, package) in packages.items()})
        members = {name: _locked(origin, file) for name, (origin, file) in zipped.items()}
        archive = make_zip({name: file.content for name, (_, file) in zipped.items()})
        files[spec.zip.target] = archive
        contents[spec.zip.target] = _locked(None, PackagedFile(archive, program=False))
    libraries = {n: (o, take(o)) for n, o in spec.libraries.items() if o.package in packages}
    files = tree.merge([files])
    lock = BaseLock(
        architecture=spec.architecture,
        snapshot=snapshot,
        packages=tuple(packages[name][0] for name in sorted(packages)),
        files={target: contents[target] for target in files},
        members=members,
        libraries={name: _locked(origin, file) for name, (origin, file) in libraries.items()},
    )
    return Layer(lock, files, {name: file.content for name, (_, file) in libraries.items()})


def prove(
    spec: BaseSpec, lock: BaseLock, find_package: PackageFinder, *, progress: Callable[[str], None]
) -> Layer:
    """Obtain the packages of a lock and prove that they give it.

    Args:
        spec: ``[base]`` of the recipe.
        lock: what is to be proven.
        find_package: gives the packages.
        progress: is told each package's name before it is obtained.

    Raises:
        UntrustedError: a package is not what the lock says (code ``base-package``), or the list of files is not what the
            packages give (code ``base-mismatch``); the message names package and file.
        MalformedError: a package is malformed.
        UnavailableError: a package cannot be had.
    """
    check_selection(spec, lock)
    packages = {}
    for locked in lock.packages:
        progress(locked.name)
        packages[locked.name] = locked, open_package(locked, find_package(locked))
    layer = derive(spec, packages, snapshot=lock.snapshot)
    for name in ("members", "files", "libraries"):  # a zip differs because one of its members does
        _compare(getattr(lock, name), getattr(layer.lock, name))
    if layer.lock != lock:
        raise UntrustedError("base: the lock is not what its packages give", code="base-mismatch")
    return layer


def packaged_library(lock: BaseLock, name: str, find_package: PackageFinder) -> bytes:
    """One of the lock's libraries out of its package, without proving anything else.

    Raises:
        UntrustedError: the package or the library is not the locked one (code ``base-package``, ``base-mismatch``).
        UnavailableError: the package cannot be had.
    """
    content = lock.libraries[name]
    assert content.origin is not None
    locked = next(package for package in lock.packages if package.name == content.origin.package)
    file = open_package(locked, find_package(locked)).file(content.origin.path)
    _compare({name: content}, {name: _locked(content.origin, file)})
    return file.content


def open_package(locked: LockedPackage, data: bytes) -> Package:
    """Unpack a package that must be the locked one.

    Raises:
        UntrustedError: another digest, or it says that it is another package (code ``base-package``).
        MalformedError: it is no package.
    """
    if hashlib.sha256(data).digest() != locked.sha256 or len(data) != locked.size:
        raise UntrustedError(f"package {locked.name}: {locked.file} has another SHA-256", code="base-package")
    package = unpack_package(data, what=locked.file)
    said = (package.name, package.version, package.architecture, package.pool_path(locked.archive))
    if said != (locked.name, locked.version, locked.architecture, locked.path):
        raise UntrustedError(
            f"package {locked.name}: the file holds {' '.join(said[:3])}", code="base-package"
        )
    return package


def lock_package(data: bytes, *, file: str, spec: BaseSpec) -> tuple[LockedPackage, Package]:
    """Unpack a package and pin it, to make a lock.

    Raises:
        MalformedError: it is no package, or none that the recipe takes files from (code ``not-listed``).
    """
    package = unpack_package(data, what=file)
    if package.name not in spec.packages:
        raise MalformedError(f"{file}: the recipe takes nothing from {package.name}", code="not-listed")
    archive = spec.packages[package.name]
    locked = LockedPackage(
        package.name,
        package.version,
        package.architecture,
        archive,
        package.pool_path(archive),
        hashlib.sha256(data).digest(),
        len(data),
    )
    return locked, package


def add_libraries(spec: BaseSpec, lock: BaseLock, *, file: str, data: bytes) -> BaseLock:
    """A lock with Gramine's package and libraries added, or replaced; the other packages are not looked at.

    Raises:
        MalformedError: the file is no package, or not that of the recipe's libraries (code ``not-listed``).
        UntrustedError: it lacks a library (code ``base-missing``).
    """
    locked, package = lock_package(data, file=file, spec=spec)
    if {origin.package for origin in spec.libraries.values()} != {locked.name}:
        raise MalformedError(f"{file}: the recipe's libraries are not from {locked.name}", code="not-listed")
    packages = {known.name: known for known in lock.packages} | {locked.name: locked}
    libraries = {n: _locked(origin, package.file(origin.path)) for n, origin in spec.libraries.items()}
    return replace(lock, packages=tuple(packages[name] for name in sorted(packages)), libraries=libraries)


def check_selection(spec: BaseSpec, lock: BaseLock) -> None:
    """Check without any package that a lock is one of this recipe: same files from the same places.

    Raises:
        UntrustedError: it is not (code ``base-mismatch``).
    """
    wanted: dict[str, Origin | None] = dict(spec.files)
    if spec.zip is not None:
        wanted[spec.zip.target] = None
    found = {target: content.origin for target, content in lock.files.items()}
    if stray := sorted(
        name for name in wanted.keys() | found if wanted.get(name, ...) != found.get(name, ...)
    ):
        raise UntrustedError(
            f"base: {stray[0]} is not the same in the recipe and in its lock", code="base-mismatch"
        )
    libraries = {name: content.origin for name, content in lock.libraries.items()}
    packages = {package.name: package.archive for package in lock.packages}
    absent = {origin.package for origin in spec.libraries.values()} if not libraries else set()
    expected = {name: archive for name, archive in spec.packages.items() if name not in absent}
    if (libraries and libraries != dict(spec.libraries)) or expected != packages:
        raise UntrustedError("base: the lock is of another choice of packages", code="base-mismatch")
    if lock.architecture != spec.architecture or bool(lock.members) != (spec.zip is not None):
        raise UntrustedError("base: the lock is of another recipe", code="base-mismatch")


def zip_sources(spec: ZipSpec, packages: Mapping[str, Package]) -> dict[str, tuple[Origin, PackagedFile]]:
    """The members of a recipe's zip: name in the zip -> origin and file, sorted by name.

    Raises:
        MalformedError: none at all, or two of one name (code ``tree-conflict``).
    """
    found: dict[str, tuple[Origin, PackagedFile]] = {}
    for folder in spec.origins:
        prefix = folder.path + "/"
        for path, file in packages[folder.package].files.items():
            name = path.removeprefix(prefix)
            if name == path or not name.endswith(_SOURCE_SUFFIX) or tree.is_excluded(name, spec.exclude):
                continue
            if name in found:
                raise MalformedError(f"{spec.target}: two members {name}", code="tree-conflict")
            found[name] = Origin(folder.package, path), file
    if not found:
        raise MalformedError(f"{spec.target}: no members")
    return {name: found[name] for name in sorted(found)}


def make_zip(files: tree.Files) -> bytes:
    """A zip that depends on nothing but names and contents: stored, sorted by name, dated 1980-01-01.

    Python reads modules out of it; zlib's version cannot show, because nothing is compressed.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=_ZIP_TIME)
            info.create_system = 3  # Unix, whatever this machine is
            info.external_attr = _ZIP_MODE
            archive.writestr(info, files[name])
    return out.getvalue()


def _locked(origin: Origin | None, file: PackagedFile) -> LockedContent:
    return LockedContent(origin, file.program, hashlib.sha256(file.content).digest(), len(file.content))


def _compare(listed: Mapping[str, LockedContent], found: Mapping[str, LockedContent]) -> None:
    for name in sorted(listed.keys() | found.keys()):
        claimed, real = listed.get(name), found.get(name)
        if claimed == real:
            continue
        origin = next((c.origin for c in (claimed, real) if c is not None and c.origin is not None), None)
        where = "the zip" if origin is None else f"package {origin.package}: {origin.path}"
        if claimed is None:
            reason = "is missing from the lock"
        elif real is None:
            reason = "is listed, but nothing that the recipe takes"
        else:
            reason = "is not what the lock says"
        raise UntrustedError(f"base: {name} ({where}) {reason}", code="base-mismatch")
