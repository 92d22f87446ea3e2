"""A copy of a log in an S3-compatible bucket, to be served as it is.

Objects are created on the condition that there are none, and the checkpoint is replaced on the condition that it
is the one that was read: no lock is needed among several writers. Bundles are stored compressed.
"""

from typing import TYPE_CHECKING

from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from assay.fetch.tiles import unpack_gzip
from assay.log_server.bucket import open_bucket
from assay.log_server.targets import MAX_FILE_SIZE, failed, is_partial, pack
from assay.tlog.errors import MalformedError, UnavailableError

if TYPE_CHECKING:
    from obstore import Attributes, GetResult, PutMode, UpdateVersion

# What our own routes send (log_server/direct.py).
_IMMUTABLE = "public, max-age=31536000, immutable"
_PARTIAL = "public, max-age=60"
_FRESH = "public, max-age=1, must-revalidate"


class BucketTarget:
    """A prefix in a bucket, ``s3://BUCKET/PREFIX``; credentials and endpoint come from the environment.

    Raises:
        MalformedError: another URL (code ``config``).
    """

    def __init__(self, url: str) -> None:
        self._store, prefix = open_bucket(url, what="copy")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self.name = url

    def read(self, path: str) -> bytes | None:
        """An object's content."""
        found = self._get(path)
        return None if found is None else found[0]

    def create(self, path: str, content: bytes, *, compress: bool) -> bool:
        """Put an object where there is none."""
        attributes: Attributes = {
            "Content-Type": "application/octet-stream",
            "Cache-Control": _PARTIAL if is_partial(path) else _IMMUTABLE,
        }
        if compress:
            attributes["Content-Encoding"] = "gzip"
        return self._put(path, pack(content) if compress else content, attributes, "create")

    def swap(self, path: str, expected: bytes | None, content: bytes) -> bool:
        """Put an object in the place of the one that is expected."""
        found = self._get(path)
        if (None if found is None else found[0]) != expected:
            return False
        return self._put(
            path,
            content,
            {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": _FRESH},
            "create" if found is None else found[1],
        )

    def clear(self, path: str) -> None:
        """Remove the objects below a prefix."""
        try:
            for page in self._store.list(prefix=f"{self._prefix}{path}/"):
                self._store.delete([each["path"] for each in page])
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise failed(self.name, error) from error

    def _get(self, path: str) -> "tuple[bytes, UpdateVersion] | None":
        try:
            result = self._store.get(self._prefix + path)
            content = self._content(path, result)
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise failed(self.name, error) from error
        tag = result.meta["e_tag"]
        if tag is None:
            raise UnavailableError(f"{self.name}: the bucket gives no ETag; it cannot compare and swap")
        return content, {"e_tag": tag}

    def _content(self, path: str, result: "GetResult") -> bytes:
        if result.meta["size"] > MAX_FILE_SIZE:
            raise MalformedError(f"{path}: longer than {MAX_FILE_SIZE} bytes", code="too-large")
        packed = result.attributes.get("Content-Encoding") == "gzip"
        content = bytes(result.bytes())
        return unpack_gzip(content, max_bytes=MAX_FILE_SIZE) if packed else content

    def _put(self, path: str, content: bytes, attributes: "Attributes", mode: "PutMode") -> bool:
        try:
            # In one part, whatever its size: only then is the condition kept.
            self._store.put(
                self._prefix + path, content, attributes=attributes, mode=mode, use_multipart=False
            )
        except (AlreadyExistsError, PreconditionError):
            return False
        except BaseError as error:
            raise failed(self.name, error) from error
        return True
