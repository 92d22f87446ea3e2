"""Obtaining the packages of a base layer: from folders, or from a server that keeps an archive's past.

Whatever the place, a package counts only with its locked digest. A folder is any folder of ``.deb`` files, such as
what ``apt-get download`` leaves. A server is one laid out as Debian's snapshot archive is:
``URL/archive/ARCHIVE/SNAPSHOT/PATH``.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from assay.builder.base import PackageFinder, lock_package
from assay.builder.base_lock import BaseSpec, LockedPackage
from assay.builder.debian import Package
from assay.builder.tree import check_regular
from assay.fetch import http
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

_FETCH_TIMEOUT_S = 300.0
_MAX_ERROR_PAGE = 65_536
_REDIRECTS = (301, 302, 303, 307, 308)

Downloader = Callable[[LockedPackage], bytes]
"""Gets a package from a server; its digest is checked afterwards."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where fetched packages are kept: ``assay/packages`` in the user's cache (XDG Base Directory)."""
    base = environment.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "assay" / "packages"


def package_finder(
    pools: Sequence[Path] = (), *, cache: Path | None = None, download: Downloader | None = None
) -> PackageFinder:
    """Where a build gets its packages: pools first, then the cache, and last a server, if there is one.

    What a server gave is kept in the cache, if there is one. The finder raises UnavailableError (code
    ``package-missing``) for a package that is nowhere, and UntrustedError (code ``base-package``) for a file that is
    there under the package's name with other bytes.
    """

    def find(locked: LockedPackage) -> bytes:
        for folder in [*pools, *([] if cache is None else [cache / locked.sha256.hex()])]:
            if (path := _in_folder(locked, folder)) is not None:
                return _checked(locked, path.read_bytes(), where=str(path))
        if download is None:
            places = ", ".join(map(str, [*pools, *([] if cache is None else [cache])])) or "no folder given"
            raise UnavailableError(
                f"package {locked.name} {locked.version}: {locked.file} is not in {places}",
                code="package-missing",
            )
        data = _checked(locked, download(locked), where="the server")
        if cache is not None:
            _keep(cache / locked.sha256.hex(), locked.file, data)
        return data

    return find


def snapshot_download(url: str, snapshot: str) -> Downloader:
    """Download from a server laid out as Debian's snapshot archive, at this moment of its archives.

    A moment between two of its states is answered with a redirect to the earlier one, which is followed once, and on
    the same server only.

    Raises (when called): UnavailableError: no answer, or none that is the file.
    """

    def download(locked: LockedPackage) -> bytes:
        address = f"{url.rstrip('/')}/archive/{locked.archive}/{snapshot}/{quote(locked.path)}"
        answer = _get(address, locked)
        if answer.status in _REDIRECTS:
            target = urljoin(address, answer.headers.get("location", ""))
            if urlsplit(target)[:2] != urlsplit(address)[:2]:
                raise UnavailableError(f"package {locked.name}: {address} leads to another server")
            answer = _get(target, locked)
        if answer.status != 200:
            raise UnavailableError(f"package {locked.name}: {address} answers {answer.status}")
        return answer.body

    return download


def read_pool(
    pool: Path, spec: BaseSpec, *, progress: Callable[[str], None]
) -> dict[str, tuple[LockedPackage, Package]]:
    """Read those packages of a folder that a recipe takes files from, to make a lock of them.

    Raises:
        MalformedError: a file is malformed, or a package is there in two versions (code ``two-versions``).
        OSError: the folder or a file cannot be read.
    """
    found: dict[str, tuple[LockedPackage, Package]] = {}
    for path in sorted(pool.glob("*.deb")):
        if path.name.partition("_")[0] not in spec.packages:
            continue
        progress(path.name)
        locked, package = lock_package(check_regular(path).read_bytes(), file=path.name, spec=spec)
        if locked.name in found:
            raise MalformedError(f"{pool}: two files of package {locked.name}", code="two-versions")
        found[locked.name] = locked, package
    return found


def _in_folder(locked: LockedPackage, folder: Path) -> Path | None:
    for name in (locked.file, _with_epoch(locked)):
        if (folder / name).is_file():
            return folder / name
    return None


def _with_epoch(locked: LockedPackage) -> str:
    """How apt names a downloaded file: with the version's epoch, its colon percent-encoded."""
    return f"{locked.name}_{locked.version.replace(':', '%3a')}_{locked.architecture}.deb"


def _checked(locked: LockedPackage, data: bytes, *, where: str) -> bytes:
    if hashlib.sha256(data).digest() != locked.sha256:
        raise UntrustedError(
            f"package {locked.name} {locked.version}: {where} has another SHA-256 than the lock",
            code="base-package",
        )
    return data


def _get(address: str, locked: LockedPackage) -> http.Response:
    return http.request(
        "GET", address, timeout_s=_FETCH_TIMEOUT_S, max_bytes=max(locked.size, _MAX_ERROR_PAGE)
    )


def _keep(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as fetched:
        (Path(fetched) / name).write_bytes(data)
        (Path(fetched) / name).replace(folder / name)
