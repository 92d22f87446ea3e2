"""The linter's checks of mounts, and of what is reachable through them.

A chroot mount shows a folder of the host. Files below it are safe only by their digests in
``sgx.trusted_files``; folders and names are never checked.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from assay.tlog import strict
from assay.tlog.errors import MalformedError

_SCHEME = "file:"
_SEALED = "_sgx_mrenclave"
_DEFAULT_KEY = "default"
_KNOWN = frozenset({"key_name", "path", "type", "uri"})
_NAMED_ELSEWHERE = ("insecure__", "experimental__")
_HOSTS_OWN = (".", "/")


class Found(NamedTuple):
    """Rule, place, and what is wrong there."""

    rule: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount as the manifest has it; ``uri`` is empty where there is none; ``unknown`` are its other members."""

    where: str
    kind: str
    path: str
    uri: str
    key: str
    unknown: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The host's folder or file, normalised; meaningless without a file URI."""
        return _normalized(self.uri)


def uri_problem(uri: str) -> str | None:
    """What is wrong with a URI that should be a path relative to the build's folder, or None."""
    if not uri.startswith(_SCHEME):
        return f"does not begin with {_SCHEME}"
    path = uri.removeprefix(_SCHEME)
    if path.startswith("/"):
        return "is an absolute path of one machine"
    if ".." in path.split("/"):
        return "contains .."
    return None


