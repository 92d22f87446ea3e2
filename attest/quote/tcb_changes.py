"""What newer TCB data will say of platforms: Intel publishes them weeks before they count as standard.

A log judges on the standard data; its operator wants to know on the day of a recovery which platforms will fall
behind. This compares two sets of collateral level by level; it judges no quote, and nothing is verified here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assay.attest import jcs
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, Collateral
from assay.tlog.errors import MalformedError


@dataclass(frozen=True, slots=True)
class Judgement:
    """The status of a level, and the advisories behind it."""

    status: str
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LevelChange:
    """A platform, or quoting enclave, exactly at a level of the one set fares otherwise under the other.

    Attributes:
        part: ``tcb_info`` or ``qe_identity``.
        svns: the level: 16 SGX components, for TDX 16 more, and PCESVN; or the ISVSVN alone.
        before: by the first set.
        after: by the second; None if it matches no level there.
    """

    part: str
    svns: tuple[int, ...]
    before: Judgement
    after: Judgement | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of collateral; the numbers are their TCB infos' evaluation data numbers."""

    number_before: int
    number_after: int
    changes: tuple[LevelChange, ...]


def compare_collateral(before: Collateral, after: Collateral) -> Comparison:
    """Compare what two sets of collateral of one platform family say of every level of the first.

    The TDX module's own levels are left out: the platform's version of the module selects them.

    Raises:
        MalformedError: TCB info or QE identity without levels (code ``malformed-collateral``).
    """
    try:
        old, new = _object(before.tcb_info), _object(after.tcb_info)
        qe_old, qe_new = _object(before.qe_identity), _object(after.qe_identity)
        changes = (*_changes("tcb_info", old, new), *_changes("qe_identity", qe_old, qe_new))
        return Comparison(old["tcbEvaluationDataNumber"], new["tcbEvaluationDataNumber"], changes)
    except (MalformedError, LookupError, TypeError, AttributeError) as error:
        raise MalformedError("collateral: no TCB levels", code="malformed-collateral") from error


def _object(text: str) -> Any:
    return jcs.parse_json(text.encode(), what="collateral", max_bytes=MAX_COLLATERAL_SIZE)


def _changes(part: str, before: Any, after: Any) -> Iterator[LevelChange]:
    known = _levels(after)
    for svns, judgement in _levels(before):
        # Levels stand best first, and the first that a platform reaches counts.
        reached = next((each for needed, each in known if _reaches(svns, needed)), None)
        if reached != judgement:
            yield LevelChange(part, svns, judgement, reached)


def _levels(value: Any) -> list[tuple[tuple[int, ...], Judgement]]:
    return [
        (_svns(level["tcb"]), Judgement(level["tcbStatus"], tuple(sorted(level.get("advisoryIDs", ())))))
        for level in value["tcbLevels"]
    ]


def _svns(tcb: Mapping[str, Any]) -> tuple[int, ...]:
    if "isvsvn" in tcb:
        return (tcb["isvsvn"],)
    components = [*tcb["sgxtcbcomponents"], *tcb.get("tdxtcbcomponents", ())]
    return (*(component["svn"] for component in components), tcb["pcesvn"])


def _reaches(svns: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    return len(svns) == len(needed) and all(has >= must for has, must in zip(svns, needed, strict=True))
