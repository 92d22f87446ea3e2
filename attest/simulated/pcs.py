"""The texts that Intel's provisioning service signs: TCB info v3 and QE identity v2, for SGX and for TDX.

Keys, their order, the spelling of dates and the absence of spaces are those of PCS v4, because the signature
is over the exact text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from assay.attest.measurement import Tee
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
    tdx_svn: bytes = bytes(16)
    """The 16 SVNs of TEE_TCB_SVN; only TCB info for TDX has them."""


@dataclass(frozen=True, slots=True)
class IsvLevel:
    """A quoting enclave or TDX module at or above this ISVSVN has this status."""

    isv_svn: int
    date_s: int
    status: str = TcbStatus.UP_TO_DATE
    advisories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TdxModule:
    """The TDX module that TCB info for TDX names, and what its SVNs mean.

    Attributes:
        version: of the module (byte 1 of TEE_TCB_SVN), which makes its id ``TDX_%02X``.
        levels: of its SVN (byte 0).
        mr_signer: 48 bytes; zero for Intel's.
        attributes: 8 bytes, all of which count.
    """

    version: int
    levels: tuple[IsvLevel, ...]
    mr_signer: bytes = bytes(48)
    attributes: bytes = bytes(8)


def tcb_info(
    levels: Sequence[TcbLevel],
    *,
    period: Period,
    fmspc: bytes = FMSPC,
    pce_id: bytes = PCE_ID,
    evaluation_number: int = EVALUATION_NUMBER,
    module: TdxModule | None = None,
) -> str:
    """TCB info v3 of one FMSPC: which SVNs mean which status; with a TDX module it is that for TDX."""
    return _text(
        {
            "id": "TDX" if module else "SGX",
            "version": 3,
            "issueDate": _date(period.issued_s),
            "nextUpdate": _date(period.expires_s),
            "fmspc": fmspc.hex().upper(),
            "pceId": pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": evaluation_number,
            **(_module(module) if module else {}),
            "tcbLevels": [
                {
                    "tcb": {
                        "sgxtcbcomponents": [{"svn": svn} for svn in level.cpu_svn],
                        "pcesvn": level.pce_svn,
                        **({"tdxtcbcomponents": [{"svn": svn} for svn in level.tdx_svn]} if module else {}),
                    },
                    **_judgement(level),
                }
                for level in levels
            ],
        }
    )


def qe_identity(
    levels: Sequence[IsvLevel],
    *,
    period: Period,
    mr_signer: bytes,
    isv_prod_id: int,
    evaluation_number: int = EVALUATION_NUMBER,
    tee: Tee = Tee.SGX,
) -> str:
    """QE identity v2: which quoting enclave is genuine, and which ISVSVN means which status."""
    return _text(
        {
            "id": "TD_QE" if tee is Tee.TDX else "QE",
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
            "tcbLevels": _isv_levels(levels),
        }
    )


def _module(module: TdxModule) -> dict[str, object]:
    identity = {
        "mrsigner": module.mr_signer.hex().upper(),
        "attributes": module.attributes.hex().upper(),
        "attributesMask": "FF" * len(module.attributes),
    }
    levels = _isv_levels(module.levels)
    named = {"id": f"TDX_{module.version:02X}", **identity, "tcbLevels": levels}
    return {"tdxModule": identity, "tdxModuleIdentities": [named]}


def _isv_levels(levels: Sequence[IsvLevel]) -> list[dict[str, object]]:
    return [{"tcb": {"isvsvn": level.isv_svn}, **_judgement(level)} for level in levels]


def _judgement(level: TcbLevel | IsvLevel) -> dict[str, object]:
    judged: dict[str, object] = {"tcbDate": _date(level.date_s), "tcbStatus": str(level.status)}
    return judged | {"advisoryIDs": list(level.advisories)} if level.advisories else judged


def _text(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
