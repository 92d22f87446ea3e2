"""The certificates behind a SEV-SNP report: ARK, ASK or ASVK, and VCEK or VLEK; and AMD's revocation list.

Source: AMD publication 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface, and its
companion for the VLEK. The key of a chip (VCEK) or of a cloud (VLEK) is derived for one TCB version, which
its certificate names part by part; whoever holds such a certificate knows which firmware held its key.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest.quote.pinned_chain import (
    MAX_CHAIN_SIZE,
    Period,
    common_period,
    extensions_of,
    load_certificate,
    load_pem_chain,
    malformed,
    p384_key,
    period_at,
    require_issued,
    require_pinned,
    require_role,
    serial_of,
    untrusted,
)
from assay.attest.quote.snp import SnpProduct, SnpSigningKey, SnpTcb
from assay.attest.roots.pinned import SnpRoot
from assay.tlog.errors import StaleError, UntrustedError

OID_PREFIX = "1.3.6.1.4.1.3704.1."
"""AMD's extensions; none of them is critical.

======  ======================================================================================
arc     value
======  ======================================================================================
3.1     INTEGER: SPL of the bootloader
3.2     INTEGER: of the TEE
3.3     INTEGER: of the SNP firmware
3.4-7   INTEGER: of bytes that are reserved in a TCB version; zero
3.8     INTEGER: of the microcode
3.9     INTEGER: of the FMC; Turin only
4       hwID: the bytes themselves, or an OCTET STRING of them: 64, on Turin 8; VCEK only
5       CSP id: IA5String: the cloud; VLEK only
======  ======================================================================================

