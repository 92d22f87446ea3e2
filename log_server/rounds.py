"""Rounds: what one checkpoint has on its way to a quorum, and when a witness that failed is asked again.

No thread, no clock, no database: the publisher holds the lock and says what time it is.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from assay.log_server.config import WitnessSection
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.witnessing import Kept
from assay.tlog.checkpoint import Checkpoint
from assay.tlog.policy import Policy

_HURRIED_PAUSE_S = 1.0
"""The longest pause of a witness that somebody waits for: at most one extra try a second."""


class Backoff:
    """How long a witness is left alone after failures: twice as long each time, never beyond a limit.

    Args:
        first_s: the pause after the first failure.
        longest_s: the limit.
    """

    def __init__(self, *, first_s: float, longest_s: float) -> None:
        self._first_s = min(first_s, longest_s)
        self._longest_s = longest_s
        self._pause_s = 0.0
        self._failed_s: float | None = None

    def succeeded(self) -> None:
        """It may be asked at any time."""
        self._pause_s = 0.0
        self._failed_s = None

    def failed(self, *, now_s: float) -> None:
        """It is left alone from now on, which is when it failed and not when it was asked."""
        self._pause_s = min(2 * self._pause_s, self._longest_s) if self._pause_s else self._first_s
        self._failed_s = now_s

    def ready_s(self, *, hurried_s: float | None) -> float:
        """The time from which it may be asked; a hurry after its failure makes a long pause a second."""
        if self._failed_s is None:
            return 0.0
        hurried = hurried_s is not None and hurried_s > self._failed_s
        return self._failed_s + (min(self._pause_s, _HURRIED_PAUSE_S) if hurried else self._pause_s)


@dataclass(eq=False)
class Round:
    """One checkpoint on its way to a quorum. Cosignatures are of this size and of this round, or they do not count.

    ``expected`` are the witnesses that may answer soon: not those that were left alone after failures when the
    round began, nor those that have been asked. ``trying`` are being asked now, ``holding`` those of them that
    are asked for the first time, for whom the round is not given up.
    """

    signed: StoredCheckpoint
    checkpoint: Checkpoint
    began_s: float
    expected: set[str]
    trying: set[str] = field(default_factory=set)
    holding: set[str] = field(default_factory=set)
    kept: list[Kept] = field(default_factory=list)
    stored: int = 0
    met_s: float | None = None
    published: bool = False

    @property
    def is_short(self) -> bool:
        """Whether a quorum is missing although everybody has been asked who was expected to answer."""
        return self.met_s is None and not self.expected

    def begin_try(self, url: str) -> None:
        """A witness is being asked."""
        self.trying.add(url)
        if url in self.expected:
            self.holding.add(url)

    def end_try(self, url: str, kept: Collection[Kept], *, policy: Policy, now_s: float) -> None:
        """It has answered, or failed with nothing to keep."""
        self.trying.discard(url)
        self.holding.discard(url)
        self.expected.discard(url)
        self.kept.extend(kept)
        if self.met_s is None and self._is_quorum(policy):
            self.met_s = now_s

    def due_s(self, *, grace_s: float) -> float | None:
        """The time from which to publish: when nobody is expected any more, or the grace is over."""
        if self.met_s is None or self.published:
            return None
        return self.met_s + grace_s if self.expected else self.met_s

    def is_over(self, *, newest_size: int, now_s: float, limits: WitnessSection) -> bool:
        """Whether the next round should begin, which offers the newest checkpoint.

        A round that is published makes room for a newer checkpoint at once. One that is not goes on until its
        time has passed, but no longer than anybody can be expected to answer if nobody has; and never while a
        witness is asked for the first time, so that slow witnesses whose turns differ meet in one round.
        """
        age_s = now_s - self.began_s
        newer = newest_size > self.signed.size
        if self.published:
            return newer or age_s >= limits.recosign_interval_s
        if self.met_s is not None or self.holding:
            return False
        if age_s >= limits.recosign_interval_s:
            return True
        return newer and (age_s >= limits.round_timeout_s or not (self.expected or self.kept))

    def _is_quorum(self, policy: Policy) -> bool:
        keys = {kept.cosignature.key for kept in self.kept}
        return policy.is_quorum({witness.name for witness in policy.witnesses if witness.key in keys})
