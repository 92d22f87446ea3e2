"""Collateral that a log once judged a quote with, from the log's own archive: by hash, so from anybody."""

import hashlib
from collections.abc import Mapping

from assay.attest.quote.collateral import Collateral, parse_collateral
from assay.attest.quote.pcs_response import parse_responses, verify_responses
from assay.fetch.blobs import ReadBlob
from assay.fetch.collateral import ProvidedCollateral
from assay.tlog.errors import UnavailableError, UntrustedError


class CollateralArchive:
    """The blobs of one log, or of a copy of it.

    Args:
        read: a local store, or :class:`assay.fetch.blobs.HttpBlobs`.
    """

    def __init__(self, read: ReadBlob) -> None:
        self._read = read

    def collateral(self, appraised: Mapping[str, bytes], *, appraised_at_s: int) -> ProvidedCollateral:
        """The collateral of an appraisal, with the answers that it was put together from if those were kept.

        Args:
            appraised: the appraisal's ``collateral``: name -> SHA-256.
            appraised_at_s: when it was judged with, Unix seconds.

        Raises:
            UnavailableError: a blob is missing (code ``absent``), or the log does not answer.
            UntrustedError: a blob has another hash (code ``other-blob``), or the answers give other collateral
                (code ``other-responses``).
            MalformedError: a blob is not what its name says.
        """
        collateral = self._collateral(appraised["dcap"])
        answers = {name: self._blob(sha256) for name, sha256 in appraised.items() if name != "dcap"}
        responses = verify_responses(collateral, parse_responses(answers)) if answers else None
        return ProvidedCollateral(collateral, responses, fetched_at_s=appraised_at_s)

    def _collateral(self, sha256: bytes) -> Collateral:
        return parse_collateral(self._blob(sha256))

    def _blob(self, sha256: bytes) -> bytes:
        data = self._read(sha256)
        if data is None:
            raise UnavailableError(f"the archive has no blob {sha256.hex()}", code="absent")
        if hashlib.sha256(data).digest() != sha256:
            raise UntrustedError(f"the archive shows another blob than {sha256.hex()}", code="other-blob")
        return data
