"""S3-compatible buckets, through obstore; credentials and endpoint come from the environment (``AWS_...``)."""

import os
from datetime import timedelta

from obstore.store import S3Store, from_url

from assay.tlog.errors import MalformedError

_RETRIES = 2
_RETRY_S = 5
_TIMEOUT_S = 10


def open_bucket(url: str, *, what: str) -> tuple[S3Store, str]:
    """A bucket and the key or prefix in it, of ``s3://BUCKET/KEY``.

    Every operation ends within seconds, well or badly: nothing that waits for one may hang.

    Raises:
        MalformedError: another URL (code ``config``).
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise MalformedError(f"{what} {url!r}: not s3://BUCKET/KEY", code="config")
    store = from_url(
        f"s3://{bucket}",
        client_options={
            "timeout": timedelta(seconds=_TIMEOUT_S),
            "connect_timeout": timedelta(seconds=_RETRY_S),
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
    )
    assert isinstance(store, S3Store)
    return store, key
