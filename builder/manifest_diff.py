"""Where two manifests differ: trusted files by path, everything else by dotted key, and what is only order.

A manifest's bytes are measured, so that also the order of equal entries and a comment give another MRENCLAVE.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from assay.attest.gramine.options import parse_manifest
from assay.builder.difference import Change, Section, Topic, cut, section, shown
from assay.builder.fingerprint import fingerprint, same_but_for_order
from assay.tlog.errors import MalformedError

MAX_DEPTH = 64
_TRUSTED_FILES = "sgx.trusted_files"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_IDENTITIES = ("path", "uri")
"""Members by which the tables of a list are matched, if each table has another: mounts have a path."""

Trusted = tuple[str, str]
"""A URI, and its SHA-256 in hex; or in words what stands there instead or besides."""


def read_manifest(data: bytes) -> dict[str, Any]:
    """Parse a manifest that may be anybody's, canonical or not.

    Raises:
        MalformedError: see :func:`~assay.attest.gramine.options.parse_manifest`; nested too deep (code ``too-deep``), or
            trusted files that are neither URIs nor tables with a URI.
    """
    table = parse_manifest(data)
    _check_depth(table)
    trusted_of(table)
    return table


def trusted_of(table: Mapping[str, Any]) -> tuple[Trusted, ...]:
    """The trusted files in their order.

    Raises:
        MalformedError: neither URIs nor tables with a URI.
    """
    sgx = table.get("sgx", {})
    entries = sgx.get("trusted_files", []) if isinstance(sgx, dict) else None
    if not isinstance(entries, list):
        raise MalformedError(f"manifest: {_TRUSTED_FILES} is not a list")
    return tuple(_trusted(entry) for entry in entries)


def path_of(uri: str) -> str:
    """The path in a URI, for people."""
    return uri.removeprefix("file:")


def compare_manifests(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Section, Section, Section]:
    """Compare two manifests of :func:`read_manifest`: trusted files, other keys, and what is only order."""
    files_a, files_b = trusted_of(a), trusted_of(b)
    files = section(Topic.FILES, _compare_files(files_a, files_b))
    rest_a, rest_b = _without_files(a), _without_files(b)
    keys = section(
        Topic.MANIFEST, (change for is_order, change in _compare("", rest_a, rest_b) if not is_order)
    )
    order = [change for is_order, change in _compare("", rest_a, rest_b) if is_order]
    if not files.count and files_a != files_b:
        order.insert(0, _order_change(_TRUSTED_FILES, files_a))
    if not files.count and not keys.count and not order and json.dumps(a) != json.dumps(b):
        order.append(_order_change("the order of keys", a))
    return files, keys, section(Topic.ORDER, order)


def _trusted(entry: object) -> Trusted:
    match entry:
        case str(uri):
            return uri, "a bare URI without sha256"
        case {"uri": str(uri), **others}:
            digest = others.pop("sha256", None)
            text = (
                digest
                if isinstance(digest, str)
                else f"sha256 {'absent' if digest is None else shown(digest)}"
            )
            return uri, f"{text} {json.dumps(others, sort_keys=True)}" if others else text
        case _:
            raise MalformedError(
                f"manifest: {_TRUSTED_FILES}: {shown(entry)} is neither a URI nor a table with one"
            )


def _without_files(table: Mapping[str, Any]) -> dict[str, Any]:
    sgx = {name: value for name, value in table.get("sgx", {}).items() if name != "trusted_files"}
    return {**table, "sgx": sgx}


def _compare_files(a: Sequence[Trusted], b: Sequence[Trusted]) -> Iterator[Change]:
    in_a, in_b = _by_uri(a), _by_uri(b)
    of_a, of_b = ({text: uri for uri, text in reversed(files)} for files in (a, b))
    for uri in sorted(in_a.keys() | in_b.keys()):
        old, new = in_a.get(uri), in_b.get(uri)
        if old == new:
            continue
        note = ""
        if new is not None and old is None and (twin := of_a.get(new)) is not None and twin not in in_b:
            note = f"the content of A's {path_of(twin)}"
        elif old is not None and new is None and (twin := of_b.get(old)) is not None and twin not in in_a:
            note = f"the content of B's {path_of(twin)}"
        yield Change(cut(path_of(uri)), _cut(old), _cut(new), cut(note))


def _by_uri(files: Sequence[Trusted]) -> dict[str, str]:
    """URI -> digest; of a URI that is listed more than once, all digests."""
    found: dict[str, list[str]] = {}
    for uri, text in files:
        found.setdefault(uri, []).append(text)
    return {uri: ", ".join(sorted(texts)) for uri, texts in found.items()}


def _compare(path: str, a: Any, b: Any) -> Iterator[tuple[bool, Change]]:
    """Every difference below a key, and whether it is one of order only."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(a.keys() | b.keys()):
            inner = _joined(path, name)
            if name not in a or name not in b:
                yield False, Change(cut(inner), _shown_member(a, name), _shown_member(b, name))
            else:
                yield from _compare(inner, a[name], b[name])
    elif isinstance(a, list) and isinstance(b, list):
        yield from _compare_lists(path, a, b)
    elif type(a) is not type(b) or a != b:
        yield False, Change(cut(path), shown(a), shown(b))


