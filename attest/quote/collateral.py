"""Collateral: what Intel signs about platforms, in the JSON that DCAP tools exchange (QuoteCollateralV3).

A value of this type is only parsed. Whether its signatures, dates and signers are right is judged together
with a quote, under an explicit root and time, in ``verify``.
"""

import hashlib
from dataclasses import asdict, dataclass

from assay.attest import jcs
from assay.tlog import strict
from assay.tlog.errors import MalformedError

MAX_COLLATERAL_SIZE = 1024 * 1024
"""Real collateral has 14 to 26 KiB; the bound comes before any parsing."""

SIGNATURE_SIZE = 64
"""P-256: r ‖ s."""

_TEXTS = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_HEX = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")

_PCK_CHAIN = "pck_certificate_chain"
"""Some tools add the PCK chain of one machine. It would override the chain inside the quote: it is dropped."""


@dataclass(frozen=True, slots=True)
class Collateral:
    """The nine parts. JSON keys are the names; byte strings are lower-case hex there.

    =========================  ====================================================================
    part                       content
    =========================  ====================================================================
    pck_crl_issuer_chain       PEM; neither used nor trusted: the CRLs are checked under the root
    root_ca_crl                DER of the root's CRL
    pck_crl                    DER of the CRL of the PCK Processor or Platform CA
    tcb_info_issuer_chain      PEM, signer first
    tcb_info                   JSON text, byte for byte as it was signed
    tcb_info_signature         r ‖ s, 64 bytes
    qe_identity_issuer_chain   PEM, signer first
    qe_identity                JSON text, byte for byte as it was signed
    qe_identity_signature      r ‖ s, 64 bytes
    =========================  ====================================================================
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    def __post_init__(self) -> None:
        """Refuse signatures of another size.

        Raises:
            MalformedError: not 64 bytes (code ``malformed-collateral``).
        """
        if {len(self.tcb_info_signature), len(self.qe_identity_signature)} != {SIGNATURE_SIZE}:
            raise MalformedError("collateral: a signature has not 64 bytes", code="malformed-collateral")

    @property
    def collateral_id(self) -> str:
        """Hex SHA-256 of the canonical bytes."""
        return hashlib.sha256(format_collateral(self)).hexdigest()


def parse_collateral(data: bytes) -> Collateral:
    """Read collateral JSON in any spacing and key order; a PCK chain in it is dropped.

    Raises:
        MalformedError: more than 1 MiB, not JSON, a key missing or unknown, or a part of another type
            (code ``malformed-collateral``).
    """
    try:
        value = jcs.parse_json(data, what="collateral", max_bytes=MAX_COLLATERAL_SIZE)
        fields = jcs.Fields(value, what="collateral", required=_TEXTS + _HEX, optional=(_PCK_CHAIN,))
        texts = {key: _text(fields, key) for key in _TEXTS}
        octets = {key: strict.hex_bytes(_text(fields, key), what=fields.name(key)) for key in _HEX}
        collateral = Collateral(**texts, **octets)  # type: ignore[arg-type]  # keys are split by type above
        format_collateral(collateral)  # lone surrogates have no UTF-8: refused here, not at first use
    except MalformedError as error:
        raise MalformedError(str(error), code="malformed-collateral") from error
    return collateral


def format_collateral(collateral: Collateral) -> bytes:
    """The canonical JSON (RFC 8785, hence keys sorted): what is archived and hashed.

    Raises:
        MalformedError: a text that is not Unicode.
    """
    parts = asdict(collateral)
    return jcs.canonical(
        {key: part.hex() if isinstance(part, bytes) else part for key, part in parts.items()}
    )


def _text(fields: jcs.Fields, key: str) -> str:
    value = fields.value(key)
    if not isinstance(value, str):
        raise MalformedError(f"{fields.name(key)}: not text")
    return value
