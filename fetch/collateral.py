"""Where the collateral of a quote comes from: never from whoever submits the quote.

A provider is asked for a platform family and gives parsed collateral with the answers that it was put together
from, or says that it has none. What it gives is as untrusted as any download; the quote verifier checks every
signature in it.
"""

from dataclasses import dataclass
from typing import Protocol

from assay.attest.measurement import Tee
from assay.attest.quote.collateral import Collateral
from assay.attest.quote.pck import PckCa
from assay.attest.quote.pcs_response import PcsResponses

FMSPC_SIZE = 6


@dataclass(frozen=True, slots=True)
class PlatformFamily:
    """What collateral is for: platforms that share TCB info, QE identity and the CRL of their certificates.

    Attributes:
        tee: SGX or TDX.
        fmspc: 6 bytes: family, model, stepping, platform type and custom SKU.
        ca: the kind of CA that issued the platform's PCK certificate.
    """

    tee: Tee
    fmspc: bytes
    ca: PckCa

    def __post_init__(self) -> None:
        """A family that no source could know is a mistake of the caller's.

        Raises:
            ValueError: a TEE without collateral, or an FMSPC of another size.
        """
        if self.tee not in (Tee.SGX, Tee.TDX) or len(self.fmspc) != FMSPC_SIZE:
            raise ValueError(f"no collateral is for {self.tee} and an FMSPC of {len(self.fmspc)} bytes")

    def __str__(self) -> str:
        return f"{self.tee} {self.fmspc.hex()} ({self.ca} CA)"


@dataclass(frozen=True, slots=True)
class CollateralWarning:
    """What an operator should know of collateral that is good enough for now.

    Attributes:
        code: ``collateral-expires``, ``collateral-refresh`` or ``tcb-early``.
        subject: what it is about, such as a part of the collateral; the same warning again has the same.
        text: for people.
    """

    code: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class ProvidedCollateral:
    """Collateral and how it was come by.

    Attributes:
        collateral: parsed, not verified.
        responses: the answers that it was put together from; None if the source keeps it in one piece.
        fetched_at_s: Unix seconds of the asking.
        warnings: for the operator.
    """

    collateral: Collateral
    responses: PcsResponses | None
    fetched_at_s: int
    warnings: tuple[CollateralWarning, ...] = ()


class CollateralProvider(Protocol):
    """A source of collateral."""

    def collateral(self, family: PlatformFamily, *, now_s: int) -> ProvidedCollateral:
        """The newest collateral for a platform family.

        Args:
            family: of which platforms.
            now_s: the caller's clock, Unix seconds.

        Raises:
            UnavailableError: none can be had now. Codes: ``no-collateral`` (the source has none for this family),
                ``collateral-withdrawn`` (no longer that evaluation number), ``collateral-source`` (no whole
                answer, or an error), ``bad-collateral`` (something that is no collateral of this family),
                ``collateral-expired`` (only what no longer counts).
        """
        ...
