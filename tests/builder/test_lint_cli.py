"""``assay lint`` through the roof: findings on stdout, exit codes, and reasons."""

import json

import pytest

from assay.builder.manifest import format_manifest
from assay.builder.recipe import load_recipe
from assay.cli import main


@pytest.fixture
def manifest(workshop, tmp_path):
    path = tmp_path / "m.manifest.sgx"
    path.write_bytes(
        format_manifest(load_recipe(workshop.recipe), {"rootfs/app/main.py": bytes(32)}, bytes(32))
    )
    return path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def weaken(manifest):
    text = manifest.read_text()
    manifest.write_text(text.replace('LANG = "C.UTF-8"', 'LANG = "C.UTF-8"\n"a\\u001b[31mb" = 1', 1))


def test_a_clean_manifest_exits_with_0(capsys, manifest):
    code, out, err = run(capsys, "lint", manifest, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "clean": True,
        "findings": [],
        "allowed": [],
        "statement": {"allowed": [], "findings": [], "linter": "urn:assay:lint:v1"},
    }
    assert run(capsys, "lint", manifest)[:2] == (0, "0 findings, 0 allowed\n")


def test_a_finding_is_named_with_place_reason_and_fix(capsys, manifest):
    weaken(manifest)
    code, out, err = run(capsys, "lint", manifest, "--json")
    assert code == 1
    assert "1 finding not allowed" in err
    (finding,) = json.loads(out)["findings"]
    assert finding["rule"] == "env-passthrough"
    assert finding["where"].startswith("loader.env.")
    assert all(finding[name] for name in ("what", "why", "fix"))


def test_people_see_the_same_and_no_escape_sequence_of_the_manifest(capsys, manifest):
    weaken(manifest)
    code, out, _ = run(capsys, "lint", manifest)
    assert code == 1
    assert "env-passthrough" in out
    assert "why:" in out
    assert "fix:" in out
    assert "\x1b[31mb" not in out


def test_a_reason_lets_a_finding_pass(capsys, manifest):
    weaken(manifest)
    allow = "env-passthrough=the = sign may stand in a reason"
    code, out, err = run(capsys, "lint", manifest, "--allow", allow, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["clean"]
    assert [item["rule"] for item in result["allowed"]] == ["env-passthrough"]
    assert result["statement"]["allowed"][0]["reason"] == "the = sign may stand in a reason"
    assert "the = sign may stand in a reason" in run(capsys, "lint", manifest, "--allow", allow)[1]


@pytest.mark.parametrize(
    ("allow", "code", "message"),
    [
        (["env-passthrough"], 2, "RULE=REASON"),
        (["env-passthrough=a", "env-passthrough=b"], 2, "twice"),
        (["env-passthrough="], 1, "error[no-reason]"),
        (["env-passthrough=  "], 1, "error[no-reason]"),
        (["nonsense=x"], 1, "error[unknown-rule]"),
        (["enclave-size=x"], 1, "error[not-allowable]"),
        (["env-passthrough=x", "debug=x"], 1, "error[unused-allowance]"),
    ],
    ids=str,
)
def test_allowances_in_another_form_are_refused(capsys, manifest, allow, code, message):
    weaken(manifest)
    options = [part for item in allow for part in ("--allow", item)]
    found, out, err = run(capsys, "lint", manifest, *options)
    assert (found, out) == (code, "")
    assert message in err


@pytest.mark.parametrize("data", [b"", b"\xff", b"[sgx\n", b"[sgx]\nx = 1.5\n", b"[loader]\n"], ids=repr)
def test_what_is_no_manifest_is_refused(capsys, manifest, data):
    manifest.write_bytes(data)
    code, out, err = run(capsys, "lint", manifest)
    assert (code, out) == (1, "")
    assert "error[malformed]" in err
