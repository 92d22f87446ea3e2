"""The texts that Intel's provisioning service signs: TCB info v3 and QE identity v2 for SGX.

Keys, their order, the spelling of dates and the absence of spaces are those of PCS v4, because the signature
is over the exact text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from assay.attest.quote.tcb import TcbStatus

FMSPC = bytes.fromhex("51d000000001")
"""None of Intel's."""
PCE_ID = bytes(2)
EVALUATION_NUMBER = 20


@dataclass(frozen=True, slots=True)
class Period:
    """From when to when a text counts, in Unix seconds."""

    issued_s: int
    expires_s: int


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A platform at or above these SVNs, and not at a better level, has this status.

    ``status`` is text, so that tests can write what Intel does not.
    """

    cpu_svn: bytes
    pce_svn: int
    date_s: int
    status: str = TcbStatus.UP_TO_DATE
    advisories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QeLevel:
    """A quoting enclave at or above this ISVSVN has this status."""

    isv_svn: int
    date_s: int
    status: str = TcbStatus.UP_TO_DATE
    advisories: tuple[str, ...] = ()


def tcb_info(
    levels: Sequence[TcbLevel],
    *,
    period: Period,
    fmspc: bytes = FMSPC,
    pce_id: bytes = PCE_ID,
    evaluation_number: int = EVALUATION_NUMBER,
) -> str:
    """TCB info v3 of one FMSPC: which SVNs mean which status."""
    return _text(
        {
            "id": "SGX",
            "version": 3,
            "issueDate": _date(period.issued_s),
            "nextUpdate": _date(period.expires_s),
            "fmspc": fmspc.hex().upper(),
            "pceId": pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": evaluation_number,
            "tcbLevels": [
                {
                    "tcb": {
                        "sgxtcbcomponents": [{"svn": svn} for svn in level.cpu_svn],
                        "pcesvn": level.pce_svn,
                    },
                    **_judgement(level),
                }
                for level in levels
            ],
        }
    )


def qe_identity(
    levels: Sequence[QeLevel],
    *,
    period: Period,
    mr_signer: bytes,
    isv_prod_id: int,
    evaluation_number: int = EVALUATION_NUMBER,
) -> str:
    """QE identity v2: which quoting enclave is genuine, and which ISVSVN means which status."""
    return _text(
        {
            "id": "QE",
            "version": 2,
            "issueDate": _date(period.issued_s),
            "nextUpdate": _date(period.expires_s),
            "tcbEvaluationDataNumber": evaluation_number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": mr_signer.hex().upper(),
            "isvprodid": isv_prod_id,
            "tcbLevels": [{"tcb": {"isvsvn": level.isv_svn}, **_judgement(level)} for level in levels],
        }
    )


def _judgement(level: TcbLevel | QeLevel) -> dict[str, object]:
    judged: dict[str, object] = {"tcbDate": _date(level.date_s), "tcbStatus": str(level.status)}
    return judged | {"advisoryIDs": list(level.advisories)} if level.advisories else judged


def _text(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
