"""Keeping collateral: asked for once a day and family, renewed before it expires, never given out expired.

Only what verifies as issued under the root is kept. One thread asks the source while others use what is there;
a source that fails is left alone for a while, and what is kept goes on to count until it expires.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from assay.attest.quote.collateral import Collateral
from assay.attest.quote.collateral_dates import CollateralDates, unverified_dates
from assay.attest.quote.tcb_changes import Comparison, Judgement, LevelChange, compare_collateral
from assay.fetch.collateral import CollateralProvider, CollateralWarning, PlatformFamily, ProvidedCollateral
from assay.tlog.errors import LogError, UnavailableError

_DAY_S = 86_400
_OFTEN = 24
"""How many times as often renewal is tried when a part is about to expire."""
_MAX_PAUSE_S = 3600
"""How long a source may ask to be left alone."""
_MAX_FAMILIES = 256
"""Intel has some dozens; the least recently used goes first."""


@dataclass(frozen=True, slots=True)
class CacheTimes:
    """When to ask again, in seconds.

    Attributes:
        max_age_s: what is older is renewed; until that succeeds it still counts.
        warn_before_s: how long before a part expires the operator is warned, and renewal is tried more often.
        retry_s: how long a source is left alone after it was asked; up to an hour if it says so.
    """

    max_age_s: int = _DAY_S
    warn_before_s: int = 7 * _DAY_S
    retry_s: int = 60


@dataclass(frozen=True, slots=True)
class _Kept:
    provided: ProvidedCollateral
    dates: CollateralDates


@dataclass(slots=True)
class _Slot:
    """What is known for one family. ``lock`` is held while the source is asked, and to write the rest."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: _Kept | None = None
    asked_at_s: int = 0
    next_try_s: int = 0
    failure: LogError | None = None


