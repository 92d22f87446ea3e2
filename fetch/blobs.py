"""Evidence beside a log, addressed by its SHA-256."""

from collections.abc import Callable

from assay.fetch import http
from assay.tlog.errors import UnavailableError

MAX_BLOB_SIZE = 1 << 20

ReadBlob = Callable[[bytes], bytes | None]
"""Gives a blob by its SHA-256; None if there is none. Whether it has that hash is for the caller to check."""


def blob_path(sha256: bytes) -> str:
    """Where a blob is, below the log's prefix."""
    return f"api/v1/blobs/sha256/{sha256.hex()}"


class HttpBlobs:
    """The blobs of a log or copy over HTTP; nothing is verified.

    Args:
        url: the log's prefix.
        timeout_s: for each request.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def __call__(self, sha256: bytes) -> bytes | None:
        """A blob by its hash; None if the log says that it has none.

        Raises:
            UnavailableError: another answer, or none.
            MalformedError: a longer blob than a log keeps (code ``too-large``).
        """
        address = f"{self._url}/{blob_path(sha256)}"
        response = http.request("GET", address, timeout_s=self._timeout_s, max_bytes=MAX_BLOB_SIZE)
        if response.status not in (200, 404):
            raise UnavailableError(f"{address}: HTTP {response.status}")
        return response.body if response.status == 200 else None
