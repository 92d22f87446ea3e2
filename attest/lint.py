"""What a linter found in a manifest, and which of it the publisher allows, for what reason.

It travels in the measurement statement, so that whoever relies on a release sees its exceptions with their
reasons. The manifest is published by its digest, and whoever has it can run the linter again.
"""

from dataclasses import dataclass

from assay.attest import jcs
from assay.tlog.errors import MalformedError

LINTER = "urn:assay:lint:v1"
MAX_SHOWN = 8
MAX_WHERE_LENGTH = 160
MAX_REASON_LENGTH = 512
_MAX_RULES = 128
_MAX_RULE_LENGTH = 64


@dataclass(frozen=True, slots=True)
class RuleFindings:
    """The findings of one rule.

    Attributes:
        rule: its stable name.
        where: the first places of the manifest, at most 8.
        count: how many places there are.
        reason: why the publisher allows them; None if nobody does.
    """

    rule: str
    where: tuple[str, ...]
    count: int
    reason: str | None = None

    def to_json(self) -> jcs.Json:
        """``{"count", "rule", "where"}`` and, if they are allowed, ``reason``."""
        members: dict[str, jcs.Json] = {"count": self.count, "rule": self.rule, "where": list(self.where)}
        return members if self.reason is None else {**members, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class LintResult:
    """What the rules of :data:`LINTER` found, each rule at most once, sorted by name.

    Attributes:
        findings: what nobody allowed; a build of ours has none.
        allowed: what is allowed, with reasons.
    """

    findings: tuple[RuleFindings, ...]
    allowed: tuple[RuleFindings, ...]

    def to_json(self) -> jcs.Json:
        """``{"allowed", "findings", "linter"}``."""
        return {
            "allowed": [item.to_json() for item in self.allowed],
            "findings": [item.to_json() for item in self.findings],
            "linter": LINTER,
        }


def parse_lint(value: jcs.Json, *, what: str) -> LintResult:
    """Parse the inverse of :meth:`LintResult.to_json`.

    Raises:
        MalformedError: another linter, a missing or unknown member, rules that are not sorted or stand twice, a
            finding without a place, or an allowance without a reason.
    """
    fields = jcs.Fields(value, what=what, required=("allowed", "findings", "linter"))
    if fields.text("linter") != LINTER:
        raise MalformedError(f"{fields.name('linter')}: not {LINTER}")
    result = LintResult(
        findings=_parse_rules(fields, "findings", reasons=False),
        allowed=_parse_rules(fields, "allowed", reasons=True),
    )
    if {item.rule for item in result.findings} & {item.rule for item in result.allowed}:
        raise MalformedError(f"{what}: a rule is allowed and not allowed")
    return result


def is_reason(text: str) -> bool:
    """Whether a text can stand as a reason: something is written, on one line, without blanks around it."""
    return text == text.strip() and 0 < len(text) <= MAX_REASON_LENGTH and text.isprintable()


def _parse_rules(fields: jcs.Fields, key: str, *, reasons: bool) -> tuple[RuleFindings, ...]:
    required = ("count", "reason", "rule", "where") if reasons else ("count", "rule", "where")
    items = tuple(
        _parse_rule(jcs.Fields(item, what=fields.name(key), required=required))
        for item in fields.array(key, max_items=_MAX_RULES)
    )
    names = [item.rule for item in items]
    if sorted(set(names)) != names:
        raise MalformedError(f"{fields.name(key)}: not sorted, or a rule stands twice")
    return items


def _parse_rule(fields: jcs.Fields) -> RuleFindings:
    where = tuple(_place(fields, item) for item in fields.array("where", max_items=MAX_SHOWN))
    count = fields.integer("count")
    if not where or len(where) != min(count, MAX_SHOWN):
        raise MalformedError(f"{fields.name('count')}: not the number of places")
    reason = fields.text("reason", max_length=MAX_REASON_LENGTH) if fields.has("reason") else None
    if reason is not None and not is_reason(reason):
        raise MalformedError(f"{fields.name('reason')}: no reason")
    return RuleFindings(fields.text("rule", max_length=_MAX_RULE_LENGTH), where, count, reason)


def _place(fields: jcs.Fields, item: jcs.Json) -> str:
    return jcs.Fields({"where": item}, what=fields.name("where"), required=("where",)).text(
        "where", max_length=MAX_WHERE_LENGTH
    )
