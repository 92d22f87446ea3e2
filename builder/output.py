"""A build on disk: which files it has, writing them atomically, and reading them back with nothing believed.

::

    rootfs/…               the tree; the manifest trusts every file of it by digest
    rt/libsysdb.so         Gramine's LibOS, or what stands for it
    libpal.so              what is measured beside the manifest
    NAME.manifest.sgx      the canonical manifest
    NAME.sig               the SIGSTRUCT, if a key was given
    tree.json              the list of the tree's files
    build.json             the record (:mod:`assay.builder.record`)

Gramine is started in this folder, because the manifest's URIs are relative to it. What else lies there, such
as the enclave's sealed state, is no part of the build and never touched.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from assay.attest.gramine.attributes import body_from_manifest, verify_signed_for
from assay.attest.gramine.measure import measure
from assay.attest.gramine.sigstruct import NO_DATE, verify_sigstruct
from assay.builder import tree
from assay.builder.manifest import LIBSYSDB_PATH, ROOTFS, read_canonical, trusted_entries
from assay.builder.record import BuildRecord, parse_record
from assay.tlog.errors import LogError, UntrustedError

_FOLDERS = (ROOTFS, LIBSYSDB_PATH.partition("/")[0])


class FileNames(NamedTuple):
    """The single files of a build's folder."""

    libpal: str
    tree: str
    record: str
    manifest: str
    sigstruct: str


@dataclass(frozen=True, slots=True)
class Build:
    """A build in memory: ``files`` is all that its folder holds, by relative path."""

    record: BuildRecord
    files: Mapping[str, bytes]


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
    return FileNames("libpal.so", "tree.json", "build.json", f"{name}.manifest.sgx", f"{name}.sig")


def measured_fields(
    files: tree.Files, manifest: bytes, libpal: bytes, libsysdb: bytes, *, epoch_s: int
) -> dict[str, Any]:
    """The members of a build's record that follow from its files, by their names.

    Raises:
        MalformedError: the manifest is not canonical or refused, or libpal is.
        UntrustedError: the manifest trusts other files than these (code ``build-mismatch``).
    """
    table = read_canonical(manifest)
    trusted = {f"{ROOTFS}/{path}": hashlib.sha256(data).digest() for path, data in files.items()}
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
        "tree_sha256": tree.tar_sha256(files, epoch_s=epoch_s),
        "trusted_files": trusted,
        "trusted_files_sha256": hashlib.sha256(
            tree.digest_list({f"{ROOTFS}/{path}": data for path, data in files.items()})
        ).digest(),
    }


def write_build(build: Build, out: Path, *, force: bool = False) -> None:
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
        tree.write_files(build.files, fresh, epoch_s=build.record.epoch_s)
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
    files = tree.read_files(out / ROOTFS)
    libpal, libsysdb = (out / names.libpal).read_bytes(), (out / LIBSYSDB_PATH).read_bytes()
    found = measured_fields(files, manifest, libpal, libsysdb, epoch_s=record.epoch_s)
    found["mr_signer"] = _mr_signer(out / names.sigstruct, manifest, found["mr_enclave"])
    for name, value in found.items():
        if value != getattr(record, name):
            raise UntrustedError(f"{out}: {name} is not what build.json says", code="build-mismatch")
    if stray := sorted(name for name, text in record.inputs.items() if text.encode() not in files.values()):
        raise UntrustedError(f"{out}: the input {stray[0]} is not in the tree", code="build-mismatch")
    return BuildResult(record, out)


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
    parts = {*_FOLDERS, "libpal.so", "tree.json", "build.json"}
    stray = sorted(n for n in present - parts if not n.endswith((".manifest.sgx", ".sig")))
    if stray or "build.json" not in present:
        raise FileExistsError(
            f"{out} is not only a build ({', '.join(stray) or 'no build.json'}); remove it yourself"
        )
