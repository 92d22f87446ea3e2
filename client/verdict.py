"""Verdicts: what was checked, with what result, and whether that is all that the policy requires.

A check that did not run is ``not-checked``, never a pass: because what it rests on failed, or because the
material is not there. A verdict is verified only if every required check passed and none failed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from assay.attest import jcs
from assay.attest.roots import Platform
from assay.tlog.errors import LogError, UntrustedError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Result(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105  # not a password
    FAIL = "fail"
    NOT_CHECKED = "not-checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its stable name, its result, and for people what was found or why it failed.

    ``required`` tells whether the policy asks for it; ``code`` is the error's if it failed.
    """

    name: str
    result: Result
    detail: str
    required: bool = True
    code: str | None = None

    def to_json(self) -> dict[str, jcs.Json]:
        """``{"name", "result", "detail"}``."""
        return {"name": self.name, "result": str(self.result), "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks in their order, and what those that passed established.

    Attributes:
        checks: at least one.
        platform: derived from the root under which a quote verified; None if none did.
        facts: what passed checks found: ``subject``, ``enclave``, ``release``, ``time`` and the like.
    """

    checks: tuple[Check, ...]
    platform: Platform | None = None
    facts: Mapping[str, jcs.Json] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether every required check passed and no check failed."""
        results = {check.result for check in self.checks}
        required = [check.result for check in self.checks if check.required]
        return bool(required) and set(required) == {Result.PASS} and Result.FAIL not in results

    @property
    def label(self) -> str:
        """``intel``, ``simulated``, ``custom``, or ``none`` if no quote verified."""
        return "none" if self.platform is None else str(self.platform)

    def check(self, name: str) -> Check:
        """The check of a name; KeyError if there is none."""
        return {check.name: check for check in self.checks}[name]

    def first_problem(self) -> Check:
        """The check to report first: the first that failed, else the first required one that did not run."""
        failed = [check for check in self.checks if check.result is Result.FAIL]
        missing = [check for check in self.checks if check.required and check.result is not Result.PASS]
        return (failed + missing)[0]

    def to_json(self) -> dict[str, jcs.Json]:
        """``{"verified", "platform", "checks", ...}`` and the facts by their names."""
        return {
            "verified": self.verified,
            "platform": self.label,
            "checks": [check.to_json() for check in self.checks],
            **self.facts,
        }


class RefusedError(UntrustedError):
    """Something was refused by its verdict, which tells why; the code is that of the first problem."""

    def __init__(self, message: str, *, verdict: Verdict) -> None:
        problem = verdict.first_problem()
        super().__init__(f"{message}: {problem.name}: {problem.detail}", code=problem.code or problem.name)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Passed(Generic[T_co]):
    """What a check found, and how to say it in a line."""

    value: T_co
    detail: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a check could not run, although all that it rests on passed."""

    reason: str


class Step(Generic[T_co]):
    """A check that has been taken; its value is there iff it passed."""

    def __init__(self, name: str, passed: Passed[T_co] | None) -> None:
        self.name = name
        self._passed = passed

    @property
    def passed(self) -> bool:
        """Whether the check passed."""
        return self._passed is not None

    @property
    def value(self) -> T_co:
        """What the check found; only steps that rest on this one may ask."""
        assert self._passed is not None, f"{self.name} did not pass"
        return self._passed.value


class Checklist:
    """Takes checks in order, and keeps what became of them."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks so far."""
        return tuple(self._checks)

    def run(
        self,
        name: str,
        judge: Callable[[], Passed[T] | Skipped],
        *,
        after: Sequence[Step[Any]] = (),
        required: bool = True,
    ) -> Step[T]:
        """Take one check.

        Args:
            name: stable, unique in this list.
            judge: returns what it found or raises a LogError; called only if all of ``after`` passed.
            after: the steps whose values the judge uses, or without which its finding means nothing.
            required: whether the policy asks for it.
        """
        blocked = [step.name for step in after if not step.passed]
        if blocked:
            return self._skip(name, f"rests on {blocked[0]}, which did not pass", required=required)
        try:
            outcome = judge()
        except LogError as error:
            detail = f"{error} ({error.code})"
            self.add(Check(name, Result.FAIL, detail, required=required, code=error.code))
            return Step(name, None)
        if isinstance(outcome, Skipped):
            return self._skip(name, outcome.reason, required=required)
        self.add(Check(name, Result.PASS, outcome.detail, required=required))
        return Step(name, outcome)

    def _skip(self, name: str, reason: str, *, required: bool) -> Step[T]:
        self.add(Check(name, Result.NOT_CHECKED, reason, required=required))
        return Step(name, None)

    def add(self, check: Check) -> None:
        """Take a check whose result is known: one of several that a single judgement consists of."""
        assert check.name not in {known.name for known in self._checks}, f"two checks named {check.name}"
        self._checks.append(check)
