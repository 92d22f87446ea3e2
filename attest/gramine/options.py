"""A manifest as it is measured: strict TOML, and the options that decide the enclave's layout.

Gramine's signer and its loader read manifests with different TOML parsers. What only one of them accepts, or
what they read differently, is refused here, because such a file has no single measurement.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assay.tlog import strict
from assay.tlog.errors import MalformedError

_MAX_KEY_DOTS = 256
"""Parts of a key, or of all keys of a line; real ones have at most five."""
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|' + r"'[^']*'")

MAX_MANIFEST_SIZE = 16 << 20
MAX_THREADS = 4096
MAX_ENCLAVE_SIZE = 1 << 40
"""The loader maps its debug information at 1 TiB, so an enclave ends there at the latest."""

_SIZE = re.compile(r"([1-9][0-9]{0,18})([KMG]?)")
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
"""TOML 1.0 promises no more, and the enclave's parser has no more."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class EnclaveOptions:
    """What the manifest says of the layout: size in bytes (a power of two), threads, dynamic memory (EDMM)."""

    enclave_size: int
    max_threads: int
    edmm: bool


def parse_manifest(data: bytes) -> dict[str, Any]:
    """Parse a manifest's TOML.

    Raises:
        MalformedError: too large, not UTF-8, a NUL (the loader's text would end there), not TOML, or a value
            that no manifest has (floats and dates, which the enclave's parser does not know; integers beyond 64
            bits).
    """
    if len(data) > MAX_MANIFEST_SIZE:
        raise MalformedError(
            f"manifest: {len(data)} bytes are more than {MAX_MANIFEST_SIZE}", code="too-large"
        )
    if b"\0" in data:
        raise MalformedError("manifest: a NUL byte")
    text = strict.utf8_text(data, what="manifest")
    _require_short_keys(text)
    try:
        table = tomllib.loads(text)
        _check_types(table, what="manifest")
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"manifest: not TOML ({error})") from error
    return table


def _require_short_keys(text: str) -> None:
    """Refuse dotted keys of very many parts, for which the parser takes the square of their number.

    A dot outside of a string separates the parts of a key; no line of a manifest has more than a few.
    """
    for line in text.splitlines():
        if line.count(".") > _MAX_KEY_DOTS and _STRING.sub("", line).count(".") > _MAX_KEY_DOTS:
            raise MalformedError(f"manifest: a line with keys of more than {_MAX_KEY_DOTS} parts")


def parse_options(manifest: bytes) -> EnclaveOptions:
    """Read the options of a manifest that decide its layout.

    Raises:
        MalformedError: the manifest is no TOML, an option is missing or has a value that Gramine's loader or its
            signer refuses.
    """
    return options_of(parse_manifest(manifest))


def options_of(table: Mapping[str, Any]) -> EnclaveOptions:
    """As :func:`parse_options`, from the parsed manifest.

    Raises:
        MalformedError: see there.
    """
    sgx = table.get("sgx")
    if not isinstance(sgx, dict):
        raise MalformedError("manifest: no table [sgx]")
    if sgx.get("enable_stats", False) is not False:
        raise MalformedError("manifest: sgx.enable_stats needs a debug build of libpal")
    return EnclaveOptions(enclave_size(sgx), max_threads(sgx), _edmm(sgx))


def enclave_size(sgx: Mapping[str, Any]) -> int:
    """Read ``sgx.enclave_size``, bytes.

    Raises:
        MalformedError: absent, in a form that only the signer or only the loader reads, no power of two, or beyond
            1024G.
    """
    text = sgx.get("enclave_size")
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise MalformedError(
            "manifest: sgx.enclave_size must be decimal digits and perhaps K, M or G, as text"
        )
    size = int(match[1]) * _UNITS[match[2]]
    if size & (size - 1) or size > MAX_ENCLAVE_SIZE:
        raise MalformedError("manifest: sgx.enclave_size must be a power of two, at most 1024G")
    return size


def max_threads(sgx: Mapping[str, Any]) -> int:
    """Read ``sgx.max_threads``.

    Raises:
        MalformedError: absent, or not 1 to 4096.
    """
    threads = sgx.get("max_threads")
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise MalformedError(f"manifest: sgx.max_threads must be 1 to {MAX_THREADS}")
    return threads


def _edmm(sgx: Mapping[str, Any]) -> bool:
    edmm = sgx.get("edmm_enable", False)
    if not isinstance(edmm, bool):
        raise MalformedError("manifest: sgx.edmm_enable must be true or false")
    return edmm


def _check_types(value: object, *, what: str) -> None:
    match value:
        case dict():
            for key, member in value.items():
                _check_types(member, what=f"{what}.{key}")
        case list():
            for member in value:
                _check_types(member, what=what)
        case int() if not _MIN_INTEGER <= value <= _MAX_INTEGER:
            raise MalformedError(f"{what}: an integer beyond 64 bits")
        case str() | int():
            pass
        case _:
            raise MalformedError(f"{what}: a {type(value).__name__} has no place in a manifest")
