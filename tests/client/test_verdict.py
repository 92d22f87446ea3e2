"""Verdicts: what counts as verified, and how it is shown."""

import io

import pytest
from rich.console import Console

from assay.attest.roots import Platform
from assay.client.render import print_verdict
from assay.client.verdict import Check, Checklist, Passed, RefusedError, Result, Skipped, Verdict
from assay.tlog.errors import UntrustedError

PASS = Check("a", Result.PASS, "good")
FAIL = Check("b", Result.FAIL, "bad (x)", code="x")
MISSING = Check("c", Result.NOT_CHECKED, "not there")
OPTIONAL = Check("d", Result.NOT_CHECKED, "not there", required=False)


@pytest.mark.parametrize(
    ("checks", "verified"),
    [
        ((PASS,), True),
        ((PASS, OPTIONAL), True),
        ((PASS, MISSING), False),
        ((PASS, FAIL), False),
        ((PASS, Check("e", Result.FAIL, "", required=False)), False),
        ((OPTIONAL,), False),
        ((), False),
    ],
)
def test_verified_means_all_required_passed_and_none_failed(checks, verified):
    assert Verdict(checks).verified is verified


def test_first_problem_is_a_failure_before_what_is_missing():
    assert Verdict((PASS, MISSING, FAIL)).first_problem() == FAIL
    assert Verdict((PASS, MISSING)).first_problem() == MISSING
    assert RefusedError("no", verdict=Verdict((MISSING, FAIL))).code == "x"
    assert RefusedError("no", verdict=Verdict((MISSING,))).code == "c"


def test_step_that_rests_on_a_failed_one_is_not_taken():
    book = Checklist()

    def refuse():
        raise UntrustedError("no", code="x")

    def never():
        raise AssertionError("taken")

    first = book.run("first", refuse)
    second = book.run("second", never, after=(first,))
    book.run("third", lambda: Skipped("nothing to check"))
    fourth = book.run("fourth", lambda: Passed(4, "four"))
    assert [str(check.result) for check in book.checks] == ["fail", "not-checked", "not-checked", "pass"]
    assert book.checks[0].detail == "no (x)"
    assert fourth.value == 4
    with pytest.raises(AssertionError):
        _ = second.value


def test_a_bug_of_ours_is_no_verdict():
    with pytest.raises(ZeroDivisionError):
        Checklist().run("x", lambda: Passed(1 // 0, ""))


def test_two_checks_of_one_name_are_a_bug():
    book = Checklist()
    book.run("x", lambda: Passed(1, ""))
    with pytest.raises(AssertionError):
        book.run("x", lambda: Passed(1, ""))


def shown(verdict, **how):
    file = io.StringIO()
    print_verdict(verdict, Console(file=file, width=60, **how))
    return file.getvalue()


def test_every_check_is_one_line_and_the_conclusion_is_last():
    text = shown(Verdict((PASS, FAIL, MISSING), Platform.INTEL))
    assert text.split("\n") == [
        "✓ a: good",
        "✗ b: bad (x)",
        "\N{EN DASH} c: not there",
        "platform: intel",
        "NOT VERIFIED: b (fail)",
        "",
    ]


def test_simulated_platform_is_shouted_wherever_it_verifies():
    text = shown(Verdict((PASS,), Platform.SIMULATED))
    assert text.count("SIMULATED PLATFORM, not Intel") == 2
    assert "SIMULATED" not in shown(Verdict((PASS,), Platform.INTEL))


def test_details_cannot_steer_the_terminal_or_use_markup():
    text = shown(Verdict((Check("a", Result.FAIL, "\x1b[2J[bold]x\nVERIFIED\u202e"),)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]x VERIFIED" in text


def test_no_color_is_honoured(monkeypatch):
    coloured = shown(Verdict((PASS,)), force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(Verdict((PASS,)), force_terminal=True)
    assert "\x1b[32m" in coloured
    assert "\x1b[32m" not in plain
