"""``build.json``: everything about a build that statements say of it, and that a rebuilder needs.

It is canonical JSON (RFC 8785). The texts of the two inputs are in it, so that a build can be repeated from
the release alone; they are public by nature. Nothing in it is believed when it is read back:
:func:`assay.builder.output.load_build` recomputes every digest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

from assay.builder.base_lock import LockedPackage, parse_package
from assay.builder.recipe import NAME, LockedWheel
from assay.builder.tables import Table
from assay.tlog import strict
from assay.tlog.errors import MalformedError

RECORD_FORMAT = "urn:assay:build:v1"
MAX_RECORD_SIZE = 8 << 20

_U64 = 16  # hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """One build.

    Attributes:
        name: names the manifest file and the SIGSTRUCT.
        mr_signer: of the SIGSTRUCT, or None if the build is not signed.
        attribute_flags: with the three fields below, what the SIGSTRUCT says or would say.
        enclave_size: bytes.
        tree_sha256: of the canonical tar (:mod:`assay.builder.tree`).
        trusted_files: path relative to the build -> SHA-256, in the manifest's order.
        trusted_files_sha256: of the same as a ``sha256sum`` listing.
        source_sha256: of the ``sha256sum`` listing of the measured source files, depth first.
        base_lock_sha256: of the base layer's list, or None without a base layer.
        packages: those that the base layer is from.
        inputs: ``ca`` and ``log_policy``: their texts.
        allow: rule of the linter -> why its findings are allowed.
    """

    name: str
    product: str
    release: str
    gramine_version: str
    epoch_s: int
    mr_enclave: bytes
    mr_signer: bytes | None
    isv_prod_id: int
    isv_svn: int
    attribute_flags: int
    attribute_xfrms: int
    attribute_xfrm_mask: int
    misc_select: int
    enclave_size: int
    threads: int
    edmm: bool
    manifest_sha256: bytes
    libpal_sha256: bytes
    libsysdb_sha256: bytes
    tree_sha256: bytes
    trusted_files: Mapping[str, bytes]
    trusted_files_sha256: bytes
    source_sha256: bytes
    recipe_sha256: bytes
    lock_sha256: bytes
    wheels: tuple[LockedWheel, ...]
    base_lock_sha256: bytes | None
    packages: tuple[LockedPackage, ...]
    inputs: Mapping[str, str]
    allow: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Canonical JSON; the inverse of :func:`parse_record`."""
        members: dict[str, Any] = {"format": RECORD_FORMAT}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            members[name] = value.hex() if isinstance(value, bytes) else value
        for name in _U64_FIELDS:
            members[name] = f"{getattr(self, name):0{_U64}x}"
        members["inputs"] = dict(self.inputs)
        members["trusted_files"] = [
            {"path": path, "sha256": digest.hex()} for path, digest in self.trusted_files.items()
        ]
        members["wheels"] = [
            {"file": w.file, "name": w.name, "sha256": w.sha256.hex(), "version": w.version}
            for w in self.wheels
        ]
        members["packages"] = [
            {**{name: getattr(p, name) for name in _PACKAGE_FIELDS}, "sha256": p.sha256.hex()}
            for p in self.packages
        ]
        return rfc8785.dumps(members)


_U64_FIELDS = ("attribute_flags", "attribute_xfrm_mask", "attribute_xfrms")
_OPTIONAL_DIGEST_FIELDS = ("base_lock_sha256", "mr_signer")
_DIGEST_FIELDS = (
    "mr_enclave",
    *(n for n in BuildRecord.__dataclass_fields__ if n.endswith("_sha256") and n != "base_lock_sha256"),
)
_PACKAGE_FIELDS = tuple(LockedPackage.__dataclass_fields__)
_TEXT_FIELDS = ("name", "product", "release", "gramine_version")
_NUMBER_FIELDS = ("epoch_s", "isv_prod_id", "isv_svn", "misc_select", "enclave_size", "threads")


def parse_record(data: bytes) -> BuildRecord:
    """Parse ``build.json``.

    Raises:
        MalformedError: too large, not in its canonical spelling, a missing or unknown member or one of another type.
    """
    if len(data) > MAX_RECORD_SIZE:
        raise MalformedError(
            f"build.json: {len(data)} bytes are more than {MAX_RECORD_SIZE}", code="too-large"
        )
    try:
        value = json.loads(strict.utf8_text(data, what="build.json"))
        canonical = rfc8785.dumps(value)
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise MalformedError("build.json: no canonical JSON") from error
    if canonical != data:
        raise MalformedError("build.json: no canonical JSON", code="not-canonical")
    fields = Table(value, what="build.json", required=("format", *BuildRecord.__dataclass_fields__))
    if fields.text("format") != RECORD_FORMAT:
        raise MalformedError("build.json: another format")
    if not NAME.fullmatch(fields.text("name")):
        raise MalformedError("build.json: the name cannot name a file")
    return _parse_fields(fields)


def _parse_fields(fields: Table) -> BuildRecord:
    members: dict[str, Any] = {name: fields.sha256(name) for name in _DIGEST_FIELDS}
    members |= {name: fields.text(name) for name in _TEXT_FIELDS}
    members |= {name: fields.integer(name, low=0, high=2**53 - 1) for name in _NUMBER_FIELDS}
    members |= {
        name: int.from_bytes(strict.hex_bytes(fields.text(name), what=fields.name(name), length=_U64 // 2))
        for name in _U64_FIELDS
    }
    members |= {
        name: None if fields.value(name) is None else fields.sha256(name) for name in _OPTIONAL_DIGEST_FIELDS
    }
    members["edmm"] = fields.boolean("edmm")
    members["trusted_files"] = {
        item.text("path"): item.sha256("sha256")
        for item in fields.tables("trusted_files", required=("path", "sha256"))
    }
    members["wheels"] = tuple(
        LockedWheel(item.text("name"), item.text("version"), item.text("file"), item.sha256("sha256"))
        for item in fields.tables("wheels", required=("file", "name", "sha256", "version"))
    )
    members["packages"] = tuple(
        parse_package(item) for item in fields.tables("packages", required=_PACKAGE_FIELDS)
    )
    members["inputs"] = fields.documents("inputs")
    members["allow"] = fields.documents("allow")
    return BuildRecord(**members)
