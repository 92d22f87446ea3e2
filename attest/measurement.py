"""What identifies the code inside a trusted execution environment: never a bare hex string."""

from dataclasses import dataclass
from enum import StrEnum

from assay.attest import jcs
from assay.tlog import strict
from assay.tlog.errors import MalformedError


class Tee(StrEnum):
    """A trusted execution environment, and by its value's length the kind of hash it measures with."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"


MEASUREMENT_SIZE = {Tee.SGX: 32, Tee.TDX: 48, Tee.SNP: 48}
"""Bytes: MRENCLAVE is SHA-256, MRTD and the SNP launch measurement are SHA-384."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A TEE and the hash of what was loaded into it."""

    tee: Tee
    value: bytes

    def __post_init__(self) -> None:
        """Refuse a hash of another length than the TEE's.

        Raises:
            MalformedError: another length.
        """
        if len(self.value) != MEASUREMENT_SIZE[self.tee]:
            raise MalformedError(f"a {self.tee} measurement has {MEASUREMENT_SIZE[self.tee]} bytes")

    def to_json(self) -> jcs.Json:
        """``{"tee": "sgx", "value": lower-case hex}``."""
        return {"tee": str(self.tee), "value": self.value.hex()}


def parse_measurement(value: jcs.Json, *, what: str) -> Measurement:
    """Read a measurement as :meth:`Measurement.to_json` writes it.

    Raises:
        MalformedError: an unknown TEE or a value of another length.
    """
    fields = jcs.Fields(value, what=what, required=("tee", "value"))
    try:
        tee = Tee(fields.text("tee"))
    except ValueError as error:
        raise MalformedError(f"{fields.name('tee')}: unknown") from error
    return Measurement(tee, strict.hex_bytes(fields.text("value"), what=fields.name("value")))
