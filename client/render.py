"""Verdicts for people: one line a check, and what the evidence rests on in letters that cannot be missed."""

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from assay.attest.roots import Platform
from assay.client.verdict import Check, Result, Verdict

_MARKS = {
    Result.PASS: ("✓", "green"),
    Result.FAIL: ("✗", "bold red"),
    Result.NOT_CHECKED: ("\N{EN DASH}", "yellow"),
}

_SIMULATED = "SIMULATED PLATFORM, not Intel"


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict. Colours follow the console, and so ``NO_COLOR`` and whether it is a terminal."""
    for check in verdict.checks:
        console.print(_line(check), soft_wrap=True)
    if verdict.platform is Platform.SIMULATED:
        console.print(Panel(Text(_SIMULATED, justify="center"), style="bold yellow"))
    elif verdict.platform is not None:
        console.print(Text(f"platform: {verdict.label}"))
    console.print(_conclusion(verdict), soft_wrap=True)


def _line(check: Check) -> Text:
    mark, style = _MARKS[check.result]
    # Details quote hostile input: Text takes no markup, and control characters stay out of the terminal.
    return Text.assemble((mark, style), f" {check.name}: {printable(check.detail)}")


def printable(text: str) -> str:
    """The text with everything that could steer a terminal replaced; newlines become spaces."""
    return "".join(char if char.isprintable() else ("�" if char != "\n" else " ") for char in text)


def _conclusion(verdict: Verdict) -> Text:
    if verdict.verified:
        suffix = f", on a {_SIMULATED}" if verdict.platform is Platform.SIMULATED else ""
        skipped = [check.name for check in verdict.checks if check.result is Result.NOT_CHECKED]
        unchecked = f" (not checked: {', '.join(skipped)})" if skipped else ""
        return Text(f"VERIFIED{suffix}{unchecked}", style="bold green")
    problem = verdict.first_problem()
    return Text(f"NOT VERIFIED: {problem.name} ({problem.result})", style="bold red")
