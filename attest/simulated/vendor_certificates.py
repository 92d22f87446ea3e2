"""Certificates for simulated AMD processors and NVIDIA GPUs: SHA-384 with RSA-PSS or P-384, as the vendors do.

Every name carries an organization that says what it is. The same arguments give the same bytes.

AMD's root and intermediate have RSA keys, which no seed can give quickly. Here they are two fixed keys, whose
primes follow from a label: everybody has them. A simulated processor's root therefore keeps nobody out, not
even those who do not know a seed.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest.simulated.keys import derived

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

PSS = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=0)
"""No salt, so that signatures are deterministic; the vendors' have 48 random bytes."""

_P384_ORDER = 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D
_EXPONENT = 65537


class RsaName(Enum):
    """The fixed RSA keys; for each prime, how far behind the label's number the first fitting one stands."""

    ARK = ("ark", 702, 1700)
    ASK = ("ask", 506, 6526)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate and the key that it certifies."""

    certificate: x509.Certificate
    key: SigningKey = field(repr=False)

    @property
    def der(self) -> bytes:
        """The certificate as DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def spki_sha256(self) -> str:
        """Hex SHA-256 of the public key: how a root is pinned."""
        key = self.certificate.public_key()
        return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@dataclass(frozen=True, slots=True)
class Profile:
    """What a certificate says.

    Attributes:
        common_name: the vendor's own, as verifiers compare it.
        organization: says that it is a simulation.
        from_s: notBefore, in Unix seconds.
        until_s: notAfter.
        is_ca: whether it may sign certificates.
        extensions: by their dotted OIDs, the DER of the vendor's own extensions, none critical.
    """

    common_name: str
    organization: str
    from_s: int
    until_s: int
    is_ca: bool
    extensions: tuple[tuple[str, bytes], ...] = ()


def p384_key(seed: bytes, label: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key of that label: 64 derived bytes, reduced into [1, n - 1]."""
    number = int.from_bytes(derived(seed, f"{label} high") + derived(seed, f"{label} low"), "big")
    return ec.derive_private_key(number % (_P384_ORDER - 1) + 1, ec.SECP384R1())


@functools.cache
def rsa_key(name: RsaName) -> rsa.RSAPrivateKey:
    """A fixed RSA key of 4096 bits, the same for everybody."""
    label, first, second = name.value
    p, q = rsa_start(f"{label} p") + first, rsa_start(f"{label} q") + second
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # a test validates them


def rsa_start(label: str) -> int:
    """The odd number of 2048 bits, the two highest set, from which the search for a label's prime starts."""
    parts = (hashlib.sha256(f"assay-simulated-rsa-v1 {label}".encode() + bytes((n,))) for n in range(8))
    return int.from_bytes(b"".join(part.digest() for part in parts), "big") | 3 << 2046 | 1


def issue(profile: Profile, key: SigningKey, *, issuer: Authority | None) -> Authority:
    """Certify a key; without an issuer it certifies itself."""
    name = _name(profile)
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(_serial(profile, key))
        .not_valid_before(_utc(profile.from_s))
        .not_valid_after(_utc(profile.until_s))
        .add_extension(_usage(is_ca=profile.is_ca), critical=True)
    )
    if profile.is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for oid, value in profile.extensions:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=False)
    if isinstance(signer, rsa.RSAPrivateKey):
        return Authority(builder.sign(signer, SHA384(), rsa_padding=PSS), key)
    return Authority(builder.sign(signer, SHA384(), ecdsa_deterministic=True), key)


def rsa_revocation_list(
    issuer: Authority, revoked: Sequence[Authority], *, issued_s: int, expires_s: int
) -> bytes:
    """A CRL in DER by an issuer with an RSA key; it lists these certificates."""
    assert isinstance(issuer.key, rsa.RSAPrivateKey)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(_utc(issued_s))
        .next_update(_utc(expires_s))
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for authority in revoked:
        entry = x509.RevokedCertificateBuilder(authority.certificate.serial_number, _utc(issued_s))
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, SHA384(), rsa_padding=PSS).public_bytes(Encoding.DER)


def _name(profile: Profile) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, profile.common_name),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, profile.organization),
        ]
    )


def _serial(profile: Profile, key: SigningKey) -> int:
    """The leading 1 keeps it positive. Every real VCEK has 0, which today's libraries refuse to write."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(profile.common_name.encode() + b"\0" + spki).digest()
    return int.from_bytes(b"\x01" + digest[:15], "big")


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
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
