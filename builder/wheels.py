"""Finding the wheels of a lock, by file name and SHA-256.

With a folder of wheels the network is never touched. Without one, pip fetches each missing wheel by its hash
into a cache, a folder a digest; pip is a downloader here and nothing more: the digest is checked again when the bytes are read,
and wheels are unpacked by :mod:`assay.builder.unpack`.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from assay.builder.progress import Bar, no_bar
from assay.builder.recipe import LockedWheel
from assay.tlog.errors import UnavailableError, UntrustedError

_FETCH_TIMEOUT_S = 300

Downloader = Callable[[LockedWheel, Path], None]
"""Puts a locked wheel into a folder under its own name."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where fetched wheels are kept: ``assay/wheels`` in the user's cache (XDG Base Directory)."""
    base = environment.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "assay" / "wheels"


def wheels_from_folder(locked: Sequence[LockedWheel], folder: Path) -> dict[LockedWheel, bytes]:
    """Read all wheels of a lock from a folder; other files there are not looked at.

    Raises:
        UnavailableError: a wheel is missing (code ``wheel-missing``).
        UntrustedError: a wheel has another digest (code ``wheel-digest``).
    """
    return {wheel: _read(wheel, folder) for wheel in locked}


def wheels_from_cache(
    locked: Sequence[LockedWheel], cache: Path, download: Downloader
) -> dict[LockedWheel, bytes]:
    """Read all wheels of a lock from the cache, after fetching those that are not in it.

    Raises:
        UnavailableError: a wheel cannot be fetched.
        UntrustedError: a wheel has another digest (code ``wheel-digest``).
    """
    return {wheel: _cached(wheel, cache / wheel.sha256.hex(), download) for wheel in locked}


def wheel_finder(
    folder: Path | None, *, cache: Path | None = None, bar: Bar = no_bar
) -> Callable[[Sequence[LockedWheel]], Mapping[LockedWheel, bytes]]:
    """Where a build gets its wheels: from this folder alone, or else from a cache (the user's, if None) and pip."""

    def find(locked: Sequence[LockedWheel]) -> Mapping[LockedWheel, bytes]:
        found: dict[LockedWheel, bytes] = {}
        with bar("wheels", len(locked)) as advance:
            for wheel in locked:
                advance(wheel.file)
                if folder is not None:
                    found |= wheels_from_folder([wheel], folder)
                else:
                    found |= wheels_from_cache([wheel], cache or cache_folder(os.environ), pip_download)
        return found

    return find


def pip_download(wheel: LockedWheel, folder: Path) -> None:
    """Fetch one wheel with pip: by hash, without dependencies and without building anything.

    Raises:
        UnavailableError: pip failed or took too long.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256.hex()}\n", encoding="ascii"
    )
    arguments = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(requirements)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{wheel.file}: pip took more than {_FETCH_TIMEOUT_S} s") from error
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise UnavailableError(f"{wheel.file}: pip could not fetch it: {' '.join(reason)}")


def _cached(wheel: LockedWheel, folder: Path, download: Downloader) -> bytes:
    if not (folder / wheel.file).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as fetched:
            download(wheel, Path(fetched))
            _read(wheel, Path(fetched))  # nothing unchecked enters the cache
            (Path(fetched) / wheel.file).replace(folder / wheel.file)
    return _read(wheel, folder)


def _read(wheel: LockedWheel, folder: Path) -> bytes:
    try:
        data = (folder / wheel.file).read_bytes()
    except FileNotFoundError as error:
        raise UnavailableError(f"{wheel.file}: not in {folder}", code="wheel-missing") from error
    if hashlib.sha256(data).digest() != wheel.sha256:
        raise UntrustedError(f"{wheel.file}: another SHA-256 than in the lock", code="wheel-digest")
    return data