class CachingProvider:
    """A provider in front of another.

    Args:
        source: whom to ask.
        verify: checks collateral before it is kept, and raises a LogError for what is not genuine.
        times: when to ask again.
        early: where the TCB data come from that will be standard later; whoever has them is warned.
    """

    def __init__(
        self,
        source: CollateralProvider,
        *,
        verify: Callable[[Collateral], object],
        times: CacheTimes,
        early: CollateralProvider | None = None,
    ) -> None:
        self._source = source
        self._verify = verify
        self._times = times
        self._early = early
        self._slots: OrderedDict[PlatformFamily, _Slot] = OrderedDict()
        self._lock = threading.Lock()  # of the dictionary; never held while anything is asked

    def collateral(self, family: PlatformFamily, *, now_s: int) -> ProvidedCollateral:
        """What is kept, renewed first if that is due; see :class:`CollateralProvider`.

        Raises:
            UnavailableError: the source's reason, if nothing is kept; ``collateral-expired`` if what is kept no
                longer counts and nothing newer can be had.
        """
        slot = self._slot(family)
        kept = slot.kept
        usable = kept is not None and not kept.dates.is_expired(now_s=now_s)
        # Whoever has something to go on with does not wait for the one who renews it.
        if (not usable or self._is_due(slot, now_s)) and slot.lock.acquire(blocking=not usable):
            try:
                self._renew(slot, family, now_s=now_s)
            finally:
                slot.lock.release()
        return self._given(slot, family, now_s=now_s)

    def _slot(self, family: PlatformFamily) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(family, _Slot())
            self._slots.move_to_end(family)
            if len(self._slots) > _MAX_FAMILIES:
                self._slots.popitem(last=False)
            return slot

    def _is_due(self, slot: _Slot, now_s: int) -> bool:
        if slot.kept is None or self._may_not_ask(slot, now_s):
            return slot.kept is None
        ends = slot.kept.dates.is_expired(now_s=now_s + self._times.warn_before_s)
        max_age_s = self._times.max_age_s // _OFTEN if ends else self._times.max_age_s
        return slot.failure is not None or now_s - slot.asked_at_s >= max_age_s or now_s < slot.asked_at_s

    def _may_not_ask(self, slot: _Slot, now_s: int) -> bool:
        """Whether somebody has just asked; a clock that was set back since does not stop us."""
        return slot.asked_at_s - self._times.retry_s <= now_s < slot.next_try_s

    def _renew(self, slot: _Slot, family: PlatformFamily, *, now_s: int) -> None:
        """Ask the source, unless somebody has just done so. The caller holds the slot's lock."""
        if self._may_not_ask(slot, now_s):
            return
        pause_s = self._times.retry_s
        slot.asked_at_s = now_s
        try:
            slot.kept = self._newest(slot.kept, self._fetch(family, now_s=now_s), now_s=now_s)
            slot.failure = None
        except LogError as error:
            slot.failure = error
            pause_s = max(pause_s, min(getattr(error, "retry_after_s", 0), _MAX_PAUSE_S))
        slot.next_try_s = now_s + pause_s

    def _fetch(self, family: PlatformFamily, *, now_s: int) -> _Kept:
        provided = self._source.collateral(family, now_s=now_s)
        dates = unverified_dates(provided.collateral)
        self._verify(provided.collateral)
        if dates.is_expired(now_s=now_s):
            raise UnavailableError(
                f"the source has only expired collateral for {family}", code="collateral-expired"
            )
        return _Kept(replace(provided, warnings=self._early_warnings(provided, family, now_s=now_s)), dates)

    def _newest(self, kept: _Kept | None, fetched: _Kept, *, now_s: int) -> _Kept:
        """What was fetched, unless a part of it is older than what is kept and counts: no source takes us back.

        Raises:
            UnavailableError: that (code ``bad-collateral``).
        """
        if kept is None or kept.dates.is_expired(now_s=now_s) or not fetched.dates.is_older_than(kept.dates):
            return fetched
        raise UnavailableError("the source has older collateral than it had before", code="bad-collateral")

    def _early_warnings(
        self, provided: ProvidedCollateral, family: PlatformFamily, *, now_s: int
    ) -> tuple[CollateralWarning, ...]:
        if self._early is None:
            return ()
        try:
            early = self._early.collateral(family, now_s=now_s).collateral
            self._verify(early)
            compared = compare_collateral(provided.collateral, early)
        except LogError as error:
            return (
                CollateralWarning("collateral-refresh", "early", f"{family}: no early TCB data: {error}"),
            )
        return tuple(_early_warning(family, compared, change) for change in compared.changes)

    def _given(self, slot: _Slot, family: PlatformFamily, *, now_s: int) -> ProvidedCollateral:
        kept, failure = slot.kept, slot.failure
        if kept is None:
            raise _unavailable(family, failure)
        if kept.dates.is_expired(now_s=now_s):
            raise UnavailableError(
                f"the collateral for {family} has expired", code="collateral-expired"
            ) from failure
        warnings = kept.provided.warnings
        if failure is not None:
            warnings += (
                CollateralWarning("collateral-refresh", failure.code, f"{family}: not renewed: {failure}"),
            )
        for name, part in kept.dates.parts.items():
            left_s = part.expires_s - now_s
            if left_s <= self._times.warn_before_s:
                text = f"{family}: {name} expires in {left_s // 3600} hours"
                warnings += (CollateralWarning("collateral-expires", name, text),)
        return replace(kept.provided, warnings=warnings)


def _unavailable(family: PlatformFamily, failure: LogError | None) -> UnavailableError:
    """The source's reason anew, for each caller its own; whatever was wrong, it was not the caller's fault."""
    code = failure.code if isinstance(failure, UnavailableError) else "bad-collateral"
    error = UnavailableError(f"no collateral for {family}: {failure}", code=code)
    error.__cause__ = failure
    return error


def _early_warning(family: PlatformFamily, compared: Comparison, change: LevelChange) -> CollateralWarning:
    level = ".".join(map(str, change.svns))
    text = (
        f"{family}: with evaluation number {compared.number_after} (now {compared.number_before}) the level {level} "
        f"of {change.part} will be {_shown(change.after)}, and is {_shown(change.before)}"
    )
    return CollateralWarning("tcb-early", f"{change.part} {level}", text)


def _shown(judgement: Judgement | None) -> str:
    if judgement is None:
        return "below every level"
    return f"{judgement.status} ({', '.join(judgement.advisories) or 'no advisories'})"
