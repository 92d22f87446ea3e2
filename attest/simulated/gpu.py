"""A simulated NVIDIA GPU: byte-exact SPDM evidence and its certificates.

It proves nothing about hardware, and says so in every certificate: ``SIMULATION - NOT NVIDIA``. Everything is
a function of the seed and the epoch.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from assay.attest.quote import nvidia
from assay.attest.quote.nvidia import GpuEvidence, MeasurementBlock, OpaqueField, format_evidence
from assay.attest.quote.verify_nvidia import FWID_HEAD
from assay.attest.roots.pinned import SIMULATED_NVIDIA_ORGANIZATION, GpuRoot
from assay.attest.simulated.certificates import DAY_S, YEAR_S
from assay.attest.simulated.keys import derived
from assay.attest.simulated.vendor_certificates import Authority, Profile, issue, p384_key

DEVICE = "SIM100 A01 GSP FMC LF"
_CA_NAMES = (
    "SIMULATED Device Identity CA",
    "SIMULATED SIM100 Identity",
    "SIMULATED SIM100 Provisioner ICA 1",
    "SIM100 A01 GSP BROM",
)
_DICE_TCB_INFO = "2.23.133.5.4.1.1"
_MEASUREMENTS = 64
_RAW_SHA384 = 1


@dataclass(frozen=True, slots=True)
class GpuVariant:
    """In what a GPU differs from a healthy one.

    Attributes:
        driver_version: as it measures it.
        vbios_version: five bytes in the device's order, and three zeros.
        foreign_firmware: the certificate names other firmware than the evidence.
    """

    driver_version: str = "590.12"
    vbios_version: bytes = bytes.fromhex("00a5009601000000")
    foreign_firmware: bool = False


HEALTHY = GpuVariant()


class SimulatedGpu:
    """A GPU whose hardware is a seed.

    Args:
        seed: 32 bytes; whoever knows them can forge this GPU's evidence.
        epoch_s: Unix seconds around which the certificates are valid: from 2 years before it, the leaf from
            30 days before it, for 28 years.
        variant: how it differs from a healthy one.

    Raises:
        MalformedError: a seed of another size.
    """

    def __init__(self, seed: bytes, *, epoch_s: int, variant: GpuVariant = HEALTHY) -> None:
        self._seed = seed
        self._epoch_s = epoch_s
        self._variant = variant
        self.firmware_id = derived(seed, "firmware 0") + derived(seed, "firmware 1", size=16)
        self._key = p384_key(seed, "gpu firmware")
        self.authorities = self._authorities()
        self.leaf = issue(self._leaf_profile(), self._key, issuer=self.authorities[-1])

    @property
    def root(self) -> GpuRoot:
        """What a verifier must be told to trust."""
        return GpuRoot("simulated-gpu", self.authorities[0].spki_sha256)

    @property
    def chain_pem(self) -> str:
        """The five certificates, leaf first."""
        return self.leaf.pem + "".join(authority.pem for authority in reversed(self.authorities))

    def evidence(self, *, nonce: bytes) -> GpuEvidence:
        """What this GPU answers to a nonce of 32 bytes, not yet signed."""
        variant = self._variant
        blocks = (
            MeasurementBlock(index, _RAW_SHA384, self._measurement(index))
            for index in range(1, _MEASUREMENTS + 1)
        )
        return GpuEvidence(
            nonce=nonce,
            slot=0,
            parameters=bytes(2),
            blocks=tuple(blocks),
            response_nonce=derived(self._seed, f"response to {nonce.hex()}"),
            opaque=(
                OpaqueField(nvidia.VBIOS_VERSION, variant.vbios_version),
                OpaqueField(nvidia.DRIVER_VERSION, variant.driver_version.encode() + b"\0"),
                OpaqueField(nvidia.FIRMWARE_ID, self.firmware_id),
                OpaqueField(nvidia.CHIP_INFO, b"SIM100\0"),
            ),
            signature=bytes(nvidia.SIGNATURE_SIZE),
        )

    def sign(self, evidence: GpuEvidence) -> bytes:
        """The bytes of evidence, signed; the same evidence always gives the same bytes."""
        signed = format_evidence(evidence)[: -nvidia.SIGNATURE_SIZE]
        algorithm = ec.ECDSA(SHA384(), deterministic_signing=True)
        r, s = decode_dss_signature(self._key.sign(signed, algorithm))
        return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def _authorities(self) -> tuple[Authority, ...]:
        authorities: list[Authority] = []
        for name in _CA_NAMES:
            profile = Profile(
                name,
                SIMULATED_NVIDIA_ORGANIZATION,
                self._epoch_s - 2 * YEAR_S,
                self._epoch_s + 28 * YEAR_S,
                is_ca=True,
            )
            issuer = authorities[-1] if authorities else None
            authorities.append(issue(profile, p384_key(self._seed, f"gpu {name}"), issuer=issuer))
        return tuple(authorities)

    def _leaf_profile(self) -> Profile:
        firmware_id = bytes(48) if self._variant.foreign_firmware else self.firmware_id
        fwid = FWID_HEAD + firmware_id
        names = b"\xa6" + bytes((len(fwid),)) + fwid  # [6] of DiceTcbInfo: FWIDs
        return Profile(
            DEVICE,
            SIMULATED_NVIDIA_ORGANIZATION,
            self._epoch_s - 30 * DAY_S,
            self._epoch_s + 28 * YEAR_S,
            is_ca=False,
            extensions=((_DICE_TCB_INFO, b"\x30" + bytes((len(names),)) + names),),
        )

    def _measurement(self, index: int) -> bytes:
        return derived(self._seed, f"measurement {index} 0") + derived(
            self._seed, f"measurement {index} 1", size=16
        )
