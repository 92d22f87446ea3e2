"""Where the collateral of a quote comes from: never from whoever submits the quote.

A provider is asked for a platform family (FMSPC) and gives parsed collateral, or says that it has none. What
it gives is as untrusted as any download; the quote verifier checks every signature in it.
"""

from pathlib import Path
from typing import Protocol

from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, Collateral, parse_collateral
from assay.tlog.errors import UnavailableError


class CollateralProvider(Protocol):
    """A source of collateral."""

    def collateral(self, fmspc: bytes) -> Collateral:
        """The newest collateral for platforms of this FMSPC (6 bytes).

        Raises:
            UnavailableError: there is none here, or the source did not answer (code ``no-collateral``).
            MalformedError: the source gave something else.
        """
        ...


class CollateralFolder:
    """A folder with one file ``<fmspc in lower-case hex>.json`` for each platform family.

    Simulated devices write such a folder, and so does whoever mirrors Intel's service by other means. A file
    is read at each question, so that a renewed one counts at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collateral(self, fmspc: bytes) -> Collateral:
        """Read the family's file; see :class:`CollateralProvider`."""
        path = self._folder / f"{fmspc.hex()}.json"
        try:
            with path.open("rb") as file:
                data = file.read(MAX_COLLATERAL_SIZE + 1)
        except OSError as error:
            raise UnavailableError(f"no collateral for FMSPC {fmspc.hex()}", code="no-collateral") from error
        return parse_collateral(data)
