"""A build on disk: which files it has, writing them atomically, and reading them back with nothing believed.

::

    rootfs/…               the tree; the manifest trusts every file of it by digest
    rt/libsysdb.so         Gramine's LibOS, or what stands for it
    libpal.so              what is measured beside the manifest
    NAME.manifest.sgx      the canonical manifest
    NAME.sig               the SIGSTRUCT, if a key was given
    tree.json              the list of the tree's files
    base.lock              the list of the base layer, if there is one
    build.json             the record (:mod:`assay.builder.record`)

The files of a base layer are in the tree only if the packages that they are from could be had. The list says what they
are, and nothing else depends on their bytes.

Gramine is started in this folder, because the manifest's URIs are relative to it. What else lies there, such
as the enclave's sealed state, is no part of the build and never touched.
"""

import hashlib
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from assay.attest.gramine.attributes import body_from_manifest, verify_signed_for
from assay.attest.gramine.measure import measure
from assay.attest.gramine.sigstruct import NO_DATE, verify_sigstruct
from assay.builder import tree
from assay.builder.base_lock import BaseLock, parse_base_lock
from assay.builder.manifest import LIBSYSDB_PATH, ROOTFS, read_canonical, trusted_entries
from assay.builder.progress import Bar, no_bar
from assay.builder.record import BuildRecord, parse_record
from assay.tlog.errors import LogError, UntrustedError

BASE_LOCK = "base.lock"
"""The base layer's list in a build's folder, whatever the recipe calls it; and what stands for it in the tree's digest."""

_FOLDERS = (ROOTFS, LIBSYSDB_PATH.partition("/")[0])


class FileNames(NamedTuple):
    """The single files of a build's folder."""

    libpal: str
    tree: str
    record: str
    manifest: str
    sigstruct: str
    base: str


@dataclass(frozen=True, slots=True)
class Build:
    """A build in memory.

    Attributes:
        record: the record.
        files: all that its folder holds, by relative path.
        programs: those of them that are programs of the base layer.
    """

    record: BuildRecord
    files: Mapping[str, bytes]
    programs: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A build on disk."""

    record: BuildRecord
    out: Path

    @property
    def manifest(self) -> Path:
        """The measured manifest."""
        return self.out / file_names(self.record.name).manifest


def file_names(name: str) -> FileNames:
    """The single files of a build with this name."""
    return FileNames("libpal.so", "tree.json", "build.json", f"{name}.manifest.sgx", f"{name}.sig", BASE_LOCK)


def with_base(files: tree.Files, base: BaseLock | None) -> dict[str, tree.Measured]:
    """The whole tree: what was built, and what the base layer's lock lists.

    Raises:
        MalformedError: a file of one is in the way of the other (code ``tree-conflict``).
    """
    listed = {} if base is None else {to: tree.Measured(c.sha256, c.size) for to, c in base.files.items()}
    return tree.join(tree.measure_files(files), listed)


def base_programs(base: BaseLock | None) -> frozenset[str]:
    """The base layer's programs, as paths of a build."""
    contents = {} if base is None else base.files
    return frozenset(f"{ROOTFS}/{path}" for path, content in contents.items() if content.program)


def measured_fields(
    files: tree.Files,
    manifest: bytes,
    libpal: bytes,
    libsysdb: bytes,
    *,
    base: BaseLock | None = None,
    epoch_s: int,
) -> dict[str, Any]:
    """The members of a build's record that follow from its files, by their names.

    Args:
        files: of the tree, without the base layer's.
        manifest: the canonical manifest.
        libpal: what is measured beside it.
        libsysdb: Gramine's LibOS.
        base: the base layer's list, or None.
        epoch_s: the tree's time, Unix seconds.

    Raises:
        MalformedError: the manifest is not canonical or refused, or libpal is.
        UntrustedError: the manifest trusts other files than these (code ``build-mismatch``).
    """
    table = read_canonical(manifest)
    trusted = {f"{ROOTFS}/{path}": file.sha256 for path, file in with_base(files, base).items()}
    listed = [(item["uri"], item["sha256"]) for item in trusted_entries(table["sgx"])]
    if listed != [(f"file:{path}", digest.hex()) for path, digest in trusted.items()]:
        raise UntrustedError(
            "the manifest does not trust exactly the files of the tree", code="build-mismatch"
        )
    if table["loader"]["entrypoint"]["sha256"] != hashlib.sha256(libsysdb).hexdigest():
        raise UntrustedError(f"the manifest names another {LIBSYSDB_PATH}", code="build-mismatch")
    measured = measure(manifest, libpal)
    body = body_from_manifest(table, measured.mr_enclave, date=NO_DATE)
    return {
        "mr_enclave": measured.mr_enclave,
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "attribute_flags": body.attribute_flags,
        "attribute_xfrms": body.attribute_xfrms,
        "attribute_xfrm_mask": body.attribute_xfrm_mask,
        "misc_select": body.misc_select,
        "enclave_size": measured.options.enclave_size,
        "threads": measured.options.max_threads,
        "edmm": measured.options.edmm,
        "manifest_sha256": hashlib.sha256(manifest).digest(),
        "libpal_sha256": hashlib.sha256(libpal).digest(),
        "libsysdb_sha256": hashlib.sha256(libsysdb).digest(),
        "tree_sha256": tree.tar_sha256(
            tree.merge([files, {} if base is None else {BASE_LOCK: base.to_bytes()}]), epoch_s=epoch_s
        ),
        "trusted_files": trusted,
        "trusted_files_sha256": hashlib.sha256(tree.format_digests(trusted)).digest(),
    }