def _compare_lists(path: str, a: list[Any], b: list[Any]) -> Iterator[tuple[bool, Change]]:
    if json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True):
        return
    if fingerprint(a) == fingerprint(b) and same_but_for_order(a, b):
        yield True, _order_change(path, a)
        return
    if (named := _by_identity(a, b)) is not None:
        yield from _compare_named(path, *named)
    elif len(a) == len(b):
        for index, (old, new) in enumerate(zip(a, b, strict=True)):
            yield from _compare(f"{path}[{index}]", old, new)
    else:
        yield from ((False, change) for change in _only_in_one(path, a, b))


def _compare_named(path: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[bool, Change]]:
    for name in sorted(a.keys() | b.keys()):
        inner = f"{path}[{json.dumps(name, ensure_ascii=False)}]"
        if name not in a or name not in b:
            yield False, Change(cut(inner), _shown_member(a, name), _shown_member(b, name))
        else:
            yield from _compare(inner, a[name], b[name])
    common_a, common_b = [name for name in a if name in b], [name for name in b if name in a]
    if common_a != common_b:
        yield True, _order_change(path, sorted(common_a))


def _only_in_one(path: str, a: list[Any], b: list[Any]) -> Iterator[Change]:
    count_a, count_b = (
        Counter(json.dumps(item, sort_keys=True, ensure_ascii=False) for item in x) for x in (a, b)
    )
    for text in (count_a - count_b).elements():
        yield Change(cut(f"{path}[]"), cut(text), None)
    for text in (count_b - count_a).elements():
        yield Change(cut(f"{path}[]"), None, cut(text))


def _by_identity(a: list[Any], b: list[Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The tables of two lists by a member that tells them apart in both, or None if there is none."""
    if not all(isinstance(item, dict) for item in (*a, *b)):
        return None
    for name in _IDENTITIES:
        in_a, in_b = ({item[name]: item for item in x if isinstance(item.get(name), str)} for x in (a, b))
        if (len(in_a), len(in_b)) == (len(a), len(b)):
            return in_a, in_b
    return None


def _order_change(path: str, value: Any) -> Change:
    note = f"the same content in another order (merkle-json fingerprint {fingerprint(value)})"
    return Change(cut(path), None, None, note)


def _joined(path: str, name: str) -> str:
    quoted = name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
    return f"{path}.{quoted}" if path else quoted


def _shown_member(table: Mapping[str, Any], name: str) -> str | None:
    return shown(table[name]) if name in table else None


def _cut(text: str | None) -> str | None:
    return None if text is None else cut(text)


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _members(outer)]
        if not level:
            return
    raise MalformedError(f"manifest: nested deeper than {MAX_DEPTH}", code="too-deep")


def _members(value: object) -> list[Any]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
        case _:
            return []