def find(
    table: Mapping[str, Any], trusted: Sequence[str], allowed: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """Findings about mounts and the entry point.

    Args:
        table: the parsed manifest.
        trusted: URIs of the trusted files.
        allowed: URIs of the allowed files.

    Raises:
        MalformedError: a mount is no table, or a member of it no text.
    """
    fs = table.get("fs", {})
    if not isinstance(fs, dict):
        raise MalformedError("manifest: fs is no table")
    trusted_paths = {_normalized(uri) for uri in trusted}
    holds_trusted = {top for path in trusted_paths for top in _tops(path)}
    holds_allowed = {top for uri in allowed for top in _tops(_normalized(uri))}
    mounts = [_mount(item, f"fs.mounts[{number}]") for number, item in enumerate(_list(fs, "mounts"))]
    yield from _root(fs)
    for mount in mounts:
        yield from _members(mount)
        yield from _one(mount, holds_trusted, holds_allowed)
    yield from _order(mounts)
    yield from _entrypoint(table, mounts, trusted_paths)


def _members(mount: Mount) -> Iterator[Found]:
    for name in mount.unknown:
        yield Found("unreviewed-option", mount.where, f"{strict.shown(name)} is not known")


def _root(fs: Mapping[str, Any]) -> Iterator[Found]:
    root = _mount(fs.get("root", {}), "fs.root")
    yield from _members(root)
    if root.kind == "chroot":
        yield Found("root-default", root.where, "is a folder of the host")
    elif root.kind == "encrypted":
        yield from _encrypted(root)
    elif root.kind != "tmpfs":
        yield Found("mount-type", root.where, f"is {strict.shown(root.kind)}")


def _one(mount: Mount, trusted: set[str], allowed: set[str]) -> Iterator[Found]:
    if not mount.path.startswith("/") or {".", ".."} & set(mount.path.split("/")):
        yield Found("mount-path", mount.where, f"path {strict.shown(mount.path)} is not absolute and plain")
    match mount.kind:
        case "tmpfs":
            return
        case "chroot":
            yield from _host_uri(mount)
            yield from _chroot(mount, trusted, allowed)
        case "encrypted":
            yield from _host_uri(mount)
            yield from _encrypted(mount)
        case _:
            yield Found("mount-type", mount.where, f"type {strict.shown(mount.kind)}")


def _host_uri(mount: Mount) -> Iterator[Found]:
    if not mount.uri:
        yield Found("mount-path", mount.where, "has no uri")
    elif problem := uri_problem(mount.uri):
        yield Found("non-relative-uri", mount.where, f"{strict.shown(mount.uri)} {problem}")


def _chroot(mount: Mount, trusted: set[str], allowed: set[str]) -> Iterator[Found]:
    if mount.uri and (mount.folder in _HOSTS_OWN or mount.folder.startswith("..")):
        yield Found(
            "host-root-mount", mount.where, f"{strict.shown(mount.uri)} is all that the host has there"
        )
    if mount.folder in allowed:
        yield Found("host-writable-mount", mount.where, f"{strict.shown(mount.path)} holds allowed files")
    elif mount.folder not in trusted:
        yield Found("unverified-mount", mount.where, f"{strict.shown(mount.path)} holds no trusted file")


def _encrypted(mount: Mount) -> Iterator[Found]:
    if mount.key == _SEALED:
        return
    who = "every enclave of this signer" if mount.key == "_sgx_mrsigner" else "whoever gives or has the key"
    yield Found("encrypted-key", mount.where, f"key_name {strict.shown(mount.key)}: {who} can read it")


def _order(mounts: Sequence[Mount]) -> Iterator[Found]:
    later: dict[str, str] = {}
    for mount in reversed(mounts):
        path = _plain(mount.path)
        if cover := next((later[top] for top in _tops(path) if top in later), None):
            yield Found("hidden-mount", mount.where, f"{strict.shown(mount.path)} is covered by {cover}")
        later[path] = mount.where


def _entrypoint(table: Mapping[str, Any], mounts: Sequence[Mount], trusted: set[str]) -> Iterator[Found]:
    libos = table.get("libos", {})
    path = libos.get("entrypoint") if isinstance(libos, dict) else None
    if path is None:
        return  # reported as missing
    if not isinstance(path, str) or _on_host(_plain(path), mounts) not in trusted:
        what = f"{strict.shown(str(path))} is no trusted file of a chroot mount"
        yield Found("entrypoint-unverified", "libos.entrypoint", what)


def _on_host(path: str, mounts: Sequence[Mount]) -> str | None:
    """Where the host has a file of the enclave: the last mount above it decides, and only a chroot shows files."""
    for mount in reversed(mounts):
        top = _plain(mount.path)
        if top in _tops(path):
            inner = posixpath.relpath(path, top)
            return posixpath.normpath(posixpath.join(mount.folder, inner)) if mount.kind == "chroot" else None
    return None


def _tops(path: str) -> Iterator[str]:
    """A normalised path and every folder above it, up to the root or the folder that it is relative to."""
    yield path
    top = path
    while (parent := posixpath.dirname(top)) not in ("", top):
        yield (top := parent)
    if not path.startswith(("/", "..")):
        yield "."


def _normalized(uri: str) -> str:
    return _plain(uri.removeprefix(_SCHEME))


def _plain(path: str) -> str:
    """Normalised, also where POSIX lets two leading slashes stand."""
    return posixpath.normpath("/" + path.lstrip("/") if path.startswith("/") else path)


def _mount(value: object, where: str) -> Mount:
    if not isinstance(value, dict):
        raise MalformedError(f"manifest: {where} is no table")
    texts = {name: value.get(name, "") for name in ("path", "uri")}
    texts |= {"kind": value.get("type", "chroot"), "key": value.get("key_name", _DEFAULT_KEY)}
    if stray := [name for name, text in texts.items() if not isinstance(text, str)]:
        raise MalformedError(f"manifest: {where}: {stray[0]} is no text")
    unknown = sorted(name for name in value.keys() - _KNOWN if not name.startswith(_NAMED_ELSEWHERE))
    return Mount(where=where, **texts, unknown=tuple(unknown))


def _list(fs: Mapping[str, Any], name: str) -> list[object]:
    value = fs.get(name, [])
    if not isinstance(value, list):
        raise MalformedError(f"manifest: fs.{name} is no list")
    return value