def write_build(build: Build, out: Path, *, force: bool = False, bar: Bar = no_bar) -> None:
    """Write a build to a folder, completely or not at all; the same build there already is left as it is.

    Raises:
        FileExistsError: ``out`` is there and is not this build; or, with ``force``, it holds anything that is no part
            of a build.
        OSError: it cannot be written.
    """
    if out.exists():
        if _is_on_disk(build, out):
            return
        _check_replaceable(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        fresh = Path(scratch) / "new"
        with bar("files", len(build.files)) as advance:
            tree.write_files(
                build.files,
                fresh,
                epoch_s=build.record.epoch_s,
                programs=build.programs,
                progress=advance,
            )
        if out.exists():
            out.rename(Path(scratch) / "old")
        fresh.rename(out)


def load_build(out: Path) -> BuildResult:
    """Read a build and recompute everything that its record says of its files.

    The recipe's, the lock's and the sources' digests cannot be recomputed from a build; a rebuilder does that.

    Raises:
        MalformedError: the record or the manifest is malformed.
        UntrustedError: a file is not what the record says (code ``build-mismatch``).
        OSError: a file is missing or cannot be read.
    """
    record = parse_record((out / "build.json").read_bytes())
    names = file_names(record.name)
    manifest = (out / names.manifest).read_bytes()
    base = _load_base(out / names.base, record)
    files = _own_files(tree.read_files(out / ROOTFS), base)
    libpal, libsysdb = (out / names.libpal).read_bytes(), (out / LIBSYSDB_PATH).read_bytes()
    found = measured_fields(files, manifest, libpal, libsysdb, base=base, epoch_s=record.epoch_s)
    found["packages"] = () if base is None else base.packages
    found["mr_signer"] = _mr_signer(out / names.sigstruct, manifest, found["mr_enclave"])
    for name, value in found.items():
        if value != getattr(record, name):
            raise UntrustedError(f"{out}: {name} is not what build.json says", code="build-mismatch")
    if stray := sorted(name for name, text in record.inputs.items() if text.encode() not in files.values()):
        raise UntrustedError(f"{out}: the input {stray[0]} is not in the tree", code="build-mismatch")
    return BuildResult(record, out)


def _load_base(path: Path, record: BuildRecord) -> BaseLock | None:
    if record.base_lock_sha256 is None:
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).digest() != record.base_lock_sha256:
        raise UntrustedError(f"{path}: not the lock that build.json names", code="build-mismatch")
    return parse_base_lock(data, what=str(path))


def _own_files(found: tree.Files, base: BaseLock | None) -> dict[str, bytes]:
    """The files of a tree without the base layer's, which must be what its list says, all of them or none."""
    if base is None:
        return dict(found)
    present = {path: found[path] for path in base.files if path in found}
    wanted = {path: tree.Measured(base.files[path].sha256, base.files[path].size) for path in base.files}
    if present and tree.measure_files(present) != wanted:
        raise UntrustedError("the base layer's files are not those of its list", code="build-mismatch")
    return {path: data for path, data in found.items() if path not in base.files}


def _mr_signer(path: Path, manifest: bytes, mr_enclave: bytes) -> bytes | None:
    if not path.exists():
        return None
    sigstruct = verify_sigstruct(path.read_bytes())
    return verify_signed_for(sigstruct, read_canonical(manifest), mr_enclave).mr_signer


def _is_on_disk(build: Build, out: Path) -> bool:
    """Whether the folder holds exactly this build, whatever else lies beside it."""
    try:
        found = {name: (out / name).read_bytes() for name in build.files if "/" not in name}
        for folder in _FOLDERS:
            found |= {f"{folder}/{path}": data for path, data in tree.read_files(out / folder).items()}
    except (OSError, LogError):
        return False
    return found == dict(build.files)


def _check_replaceable(out: Path, *, force: bool) -> None:
    present = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if not present:
        return
    if not force:
        raise FileExistsError(f"{out} exists and is not this build; use --force to replace a build")
    parts = {*_FOLDERS, "libpal.so", "tree.json", "build.json", BASE_LOCK}
    stray = sorted(n for n in present - parts if not n.endswith((".manifest.sgx", ".sig")))
    if stray or "build.json" not in present:
        raise FileExistsError(
            f"{out} is not only a build ({', '.join(stray) or 'no build.json'}); remove it yourself"
        )
