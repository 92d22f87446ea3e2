"""The certificates and revocation lists of a simulated platform; every name says that it is one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest.quote.pck import SGX_EXTENSION, PckCa, PckExtension
from assay.attest.roots import SIMULATION_ORGANIZATION
from assay.attest.simulated.keys import derived, private_key
from assay.attest.simulated.pck_extension import format_pck_extension

DAY_S = 86_400
YEAR_S = 365 * DAY_S

_SERIAL_SIZE = 16


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate and the key that it certifies."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        """The certificate as DER."""
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What distinguishes the certificates: label of key and serial, name, and years around the epoch."""

    label: str
    common_name: str
    before_s: int
    after_s: int
    path_length: int | None = None  # None: not a CA


_ROOT = _Kind("root", "SIMULATED SGX Root CA", 2 * YEAR_S, 28 * YEAR_S, path_length=1)
_PCK_CA = {
    ca: _Kind(
        f"pck {ca} ca", f"SIMULATED SGX PCK {ca.capitalize()} CA", 2 * YEAR_S, 13 * YEAR_S, path_length=0
    )
    for ca in PckCa
}
_TCB_SIGNING = _Kind("tcb signing", "SIMULATED SGX TCB Signing", 2 * YEAR_S, 5 * YEAR_S)
_PCK = _Kind("pck", "SIMULATED SGX PCK Certificate", 30 * DAY_S, 7 * YEAR_S)


def issue_root(seed: bytes, *, epoch_s: int) -> Holder:
    """The self-signed root, valid from 2 years before the epoch for 30 years."""
    return _issue(seed, _ROOT, epoch_s=epoch_s, issuer=None)


def issue_pck_ca(seed: bytes, *, ca: PckCa, root: Holder, epoch_s: int) -> Holder:
    """The Processor or Platform CA, valid from 2 years before the epoch for 15 years."""
    return _issue(seed, _PCK_CA[ca], epoch_s=epoch_s, issuer=root)


def issue_tcb_signer(seed: bytes, *, root: Holder, epoch_s: int) -> Holder:
    """The signer of TCB info and QE identity, valid from 2 years before the epoch for 7 years."""
    return _issue(seed, _TCB_SIGNING, epoch_s=epoch_s, issuer=root)


def issue_pck(seed: bytes, *, extension: PckExtension, ca: Holder, epoch_s: int) -> Holder:
    """The platform's own certificate, valid from 30 days before the epoch for 7 years."""
    return _issue(seed, _PCK, epoch_s=epoch_s, issuer=ca, extension=extension)


def revocation_list(issuer: Holder, revoked: Sequence[Holder], *, issued_s: int, expires_s: int) -> bytes:
    """A CRL of the issuer in DER that lists these certificates as revoked at the time of issue."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(_utc(issued_s))
        .next_update(_utc(expires_s))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(_authority_key(issuer.key), critical=False)
    )
    for holder in revoked:
        entry = x509.RevokedCertificateBuilder(holder.certificate.serial_number, _utc(issued_s))
        builder = builder.add_revoked_certificate(entry.build())
    crl = builder.sign(issuer.key, SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(Encoding.DER)


def _issue(
    seed: bytes, kind: _Kind, *, epoch_s: int, issuer: Holder | None, extension: PckExtension | None = None
) -> Holder:
    key = private_key(seed, kind.label)
    name = _name(kind.common_name)
    authority = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(_serial(seed, kind.label))
        .not_valid_before(_utc(epoch_s - kind.before_s))
        .not_valid_after(_utc(epoch_s + kind.after_s))
        .add_extension(_authority_key(authority), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(is_ca=kind.path_length is not None), critical=True)
        .add_extension(
            x509.BasicConstraints(ca=kind.path_length is not None, path_length=kind.path_length),
            critical=True,
        )
    )
    if extension is not None:
        sgx = x509.UnrecognizedExtension(SGX_EXTENSION, format_pck_extension(extension))
        builder = builder.add_extension(sgx, critical=False)
    return Holder(builder.sign(authority, SHA256(), ecdsa_deterministic=True), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, SIMULATION_ORGANIZATION),
        ]
    )


def _serial(seed: bytes, label: str) -> int:
    # The leading 1 keeps it positive and of one length for every seed.
    return int.from_bytes(b"\x01" + derived(seed, f"serial {label}", size=_SERIAL_SIZE), "big")


def _authority_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _utc(time_s: int) -> datetime:
    return datetime.fromtimestamp(time_s, tz=UTC)
