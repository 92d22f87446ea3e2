"""Who issued what, under one root: checks that need no quote, no time and no complete collateral.

They come before work is done for strangers, or their bytes are kept: nobody's self-made PCK certificate makes a
log ask for collateral, and no answer of a broken or hostile source gets into a cache. Revocation, dates and
everything else remain the quote verifier's, which believes none of this.
"""

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from assay.attest.quote.certificates import parse_chain
from assay.attest.quote.collateral import SIGNATURE_SIZE, Collateral
from assay.attest.roots import TrustedRoot
from assay.tlog.errors import MalformedError, UntrustedError

_MAX_CHAIN = 4


def verify_pck_issued(chain_pem: bytes, *, root: TrustedRoot) -> x509.Certificate:
    """Check that a PCK certificate was issued under the root by one CA in between, and return it.

    Args:
        chain_pem: PCK certificate, its CA, and perhaps the root, which is ours and not the one in there.
        root: the only anchor.

    Raises:
        MalformedError: no such chain (code ``malformed-quote``).
        UntrustedError: issued by somebody else (code ``untrusted-chain``).
    """
    chain = _certificates(chain_pem, what="PCK certificate", code="malformed-quote")
    _verify_issued(chain[0], chain[1:2], root=root, what="PCK certificate")
    return chain[0]


def verify_collateral_issued(collateral: Collateral, *, root: TrustedRoot) -> Collateral:
    """Check the signatures of TCB info, QE identity and both CRLs under the root, and return the collateral.

    Raises:
        MalformedError: something has no form that is read (code ``malformed-collateral``).
        UntrustedError: a signature is another's: codes ``bad-tcb-info-signature``, ``bad-qe-identity-signature``,
            ``wrong-root`` (the root's CRL), ``untrusted-chain`` (the others).
    """
    _verify_text(
        collateral.tcb_info,
        collateral.tcb_info_signature,
        collateral.tcb_info_issuer_chain,
        root=root,
        code="bad-tcb-info-signature",
    )
    _verify_text(
        collateral.qe_identity,
        collateral.qe_identity_signature,
        collateral.qe_identity_issuer_chain,
        root=root,
        code="bad-qe-identity-signature",
    )
    _verify_crl(collateral.root_ca_crl, root.certificate, code="wrong-root")
    issuer = _chain(collateral.pck_crl_issuer_chain, what="PCK CRL")[0]
    _verify_issued(issuer, (), root=root, what="PCK CA")
    _verify_crl(collateral.pck_crl, issuer, code="untrusted-chain")
    return collateral


def _verify_text(text: str, signature: bytes, chain_pem: str, *, root: TrustedRoot, code: str) -> None:
    signer = _chain(chain_pem, what="issuer chain")[0]
    _verify_issued(signer, (), root=root, what="signer of TCB data")
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UntrustedError("the signer of TCB data has no elliptic curve", code=code)
    half = SIGNATURE_SIZE // 2
    der = encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )
    try:
        key.verify(der, text.encode(), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise UntrustedError("TCB data that their signer did not sign", code=code) from error


def _verify_crl(der: bytes, issuer: x509.Certificate, *, code: str) -> None:
    try:
        crl = x509.load_der_x509_crl(der)
        genuine = crl.issuer == issuer.subject and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise MalformedError("CRL: not X.509 DER", code="malformed-collateral") from error
    if not genuine:
        raise UntrustedError("a CRL of another issuer", code=code)


def _verify_issued(
    certificate: x509.Certificate, between: Sequence[x509.Certificate], *, root: TrustedRoot, what: str
) -> None:
    """The certificate is issued by the ones between, in their order, and the last of all by the root."""
    try:
        for issuer in (*between, root.certificate):
            certificate.verify_directly_issued_by(issuer)
            certificate = issuer
    except (ValueError, TypeError, InvalidSignature) as error:
        raise UntrustedError(
            f"{what}: not issued under the root {root.name!r}", code="untrusted-chain"
        ) from error


def _chain(pem: str, *, what: str) -> list[x509.Certificate]:
    return _certificates(pem.encode("utf-8", "surrogatepass"), what=what, code="malformed-collateral")


def _certificates(pem: bytes, *, what: str, code: str) -> list[x509.Certificate]:
    chain = parse_chain(pem, what=what, code=code)
    if len(chain) > _MAX_CHAIN:
        raise MalformedError(f"{what}: {len(chain)} certificates", code=code)
    return chain
