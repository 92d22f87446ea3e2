"""Lint results in statements: one spelling, nothing allowed without a reason, older statements as they were."""

import copy
import json

import pytest

from assay.attest import jcs
from assay.attest.lint import LintResult, RuleFindings, is_reason, parse_lint
from assay.attest.statement import Statement, parse_statement, release_subjects
from assay.tlog.errors import MalformedError

RESULT = LintResult(
    findings=(RuleFindings("debug", ("sgx.debug",), 1),),
    allowed=(
        RuleFindings(
            "env-passthrough", tuple(f"loader.env.{n}" for n in range(8)), 11, "regions of the host"
        ),
        RuleFindings("log-level", ("loader.log_level",), 1, "a test system"),
    ),
)


def test_a_result_parses_to_itself():
    value = RESULT.to_json()
    assert parse_lint(json.loads(jcs.canonical(value)), what="lint") == RESULT


def test_a_clean_result_parses_to_itself():
    assert parse_lint(LintResult((), ()).to_json(), what="lint") == LintResult((), ())


def changed(*path, value):
    result = copy.deepcopy(RESULT.to_json())
    inner = result
    for name in path[:-1]:
        inner = inner[name]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        changed("linter", value="urn:assay:lint:v2"),
        changed("linter", value=None),
        changed("findings", value=None),
        changed("allowed", value={}),
        changed("more", value=1),
        changed("findings", 0, "reason", value="a reason that allows nothing"),
        changed("findings", 0, "rule", value=""),
        changed("findings", 0, "rule", value="x" * 65),
        changed("findings", 0, "rule", value="log-level"),
        changed("findings", 0, "count", value=0),
        changed("findings", 0, "count", value=2),
        changed("findings", 0, "where", value=[]),
        changed("findings", 0, "where", value=["a", "b"]),
        changed("findings", 0, "where", value=["x" * 161]),
        changed("findings", 0, "where", value=[1]),
        changed("findings", 0, "where", value=["a\x1bb"]),
        changed("allowed", 0, "count", value=7),
        changed("allowed", 0, "where", value=[f"w{n}" for n in range(9)]),
        changed("allowed", 0, "reason", value=None),
        changed("allowed", 0, "reason", value=""),
        changed("allowed", 0, "reason", value="  "),
        changed("allowed", 0, "reason", value="padded "),
        changed("allowed", 0, "reason", value="x" * 513),
        changed("allowed", 0, "rule", value="log-level"),
        changed("allowed", 0, "rule", value="z"),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_results_in_another_form_are_refused(value):
    with pytest.raises(MalformedError):
        parse_lint(value, what="lint")


@pytest.mark.parametrize("text", ["", " ", "\t", "a\n", " a", "a\u202eb", "a\x1b", "x" * 513])
def test_what_says_nothing_is_no_reason(text):
    assert not is_reason(text)
    assert is_reason("x" * 512)


def test_a_release_carries_its_result(make):
    release = make.release(lint=RESULT)
    payload = Statement(release_subjects(release), release).payload()
    assert parse_statement(payload).predicate == release
    assert b'"lint":{"allowed":' in payload


def test_a_release_without_one_is_spelled_as_before(make):
    release = make.release()
    payload = Statement(release_subjects(release), release).payload()
    assert b"lint" not in payload
    assert parse_statement(payload).predicate.lint is None


@pytest.mark.parametrize("value", [None, {}, "clean", [], changed("linter", value="x")], ids=str)
def test_a_release_with_another_result_is_refused(make, value):
    release = make.release(lint=RESULT)
    statement = json.loads(Statement(release_subjects(release), release).payload())
    statement["predicate"]["lint"] = value
    with pytest.raises(MalformedError):
        parse_statement(jcs.canonical(statement))
