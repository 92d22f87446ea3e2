"""Reading what is to be compared: a build's folder, a release file, a manifest or a SIGSTRUCT, told by its content."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from assay.attest import admission, bundle, entry
from assay.attest.bundle import MAX_BUNDLE_SIZE
from assay.attest.entry import Attestation
from assay.attest.gramine.elf import MAX_IMAGE_SIZE
from assay.attest.gramine.options import MAX_MANIFEST_SIZE
from assay.attest.gramine.sigstruct import SIGSTRUCT_SIZE
from assay.attest.statement import Release
from assay.builder import tree
from assay.builder.manifest import LIBSYSDB_PATH, ROOTFS
from assay.builder.output import file_names
from assay.builder.record import MAX_RECORD_SIZE, parse_record
from assay.builder.side import Side, side_of_build, side_of_manifest, side_of_release, side_of_sigstruct
from assay.tlog.errors import MalformedError

MAX_TREE_JSON_SIZE = 64 << 20
_SIGSTRUCT_START = bytes.fromhex("06000000e1000000")

Progress = Callable[[int, int], None]
"""Takes how many files are hashed, and how many there are."""


def read_side(path: Path, *, progress: Progress) -> Side:
    """Read one of two things to compare.

    Args:
        path: a build's folder, or a file: a release, a manifest or a SIGSTRUCT.
        progress: is told how far hashing a tree has come.

    Raises:
        MalformedError: none of these (a folder without ``build.json``: code ``not-a-build``), too large, or malformed.
        UntrustedError: a signature does not verify.
        OSError: it cannot be read.
    """
    if path.is_dir():
        return read_build(path, progress=progress)
    data = read_bounded(path, MAX_MANIFEST_SIZE)
    if len(data) == SIGSTRUCT_SIZE and data.startswith(_SIGSTRUCT_START):
        return side_of_sigstruct(path.name, data)
    if data.startswith(b"{"):
        return side_of_release(_release(data))
    return side_of_manifest(path.name, data)


def read_build(folder: Path, *, progress: Progress) -> Side:
    """Read a build's folder; every file of its tree is hashed as it lies there.

    Raises:
        MalformedError, UntrustedError, OSError: see :func:`read_side`.
    """
    if not (folder / "build.json").is_file():
        raise MalformedError(f"{folder}: no build.json, so no build", code="not-a-build")
    record = parse_record(read_bounded(folder / "build.json", MAX_RECORD_SIZE))
    names = file_names(record.name)
    sigstruct = folder / names.sigstruct
    return side_of_build(
        folder.name,
        record,
        manifest=read_bounded(folder / names.manifest, MAX_MANIFEST_SIZE),
        libpal=read_bounded(folder / names.libpal, MAX_IMAGE_SIZE),
        sigstruct=read_bounded(sigstruct, SIGSTRUCT_SIZE) if sigstruct.exists() else None,
        found=_hash_tree(folder, progress),
        libsysdb=_sha256(folder / LIBSYSDB_PATH),
        origins=_origins(folder / names.tree),
    )


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a file of at most ``max_bytes`` bytes.

    Raises:
        MalformedError: it is larger (code ``too-large``).
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise MalformedError(f"{path}: larger than {max_bytes} bytes", code="too-large")
    return data


def _release(data: bytes) -> Release:
    """The release in a bundle. Its signatures verify; whether its signers may publish is not asked here."""
    if len(data) > MAX_BUNDLE_SIZE:
        raise MalformedError(f"release: larger than {MAX_BUNDLE_SIZE} bytes", code="too-large")
    parsed = entry.parse_entry(bundle.parse_bundle(data).subject.leaf)
    if isinstance(parsed, Attestation):
        said = admission.verify_attestation(parsed).predicate
        if isinstance(said, Release):
            return said
    raise MalformedError("the file's subject is no release", code="no-release")


def _hash_tree(folder: Path, progress: Progress) -> dict[str, str]:
    names = tree.list_files(folder / ROOTFS)
    found: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        found[f"{ROOTFS}/{name}"] = _sha256(folder / ROOTFS / name)
        progress(number, len(names))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _origins(path: Path) -> Mapping[str, str]:
    """Where each file of the tree was taken from, as ``tree.json`` says; it only adds a word to a difference."""
    try:
        value = json.loads(read_bounded(path, MAX_TREE_JSON_SIZE))
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{path}: not JSON") from error
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict):
        raise MalformedError(f"{path}: not a list of files")
    return {
        f"{ROOTFS}/{name}": origin
        for name, item in files.items()
        if isinstance(item, dict) and isinstance(origin := item.get("from"), str)
    }
