"""The deterministic tree: paths and bytes, and every form that is derived from them.

A tree is held in memory as path -> bytes, so that nothing of a file system can enter: no modes, owners,
times, links or directory order. On disk files are 0444 (programs of a base layer 0555), directories 0755, and
all have one mtime. Its digest is SHA-256 of a canonical tar: GNU format, directories first and then files, each sorted by path in
code-point order, uid and gid 0, no names, those modes and that mtime. A base layer stands in it as its lock, which
has the digest of every file: so the digest does not need the layer's bytes.
"""

import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import rfc8785

from assay.tlog import strict
from assay.tlog.errors import MalformedError

FILE_MODE = 0o444
PROGRAM_MODE = 0o555
DIRECTORY_MODE = 0o755
TREE_FORMAT = "urn:assay:tree:v1"

Files = Mapping[str, bytes]
"""Relative path with ``/`` -> content."""


class Measured(NamedTuple):
    """A file of a tree without its bytes, which is all that a manifest and a measurement need."""

    sha256: bytes
    size: int


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\\\\]")
_BYTECODE_FOLDER = "__pycache__"

Progress = Callable[[str], None]
"""Is told what has been worked on, a path or a name."""


def check_path(path: str, *, what: str) -> str:
    """Return a relative path in its only spelling.

    Raises:
        MalformedError: empty, absolute, with ``.``, ``..`` or an empty part, a backslash, a control character or a lone
            surrogate (a file name that is not UTF-8).
    """
    parts = path.split("/")
    if _UNPRINTABLE.search(path) or any(part in ("", ".", "..") for part in parts):
        raise MalformedError(f"{what}: {strict.shown(path)} is not a plain relative path", code="unsafe-path")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedError(f"{what}: {strict.shown(path)} is not UTF-8", code="unsafe-path") from error
    return path


def is_bytecode(path: str) -> bool:
    """Whether Python wrote this file beside a source: such files hold paths and times of their machine."""
    return path.endswith((".pyc", ".pyo")) or _BYTECODE_FOLDER in path.split("/")


def is_excluded(path: str, exclude: Iterable[str]) -> bool:
    """Whether a path is left out: an entry is a path, a path ending in ``/`` (a folder), or a bare file name."""
    name = path.rpartition("/")[2]
    return any(path.startswith(entry) if entry.endswith("/") else entry in (path, name) for entry in exclude)


def depth_first(paths: Iterable[str]) -> list[str]:
    """Sort as Gramine expands a directory: by name on each level, in code-point order, children before the next.

    ``z/q`` comes before ``z-a`` and that before ``z.txt``, which a plain sort of the paths would order otherwise.
    """
    return sorted(paths, key=lambda path: path.split("/"))


def merge(parts: Iterable[Files]) -> dict[str, bytes]:
    """Join parts into one tree, depth first.

    Raises:
        MalformedError: a path in another spelling, bytecode, two contents for one path, or a file where another part
            has a folder (code ``tree-conflict``).
    """
    merged: dict[str, bytes] = {}
    for part in parts:
        for path, content in part.items():
            if is_bytecode(check_path(path, what="tree")):
                raise MalformedError(f"tree: {strict.shown(path)} is bytecode", code="bytecode")
            if merged.setdefault(path, content) != content:
                raise MalformedError(f"tree: two contents for {path}", code="tree-conflict")
    _check_folders(merged.keys())
    return {path: merged[path] for path in depth_first(merged)}


def measure_files(files: Files) -> dict[str, Measured]:
    """Digest and size of every file, in the mapping's order."""
    return {path: Measured(hashlib.sha256(data).digest(), len(data)) for path, data in files.items()}


def join(*parts: Mapping[str, Measured]) -> dict[str, Measured]:
    """Join measured parts into one tree, depth first; unlike :func:`merge` it takes no path twice.

    Raises:
        MalformedError: a path in two parts, or a file where another part has a folder (code ``tree-conflict``).
    """
    joined: dict[str, Measured] = {}
    for part in parts:
        if twice := sorted(joined.keys() & part.keys()):
            raise MalformedError(f"tree: two files {twice[0]}", code="tree-conflict")
        joined |= part
    _check_folders(joined.keys())
    return {path: joined[path] for path in depth_first(joined)}


def digest_list(files: Files) -> bytes:
    """The digests of all files as ``sha256sum`` prints and checks them, in the mapping's order."""
    return format_digests({path: file.sha256 for path, file in measure_files(files).items()})


