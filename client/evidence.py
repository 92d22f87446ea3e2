"""One verification of evidence, told as the checks that it consists of.

A verifier stops at the first defect. So either all of its checks passed, or one failed and it is not known how the
others would have ended: those are ``not-checked``, never passed.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from assay.client.verdict import Check, Checklist, Passed, Result, Skipped, Step
from assay.tlog.errors import LogError

_Evidence = TypeVar("_Evidence")


def evidence_steps(
    book: Checklist,
    codes: Mapping[str, frozenset[str]],
    verify: Callable[[], _Evidence],
    *,
    tell: Callable[[str, _Evidence], str],
    after: Sequence[Step[object]],
) -> Step[_Evidence]:
    """Verify, and note every check.

    Args:
        book: takes the checks.
        codes: check -> the error codes that are its own, in order; a code of nobody is the first one's.
        verify: returns what the evidence proves, or raises.
        tell: what a check that passed found.
        after: what must have passed before.
    """
    if not all(step.passed for step in after):
        for name in codes:
            book.run(name, lambda: Skipped("what it rests on did not pass"), after=after)
        return Step("evidence", None)
    try:
        verified = verify()
    except LogError as error:
        owner = next((name for name in codes if error.code in codes[name]), next(iter(codes)))
        _tell_refusal(book, codes, owner, error)
        return Step("evidence", None)
    for name in codes:
        book.add(Check(name, Result.PASS, tell(name, verified)))
    return Step("evidence", Passed(verified, "verified"))


def shown_time(time_s: int) -> str:
    """A time for people, RFC 3339 if the calendar reaches that far."""
    try:
        return dt.datetime.fromtimestamp(time_s, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(time_s)


def _tell_refusal(book: Checklist, codes: Mapping[str, frozenset[str]], owner: str, error: LogError) -> None:
    for name in codes:
        if name == owner:
            book.add(Check(name, Result.FAIL, f"{error} ({error.code})", code=error.code))
        else:
            book.add(Check(name, Result.NOT_CHECKED, f"{owner} failed, which ended the verification"))