The product name (arc 2) is not read: AMD issued certificates with a wrong one. The line of products follows
from the root key and the ASK's name.
"""

MAX_CRL_SIZE = 1024 * 1024

_ARCS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
_RESERVED_ARCS = ("3.4", "3.5", "3.6", "3.7")
_FMC, _HARDWARE_ID, _CSP_ID = "3.9", "4", "5"

_INTEGER, _OCTETS, _IA5 = 0x02, 0x04, 0x16
_LEAVES = {"SEV-VCEK": SnpSigningKey.VCEK, "SEV-VLEK": SnpSigningKey.VLEK}
_RSA_BITS = 4096


@dataclass(frozen=True, slots=True)
class SnpChain:
    """Three certificates as DER, from the report's signer up; nothing in them is believed yet.

    Attributes:
        leaf: VCEK or VLEK.
        intermediate: ASK for a VCEK, ASVK for a VLEK.
        ark: the root.
    """

    leaf: bytes
    intermediate: bytes
    ark: bytes


@dataclass(frozen=True, slots=True)
class VerifiedSnpChain:
    """A chain that leads to the root, at one time.

    Attributes:
        key: the leaf's.
        kind: VCEK or VLEK.
        tcb: the TCB version that the key was derived for.
        hardware_id: of the chip, 8 or 64 bytes; None for a VLEK.
        csp_id: of the cloud; None for a VCEK.
        ark: the root's certificate.
        serials: of the intermediate and the leaf. Every VCEK has the serial number 0.
        period: in which all three are valid.
    """

    key: ec.EllipticCurvePublicKey
    kind: SnpSigningKey
    tcb: SnpTcb
    hardware_id: bytes | None
    csp_id: str | None
    ark: x509.Certificate
    serials: tuple[int, int]
    period: Period


def parse_chain_pem(pem: bytes) -> SnpChain:
    """Read a chain from PEM: leaf, intermediate, root.

    Raises:
        MalformedError: not three certificates in this text (code ``malformed-collateral``).
    """
    chain = load_pem_chain(pem, count=3, what="SNP chain")
    return SnpChain(*(certificate.public_bytes(Encoding.DER) for certificate in chain))


def verify_chain(chain: SnpChain, *, root: SnpRoot, now_s: int) -> VerifiedSnpChain:
    """Verify that the leaf leads to the root, and read what it says of its key.

    Steps: 1. the ARK's key is the pinned one; 2. ARK by itself, intermediate by ARK, leaf by intermediate: names,
    RSA-PSS with SHA-384, RSA keys of 4096 bits; 3. who is a CA; 4. the dates of all three; 5. the names of
    intermediate and leaf; 6. the leaf's extensions.

    Raises:
        MalformedError: certificates or extensions that cannot be read (code ``malformed-collateral``).
        UntrustedError: codes ``wrong-root`` and ``untrusted-chain``.
        StaleError: codes ``cert-expired`` and ``cert-not-yet-valid``.
    """
    if len(chain.leaf) + len(chain.intermediate) + len(chain.ark) > MAX_CHAIN_SIZE:
        raise malformed("SNP chain", f"more than {MAX_CHAIN_SIZE} bytes")
    ark = load_certificate(chain.ark, what="ARK")
    intermediate = load_certificate(chain.intermediate, what="ASK")
    leaf = load_certificate(chain.leaf, what="VCEK or VLEK")
    require_pinned(ark, root)
    for certificate, issuer, what in (
        (ark, ark, "ARK"),
        (intermediate, ark, "ASK"),
        (leaf, intermediate, "leaf"),
    ):
        _require_rsa(issuer, what=what)
        require_issued(certificate, issuer, algorithm=x509.SignatureAlgorithmOID.RSASSA_PSS, what=what)
        require_role(certificate, is_ca=certificate is not leaf, what=what)
    periods = [
        period_at(certificate, now_s=now_s, what=what)
        for certificate, what in ((ark, "ARK"), (intermediate, "ASK"), (leaf, "leaf"))
    ]
    kind = _kind(leaf, intermediate, root.product)
    extensions = _AmdExtensions(leaf)
    return VerifiedSnpChain(
        key=p384_key(leaf, what="leaf"),
        kind=kind,
        tcb=extensions.tcb(root.product),
        hardware_id=extensions.hardware_id(kind, root.product),
        csp_id=extensions.csp_id(kind),
        ark=ark,
        serials=(serial_of(intermediate), serial_of(leaf)),
        period=common_period(periods),
    )


def verify_crl(crl: bytes, chain: VerifiedSnpChain, *, now_s: int) -> Period:
    """Verify that the ARK's revocation list counts now and lists neither intermediate nor leaf.

    A serial number counts wherever it stands, whoever issued the certificate it was meant for. As every VCEK
    has the serial number 0, AMD can revoke an ASK, an ASVK or a VLEK this way, but not one chip.

    Args:
        crl: DER.
        chain: verified.
        now_s: the time to judge at, in Unix seconds.

    Returns:
        When the list counts: from thisUpdate until nextUpdate.

    Raises:
        MalformedError: no CRL, without nextUpdate, or with a critical extension (``malformed-collateral``).
        UntrustedError: codes ``wrong-collateral-signer`` (not the ARK's), ``revoked``.
        StaleError: codes ``collateral-not-yet-valid``, ``collateral-expired``.
    """
    parsed = _load_crl(crl)
    _require_signed_crl(parsed, chain.ark)
    if parsed.next_update_utc is None:
        raise malformed("CRL", "no nextUpdate")
    period = Period(int(parsed.last_update_utc.timestamp()), int(parsed.next_update_utc.timestamp()))
    if now_s < period.from_s:
        raise StaleError("the CRL was issued after the time of judgement", code="collateral-not-yet-valid")
    if now_s >= period.until_s:
        raise StaleError("the CRL has expired", code="collateral-expired")
    if any(parsed.get_revoked_certificate_by_serial_number(serial) for serial in chain.serials):
        raise UntrustedError("a certificate of the chain is revoked", code="revoked")
    return period


def _require_rsa(certificate: x509.Certificate, *, what: str) -> None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise untrusted(what, "an issuer's key of an unknown kind") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
        raise untrusted(what, f"the issuer's key is not RSA with {_RSA_BITS} bits")


def _kind(leaf: x509.Certificate, intermediate: x509.Certificate, product: SnpProduct) -> SnpSigningKey:
    kind = _LEAVES.get(_common_name(leaf))
    if kind is None:
        raise untrusted("leaf", "the common name is neither SEV-VCEK nor SEV-VLEK")
    expected = f"SEV-{product}" if kind is SnpSigningKey.VCEK else f"SEV-VLEK-{product}"
    if _common_name(intermediate) != expected:
        raise untrusted("ASK", f"the common name is not {expected}")
    return kind


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


class _AmdExtensions:
    """AMD's extensions of a leaf, by their arcs behind the prefix; each occurs once."""

    def __init__(self, leaf: x509.Certificate) -> None:
        self._found: dict[str, bytes] = {
            extension.oid.dotted_string.removeprefix(OID_PREFIX): extension.value.public_bytes()
            for extension in extensions_of(leaf, what="leaf")
            if extension.oid.dotted_string.startswith(OID_PREFIX)
        }

    def tcb(self, product: SnpProduct) -> SnpTcb:
        if any(self._svn(arc) for arc in _RESERVED_ARCS if arc in self._found):
            raise malformed("leaf", "a reserved component has a version")
        components = {name: self._svn(arc) for name, arc in _ARCS.items()}
        if product is SnpProduct.TURIN:
            return SnpTcb(**components, fmc=self._svn(_FMC))
        if _FMC in self._found and self._svn(_FMC):
            raise malformed("leaf", f"an FMC version, which {product} has not")
        return SnpTcb(**components)

    def hardware_id(self, kind: SnpSigningKey, product: SnpProduct) -> bytes | None:
        value = self._found.get(_HARDWARE_ID)
        if (kind is SnpSigningKey.VCEK) != (value is not None):
            raise malformed("leaf", "a VCEK has a hardware id, a VLEK none")
        if value is None:
            return None
        size = 8 if product is SnpProduct.TURIN else 64
        bare = value[2:] if value[:2] == bytes((_OCTETS, size)) and len(value) == size + 2 else value
        if len(bare) != size:
            raise malformed("leaf", f"the hardware id has not {size} bytes")
        return bare

    def csp_id(self, kind: SnpSigningKey) -> str | None:
        value = self._found.get(_CSP_ID)
        if (kind is SnpSigningKey.VLEK) != (value is not None):
            raise malformed("leaf", "a VLEK has a CSP id, a VCEK none")
        if value is None:
            return None
        text = value[2:]
        visible = all(0x20 <= octet < 0x7F for octet in text)
        if len(value) < 3 or value[:2] != bytes((_IA5, len(text))) or len(text) > 127 or not visible:
            raise malformed("leaf", "the CSP id is no short IA5String of visible characters")
        return text.decode("ascii")

    def _svn(self, arc: str) -> int:
        """An INTEGER of 0 to 255 in its only DER: 02 01 xx below 128, 02 02 00 xx from there on."""
        value = self._found.get(arc, b"")
        svn = value[-1] if value else 0
        if value != (bytes((_INTEGER, 1, svn)) if svn < 0x80 else bytes((_INTEGER, 2, 0, svn))):
            raise malformed("leaf", f"the version {arc} is missing or no INTEGER of 0 to 255")
        return svn


def _load_crl(der: bytes) -> x509.CertificateRevocationList:
    if len(der) > MAX_CRL_SIZE:
        raise malformed("CRL", f"more than {MAX_CRL_SIZE} bytes")
    try:
        crl = x509.load_der_x509_crl(der)
        critical = any(extension.critical for extension in crl.extensions)
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise malformed("CRL", "not X.509 DER") from error
    if critical:  # such as one that limits what the list covers
        raise malformed("CRL", "a critical extension")
    return crl


def _require_signed_crl(crl: x509.CertificateRevocationList, ark: x509.Certificate) -> None:
    key = ark.public_key()
    try:
        signed = isinstance(key, rsa.RSAPublicKey) and crl.is_signature_valid(key)
        hashed = crl.signature_hash_algorithm
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise malformed("CRL", "an unknown signature algorithm") from error
    pss = crl.signature_algorithm_oid == x509.SignatureAlgorithmOID.RSASSA_PSS and isinstance(hashed, SHA384)
    if crl.issuer != ark.subject or not pss or not signed:
        raise UntrustedError("the CRL is not signed by the ARK", code="wrong-collateral-signer")
