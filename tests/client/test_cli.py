"""The commands as they are called: exit codes, and what goes where."""

import json
import re
from types import SimpleNamespace

import pytest

from assay.cli import main
from assay.client.cli import parse_time
from assay.tlog.tlog_proof import format_proof

T0 = 1_800_000_000


@pytest.fixture
def files(world, story, tmp_path):
    (tmp_path / "policy.toml").write_text(world.policy_text())
    for name in ("publisher.pub", "rebuilder.pub", "rebuilder-2.pub", "root.der"):
        (tmp_path / name).write_bytes(world.resolve(name))
    (tmp_path / "answer.json").write_bytes(story.data)
    (tmp_path / "broken.json").write_bytes(story.data.replace(b"1,345", b"1,346"))
    (tmp_path / "release.tlog-proof").write_bytes(format_proof(story.bundle.release.proof))
    (tmp_path / "release.leaf").write_bytes(story.bundle.release.leaf)
    return tmp_path


def call(files, capsys, *args):
    code = main(["verify", *map(str, args), "--policy", str(files / "policy.toml"), "--at", str(T0 + 1000)])
    out = capsys.readouterr()
    return SimpleNamespace(code=code, out=out.out, err=out.err)


def test_verified_is_0_and_the_verdict_is_on_stdout(files, capsys):
    done = call(files, capsys, files / "answer.json")
    assert done.code == 0
    assert "VERIFIED, on a SIMULATED PLATFORM, not Intel" in done.out
    assert done.err == ""


def test_json_is_one_document(files, capsys):
    done = call(files, capsys, files / "answer.json", "--json")
    value = json.loads(done.out)
    assert done.code == 0
    assert value["verified"] is True
    assert value["platform"] == "simulated"


def test_not_verified_is_1_with_the_failed_check_named(files, capsys):
    done = call(files, capsys, files / "broken.json", "--json")
    value = json.loads(done.out)
    assert done.code == 1
    assert value["verified"] is False
    assert {check["name"] for check in value["checks"] if check["result"] == "fail"} == {"commitments"}
    assert call(files, capsys, files / "broken.json").out.endswith("NOT VERIFIED: commitments (fail)\n")


def test_garbage_is_1(files, capsys):
    assert call(files, capsys, files / "root.der").code == 1


def test_proof_needs_its_leaf(files, capsys):
    proof, leaf = files / "release.tlog-proof", files / "release.leaf"
    assert call(files, capsys, proof).code == 2
    assert call(files, capsys, proof, "--artifact", leaf).code == 0
    assert call(files, capsys, proof, "--artifact", proof).code == 1


def test_artifact_is_compared(files, world, capsys):
    (files / "answer.txt").write_text(world.RESULT)
    assert call(files, capsys, files / "answer.json", "--artifact", files / "answer.txt").code == 0
    assert call(files, capsys, files / "answer.json", "--artifact", files / "root.der").code == 1


@pytest.mark.parametrize(
    "args",
    [
        ["verify"],
        ["verify", "answer.json"],
        ["verify", "absent.json", "--policy", "policy.toml"],
        ["verify", "answer.json", "--policy", "absent.toml"],
        ["verify", "answer.json", "--policy", "policy.toml", "--at", "yesterday"],
        ["ask", "--policy", "policy.toml"],
        ["ask", "x", "--connect", "127.0.0.1:1"],
        ["ask", "x", "--policy", "policy.toml", "--connect", "127.0.0.1:0"],
        ["ask", "x", "--policy", "policy.toml", "--connect", "a b:1"],
        ["ask", "x", "--policy", "policy.toml", "--connect", "h:1", "--max-tokens", "0"],
    ],
)
def test_usage_is_2(files, capsys, monkeypatch, args):
    monkeypatch.chdir(files)
    assert main(args) == 2
    assert capsys.readouterr().out == ""


def test_bad_policy_is_refused(files, capsys):
    (files / "policy.toml").write_text("[log]\n")
    done = call(files, capsys, files / "answer.json")
    assert done.code == 1
    assert done.err.startswith("error[policy]: ")


def test_unreachable_enclave_is_3(files, capsys):
    args = ["--policy", str(files / "policy.toml"), "--connect", "127.0.0.1:9"]
    assert main(["ask", "x", *args]) == 3
    assert "error[unavailable]" in capsys.readouterr().err


@pytest.fixture
def served(world, files, monkeypatch):
    """An enclave and its log, at a time at which both are fresh."""
    story = world.Story(answered_ms=(T0 + 130) * 1000)
    told = story.tell()
    told.log.leaves.pop()
    monkeypatch.setattr("assay.client.cli._now_ms", lambda: (T0 + 130) * 1000)
    with world.FakeLog(told) as log, world.FakeEnclave(story, told, log) as enclave:
        address = f"127.0.0.1:{enclave.address[1]}"
        args = ["--policy", str(files / "policy.toml"), "--connect", address, "--log", log.url]
        yield SimpleNamespace(args=args, enclave=enclave, log=log)


def test_ask_prints_answer_and_verdict_and_saves_a_bundle_that_verifies(files, served, world, capsys):
    assert main(["ask", "How tall?", *served.args, "--save", str(files / "saved.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(world.RESULT + "\n")
    assert "VERIFIED, on a SIMULATED PLATFORM" in out
    assert call(files, capsys, files / "saved.json").code == 0


def test_ask_as_json_is_one_document(served, world, capsys):
    assert main(["ask", "How tall?", *served.args, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["result"] == world.RESULT
    assert value["verified"] is True


def test_refused_ask_is_1_and_shows_why(served, capsys):
    served.enclave.fresh["nonce"] = bytes(32)
    assert main(["ask", "How tall?", *served.args]) == 1
    out = capsys.readouterr()
    assert re.search(r"^✗ nonce: ", out.out, re.MULTILINE)
    assert out.err.startswith("error[nonce]: ")
    assert served.enclave.asks == []


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("1800000000", T0 * 1000),
        ("2027-01-15T08:00:00Z", T0 * 1000),
        ("2027-01-15t08:00:00z", T0 * 1000),
        ("2027-01-15T09:00:00.250+01:00", T0 * 1000 + 250),
    ],
)
def test_times_in_both_forms(text, ms):
    assert parse_time(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "1.5",
        " 1",
        "1_0",
        "१",
        "2027-01-15",
        "2027-01-15T08:00:00",
        "2027-13-01T00:00:00Z",
        "now",
    ],
)
def test_other_times_are_refused(text):
    with pytest.raises(ValueError):
        parse_time(text)
