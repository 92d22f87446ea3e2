"""Trust anchors by the hash of their key: AMD's root keys (ARK) and NVIDIA's device identity root.

Evidence brings the root's certificate along; what is trusted is its key. As for Intel's root, there is no
default: the caller names one, and what it is tells the key, not the name.
"""

import re
from dataclasses import dataclass

from cryptography import x509

from assay.attest.quote.snp import SnpProduct
from assay.attest.roots import Platform
from assay.tlog.errors import MalformedError

AMD_ARK_SPKI_SHA256 = {
    SnpProduct.MILAN: "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    SnpProduct.GENOA: "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    SnpProduct.TURIN: "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}
"""Hex SHA-256 of the SubjectPublicKeyInfo of each ARK, for VCEK and VLEK alike.

AMD publishes the certificates at https://kdsintf.amd.com/vcek/v1/{product}/cert_chain; these are the keys of
the copies in github.com/google/go-sev-guest, verify/trust/.
"""

NVIDIA_DEVICE_ROOT_SPKI_SHA256 = "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"
"""Hex SHA-256 of the SubjectPublicKeyInfo of "NVIDIA Device Identity CA".

The key of the copy in github.com/confidential-containers/trustee, deps/verifier/src/nvidia/.
"""

SIMULATED_AMD_ORGANIZATION = "SIMULATION - NOT AMD"
SIMULATED_NVIDIA_ORGANIZATION = "SIMULATION - NOT NVIDIA"
"""The organization in every certificate of a simulated processor or GPU."""

_SIMULATED = {SIMULATED_AMD_ORGANIZATION, SIMULATED_NVIDIA_ORGANIZATION}
_GENUINE = dict.fromkeys(AMD_ARK_SPKI_SHA256.values(), Platform.AMD) | {
    NVIDIA_DEVICE_ROOT_SPKI_SHA256: Platform.NVIDIA
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PinnedRoot:
    """A root key that someone decided to trust, under the name they gave it.

    Attributes:
        name: a label of the caller's.
        spki_sha256: lower-case hex SHA-256 of the key's SubjectPublicKeyInfo DER.
    """

    name: str
    spki_sha256: str

    def __post_init__(self) -> None:
        """Refuse what could never match a key.

        Raises:
            MalformedError: not 64 lower-case hex digits (code ``malformed-root``).
        """
        if not _SHA256.fullmatch(self.spki_sha256):
            raise MalformedError(f"root {self.name!r}: not the SHA-256 of a key", code="malformed-root")

    def platform_of(self, certificate: x509.Certificate) -> Platform:
        """Whose root this is, given the self-signed certificate that was found to have the pinned key.

        ``amd`` or ``nvidia`` iff the key is the vendor's, ``simulated`` iff the subject says so, else
        ``custom``.
        """
        if self.spki_sha256 in _GENUINE:
            return _GENUINE[self.spki_sha256]
        organizations = certificate.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
        if any(attribute.value in _SIMULATED for attribute in organizations):
            return Platform.SIMULATED
        return Platform.CUSTOM


@dataclass(frozen=True, slots=True)
class SnpRoot(PinnedRoot):
    """The root key (ARK) of one line of AMD's processors; the line decides how TCB versions are read."""

    product: SnpProduct


@dataclass(frozen=True, slots=True)
class GpuRoot(PinnedRoot):
    """The root key of GPU identities."""


def amd_root(product: SnpProduct) -> SnpRoot:
    """AMD's own root for a line of processors, named such as ``amd-milan``."""
    return SnpRoot(f"amd-{product.lower()}", AMD_ARK_SPKI_SHA256[product], product)


def nvidia_root() -> GpuRoot:
    """NVIDIA's own root, named ``nvidia``."""
    return GpuRoot("nvidia", NVIDIA_DEVICE_ROOT_SPKI_SHA256)
