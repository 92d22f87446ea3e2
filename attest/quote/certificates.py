"""Certificates as they come with quotes and collateral: parsed strictly, believed by nobody yet."""

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from assay.tlog.errors import MalformedError


def parse_chain(pem: bytes, *, what: str, code: str) -> list[x509.Certificate]:
    """Read one or more PEM certificates; text around them is not seen.

    Raises:
        MalformedError: no certificate, one that is not DER of X.509 v3, or one whose serial number is not
            positive (RFC 5280 §4.1.2.2), which the parser only warns of (with ``code``).
    """
    try:
        chain = x509.load_pem_x509_certificates(pem)
        serials = [certificate.serial_number for certificate in chain]
    except (ValueError, x509.InvalidVersion, CryptographyDeprecationWarning) as error:
        raise MalformedError(f"{what}: no PEM certificates", code=code) from error
    if min(serials) <= 0:
        raise MalformedError(f"{what}: a serial number that is not positive", code=code)
    return chain