def format_digests(digests: Mapping[str, bytes]) -> bytes:
    """The same of digests that are known: path -> SHA-256."""
    return "".join(f"{digest.hex()}  {path}\n" for path, digest in digests.items()).encode()


def tree_json(
    files: Mapping[str, Measured], wheels: Mapping[str, bytes], *, origins: Mapping[str, str] | None = None
) -> bytes:
    """The tree's list of contents as canonical JSON.

    ``{"files": {path: {"sha256", "size"}}, "format", "wheels": {file: sha256}}``; ``wheels`` holds the
    wheels' digests by file name. A file that is in ``origins`` has a third member, ``from``.
    """
    from_ = {path: {"from": origin} for path, origin in (origins or {}).items()}
    return rfc8785.dumps(
        {
            "files": {
                path: {"sha256": f.sha256.hex(), "size": f.size, **from_.get(path, {})}
                for path, f in files.items()
            },
            "format": TREE_FORMAT,
            "wheels": {name: digest.hex() for name, digest in wheels.items()},
        }
    )


def tar_sha256(files: Files, *, epoch_s: int) -> bytes:
    """SHA-256 of the canonical tar of a tree whose mtimes are all ``epoch_s`` (Unix seconds)."""
    sink = _HashSink()
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(_folders(files)):
            tar.addfile(_tar_info(path, tarfile.DIRTYPE, DIRECTORY_MODE, epoch_s))
        for path in sorted(files):
            info = _tar_info(path, tarfile.REGTYPE, FILE_MODE, epoch_s)
            info.size = len(files[path])
            tar.addfile(info, io.BytesIO(files[path]))
    return sink.hash.digest()


def write_files(
    files: Files,
    folder: Path,
    *,
    epoch_s: int,
    programs: Collection[str] = (),
    progress: Progress | None = None,
) -> None:
    """Write a tree into a new or empty folder with fixed modes and mtimes, whatever the umask is.

    Args:
        files: what to write.
        folder: is made if it is not there.
        epoch_s: every mtime, Unix seconds.
        programs: those of the files that are 0555 instead of 0444.
        progress: is told each path when it is written.
    """
    folder.mkdir(exist_ok=True)
    folders = {folder} | {folder / path for path in _folders(files)}
    for path in sorted(folders):
        path.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        _settle(path, PROGRAM_MODE if name in programs else FILE_MODE, epoch_s)
        if progress is not None:
            progress(name)
    for path in sorted(folders, reverse=True):  # children first: writing into a folder moves its time
        _settle(path, DIRECTORY_MODE, epoch_s)


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, depth first.

    Raises:
        MalformedError: see :func:`list_files`.
        OSError: a file or folder that cannot be read; it is never skipped.
    """
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


def list_files(folder: Path) -> list[str]:
    """The relative paths of all files below a folder, depth first; bytecode is left out.

    Raises:
        MalformedError: a link, a device, a FIFO or a name that is not UTF-8 (code ``unsafe-path``). Gramine skips
            or follows such files without a word.
        OSError: a folder that cannot be read.
    """
    names = (check_path(path.relative_to(folder).as_posix(), what=str(folder)) for path in _walk(folder))
    listed = depth_first(name for name in names if not is_bytecode(name))
    for name in listed:
        check_regular(folder / name)
    return listed


def check_regular(path: Path) -> Path:
    """Return a path that names a regular file itself, not through a link.

    Raises:
        MalformedError: a link or a special file (code ``unsafe-path``).
        OSError: it does not exist.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise MalformedError(f"{path}: not a regular file", code="unsafe-path")
    return path


def _walk(folder: Path) -> Iterable[Path]:
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != _BYTECODE_FOLDER:
                yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _check_folders(paths: Collection[str]) -> None:
    if clash := sorted(_folders(paths) & set(paths)):
        raise MalformedError(f"tree: {clash[0]} is a file and a folder", code="tree-conflict")


def _folders(files: Iterable[str]) -> set[str]:
    return {path[:at] for path in files for at, letter in enumerate(path) if letter == "/"}


def _settle(path: Path, mode: int, epoch_s: int) -> None:
    path.chmod(mode)
    os.utime(path, (epoch_s, epoch_s))


def _tar_info(path: str, kind: bytes, mode: int, epoch_s: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = kind, mode, epoch_s
    return info


class _HashSink(io.RawIOBase):
    """A file that only hashes what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # the stub of RawIOBase.write has no runtime name
        self.hash.update(view)
        return view.nbytes
