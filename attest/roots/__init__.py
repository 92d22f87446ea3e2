"""Trust anchors of hardware vendors: what a quote may be judged under, always named by the caller.

The vendors' certificates lie beside this module as data, each with its SHA-256 and source in a TOML file.
Nothing here reads them: a shell does, and passes the bytes in. There is no default root.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from assay.tlog.errors import MalformedError, UntrustedError

INTEL_SGX_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""Hex SHA-256 of the DER of Intel's SGX root, in ``intel_sgx_root_ca.der``."""

SIMULATION_ORGANIZATION = "SIMULATION - NOT INTEL"
"""The organization in every certificate of a simulated platform."""


class Platform(StrEnum):
    """Whose word evidence rests on; shown wherever the evidence is."""

    INTEL = "intel"
    AMD = "amd"
    NVIDIA = "nvidia"
    SIMULATED = "simulated"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A self-signed certificate that someone decided to trust, under the name they gave it.

    The name is a label of the caller's; what the root is, ``platform`` tells.
    """

    name: str
    der: bytes

    def __post_init__(self) -> None:
        """Refuse what could never verify anything.

        Raises:
            MalformedError: not a self-signed X.509 certificate (code ``malformed-root``).
        """
        try:
            certificate = x509.load_der_x509_certificate(self.der)
            certificate.verify_directly_issued_by(certificate)
        except (ValueError, TypeError, x509.InvalidVersion, InvalidSignature) as error:
            raise MalformedError(
                f"root {self.name!r}: not a self-signed certificate", code="malformed-root"
            ) from error

    @property
    def certificate(self) -> x509.Certificate:
        """The parsed certificate."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the DER."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def platform(self) -> Platform:
        """``intel`` iff it is Intel's root by hash, ``simulated`` iff its own subject says so, else ``custom``."""
        if self.sha256 == INTEL_SGX_ROOT_SHA256:
            return Platform.INTEL
        organizations = self.certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
        if any(attribute.value == SIMULATION_ORGANIZATION for attribute in organizations):
            return Platform.SIMULATED
        return Platform.CUSTOM


def intel_sgx_root(der: bytes) -> TrustedRoot:
    """Intel's root, named ``intel``, from the bytes that a shell read.

    Raises:
        UntrustedError: other bytes than the pinned ones (code ``not-intel-root``).
    """
    if hashlib.sha256(der).hexdigest() != INTEL_SGX_ROOT_SHA256:
        raise UntrustedError("these bytes are not Intel's SGX root", code="not-intel-root")
    return TrustedRoot("intel", der)
