"""Collateral from a folder of files, as simulated devices and mirrors write it."""

from pathlib import Path

from assay.attest.measurement import Tee
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, parse_collateral
from assay.fetch.collateral import PlatformFamily, ProvidedCollateral
from assay.tlog.errors import MalformedError, UnavailableError


class CollateralFolder:
    """A folder with one file for each platform family, in the JSON that DCAP tools exchange (QuoteCollateralV3).

    SGX collateral is in ``<fmspc in lower-case hex>.json``, TDX collateral in ``<fmspc>-tdx.json``. Simulated
    devices write such a folder, and so does whoever mirrors Intel's service by other means. A file is read at
    each question, so that a renewed one counts at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collateral(self, family: PlatformFamily, *, now_s: int) -> ProvidedCollateral:
        """Read the family's file; see :class:`CollateralProvider`. Which CA is left to whoever fills the folder."""
        path = self._folder / f"{family.fmspc.hex()}{'-tdx' if family.tee is Tee.TDX else ''}.json"
        try:
            with path.open("rb") as file:
                data = file.read(MAX_COLLATERAL_SIZE + 1)
        except OSError as error:
            raise UnavailableError(f"no collateral for {family}", code="no-collateral") from error
        try:
            return ProvidedCollateral(parse_collateral(data), responses=None, fetched_at_s=now_s)
        except MalformedError as error:
            raise UnavailableError(f"{path.name}: {error}", code="bad-collateral") from error
