"""From when to when each part of collateral says that it counts; what a cache goes by. Nothing is verified here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509

from assay.attest import jcs
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, Collateral
from assay.tlog import strict
from assay.tlog.errors import MalformedError

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Dates(NamedTuple):
    """A part's date of issue, and the one from which a newer part is due; Unix seconds."""

    issued_s: int
    expires_s: int


@dataclass(frozen=True, slots=True)
class CollateralDates:
    """The dates of the four parts that expire, by name as in an appraisal."""

    parts: Mapping[str, Dates]

    @property
    def expires_s(self) -> int:
        """When the first part expires."""
        return min(part.expires_s for part in self.parts.values())

    def is_expired(self, *, now_s: int) -> bool:
        """Whether some part no longer counts."""
        return self.expires_s <= now_s

    def is_older_than(self, other: "CollateralDates") -> bool:
        """Whether some part was issued before the other's."""
        return any(self.parts[name].issued_s < part.issued_s for name, part in other.parts.items())


def unverified_dates(collateral: Collateral) -> CollateralDates:
    """Read the dates.

    Raises:
        MalformedError: a part without them (code ``malformed-collateral``).
    """
    return CollateralDates(
        {
            "pck_crl": _crl_dates(collateral.pck_crl, what="PCK CRL"),
            "qe_identity": _text_dates(collateral.qe_identity, what="QE identity"),
            "root_ca_crl": _crl_dates(collateral.root_ca_crl, what="root CRL"),
            "tcb_info": _text_dates(collateral.tcb_info, what="TCB info"),
        }
    )


def _text_dates(text: str, *, what: str) -> Dates:
    try:
        value = jcs.parse_json(text.encode(), what=what, max_bytes=MAX_COLLATERAL_SIZE)
        return Dates(_time_s(value["issueDate"]), _time_s(value["nextUpdate"]))
    except (MalformedError, ValueError, KeyError, TypeError) as error:
        raise _dateless(what) from error


def _crl_dates(der: bytes, *, what: str) -> Dates:
    try:
        crl = x509.load_der_x509_crl(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise _dateless(what) from error
    if crl.next_update_utc is None:
        raise _dateless(what)
    return Dates(int(crl.last_update_utc.timestamp()), int(crl.next_update_utc.timestamp()))


def _time_s(text: str) -> int:
    time = datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    if time.strftime(_FORMAT) != text:
        raise ValueError(f"{strict.shown(text)} is not the spelling of a time")
    return int(time.timestamp())


def _dateless(what: str) -> MalformedError:
    return MalformedError(f"{what}: no dates of issue and expiry", code="malformed-collateral")
