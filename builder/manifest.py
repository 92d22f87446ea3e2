"""The ``.manifest.sgx``: written once, in the one text that Gramine's own tools leave as it is.

Its bytes are measured, so layout counts. ``gramine-manifest`` and ``gramine-sgx-sign`` parse a manifest, add
defaults and write it again with tomli_w; a text that already equals the result passes through both unchanged
and needs no file on disk. That is the canonical form here: every default spelled out, every trusted file
listed with its SHA-256, nothing left to be expanded on the machine that signs.
"""

from collections.abc import Mapping
from typing import Any

import tomli_w

from assay.attest.gramine.options import options_of, parse_manifest
from assay.builder.recipe import Recipe
from assay.tlog import strict
from assay.tlog.errors import MalformedError

LIBSYSDB_PATH = "rt/libsysdb.so"
ROOTFS = "rootfs"

_SGX_DEFAULTS: Mapping[str, Any] = {
    "trusted_files": [],
    "max_threads": 4,
    "isvprodid": 0,
    "isvsvn": 0,
    "remote_attestation": "none",
    "debug": False,
    "enable_stats": False,
    "edmm_enable": False,
    "enclave_size": "256M",
    "use_exinfo": False,
}
"""What Gramine 1.9 adds to ``[sgx]`` if it is absent, in its order; then the CPU features."""

_FEATURE_DEFAULTS: Mapping[str, str] = {
    "avx": "unspecified",
    "avx512": "unspecified",
    "amx": "unspecified",
    "mpx": "disabled",
    "pkru": "disabled",
}

_TEMPLATE_MARKS = (b"{{", b"{%", b"{#")
"""``gramine-manifest`` reads its input as a Jinja template; text with one of these would not come out as it went in."""


def format_manifest(recipe: Recipe, trusted_files: Mapping[str, bytes], libsysdb_sha256: bytes) -> bytes:
    """Write the manifest of a recipe.

    Args:
        recipe: the enclave's options and its process.
        trusted_files: path relative to the build's folder -> SHA-256, in the order in which they are listed.
        libsysdb_sha256: of the LibOS, Gramine's ``loader.entrypoint``.

    Raises:
        MalformedError: the options are none that Gramine accepts.
    """
    enclave, process = recipe.enclave, recipe.process
    table: dict[str, Any] = {
        "libos": {"entrypoint": process.entrypoint},
        "loader": {
            "log_level": "error",
            "argv": list(process.argv),
            "entrypoint": {"uri": f"file:{LIBSYSDB_PATH}", "sha256": libsysdb_sha256.hex()},
            "env": dict(process.env),
        },
        "fs": {"root": {"type": "tmpfs"}, "mounts": [dict(mount) for mount in process.mounts]},
        "sgx": {
            "enclave_size": enclave.size,
            "max_threads": enclave.threads,
            "edmm_enable": enclave.edmm,
            "use_exinfo": enclave.use_exinfo,
            "isvprodid": enclave.isv_prod_id,
            "isvsvn": enclave.isv_svn,
            "remote_attestation": "dcap",
            "debug": False,
            "enable_stats": False,
            "trusted_files": [
                {"uri": f"file:{path}", "sha256": digest.hex()} for path, digest in trusted_files.items()
            ],
            "cpu_features": {name: enclave.cpu_features[name] for name in _FEATURE_DEFAULTS},
        },
    }
    options_of(table)
    manifest = tomli_w.dumps(table).encode()
    read_canonical(manifest)  # what we write must be its own fixed point
    return manifest


def read_canonical(manifest: bytes) -> dict[str, Any]:
    """Parse a manifest that must be in its canonical form.

    Raises:
        MalformedError: not a manifest; another text than its own re-serialisation with defaults (code
            ``not-canonical``); a trusted file or the entry point without its SHA-256.
    """
    table = parse_manifest(manifest)
    sgx, loader = _table(table, "sgx"), _table(table, "loader")
    if any(mark in manifest for mark in _TEMPLATE_MARKS):
        raise MalformedError("manifest: it would be read as a template", code="not-canonical")
    if canonical_text(table) != manifest:
        raise MalformedError("manifest: not the canonical text of its content", code="not-canonical")
    for item in (_table(loader, "entrypoint"), *trusted_entries(sgx)):
        strict.hex_bytes(_text(item, "sha256"), what="manifest: sha256", length=32)
        if not _text(item, "uri").startswith("file:"):
            raise MalformedError("manifest: the URI of a trusted file begins with file:")
    return table


def trusted_entries(sgx: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of ``sgx.trusted_files``, which must be tables.

    Raises:
        MalformedError: no list of tables; Gramine also takes bare URIs, whose digests are not in the text.
    """
    entries = sgx.get("trusted_files", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MalformedError("manifest: sgx.trusted_files is not a list of {uri, sha256}")
    return entries


def canonical_text(table: Mapping[str, Any]) -> bytes:
    """What Gramine's tools write for a parsed manifest: its content with every default, serialised anew.

    Raises:
        MalformedError: ``sgx`` or its ``cpu_features`` is no table.
    """
    return tomli_w.dumps(_with_defaults(table, _table(table, "sgx"))).encode()


def missing_defaults(table: Mapping[str, Any]) -> list[str]:
    """The options of ``[sgx]`` that Gramine's tools would add.

    Raises:
        MalformedError: see :func:`canonical_text`.
    """
    sgx = _table(table, "sgx")
    features = _table(sgx, "cpu_features", {})
    missing = [f"sgx.{name}" for name in _SGX_DEFAULTS if name not in sgx]
    return missing + [f"sgx.cpu_features.{name}" for name in _FEATURE_DEFAULTS if name not in features]


def _with_defaults(table: Mapping[str, Any], sgx: Mapping[str, Any]) -> dict[str, Any]:
    features = {**_table(sgx, "cpu_features", {})}
    filled = {**sgx, **{name: value for name, value in _SGX_DEFAULTS.items() if name not in sgx}}
    filled["cpu_features"] = {**features, **{n: v for n, v in _FEATURE_DEFAULTS.items() if n not in features}}
    return {**table, "sgx": filled}


def _table(parent: Mapping[str, Any], name: str, default: Any = None) -> Mapping[str, Any]:
    value = parent.get(name, default)
    if not isinstance(value, dict):
        raise MalformedError(f"manifest: no table {name}")
    return value


def _text(parent: Mapping[str, Any], name: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str):
        raise MalformedError(f"manifest: no text {name}")
    return value
