"""``assay diff``: what is printed for people and machines, the exit codes, and nothing that steers a terminal."""

import json
import os
from pathlib import Path

import pytest
import tomli_w

from assay.builder.build import build
from assay.builder.compose import Inputs
from assay.builder.wheels import wheel_finder
from assay.cli import main


@pytest.fixture
def outs(workshop_maker, tmp_path, log_policy, ca_pem):
    """Two builds; a file that has one more byte in the second."""
    found = []
    for name in ("one", "two"):
        workshop = workshop_maker(tmp_path / name)
        if name == "two":
            (workshop.source / "top.py").write_bytes(b"TOP = 1\n#")
        result = build(
            workshop.recipe,
            workshop.source,
            Inputs(log_policy, ca_pem),
            tmp_path / f"out-{name}",
            find_wheels=wheel_finder(workshop.wheels),
            report=lambda line: None,
        )
        found.append(str(result.out))
    return found


def run(capsys, *arguments):
    code = main(["diff", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_changed_file_is_named_to_people(capsys, outs):
    code, out, err = run(capsys, *outs)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("A  build")
    assert "trusted files (1)" in lines
    assert "  rootfs/app/top.py  (from source top.py)" in lines
    assert lines[-2] == "measured inputs: different"
    assert (
        lines[-1]
        == "MRENCLAVE differs because the trusted file rootfs/app/top.py differs (from source top.py)."
    )


def test_the_changed_file_is_named_to_machines(capsys, outs):
    code, out, err = run(capsys, *outs, "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert found.keys() == {"a", "b", "same", "measured_inputs", "cause", "sections"}
    assert (found["same"], found["measured_inputs"]) == (False, "different")
    assert found["a"].keys() == {"kind", "name", "mr_enclave"}
    [files] = [section for section in found["sections"] if section["topic"] == "trusted files"]
    assert files.keys() == {"topic", "measured", "changes", "omitted"}
    assert files["measured"] is True
    assert [change["what"] for change in files["changes"]] == ["rootfs/app/top.py"]
    assert files["changes"][0].keys() == {"what", "a", "b", "note"}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_same_exits_with_0(capsys, outs, options):
    code, out, err = run(capsys, outs[0], outs[0], *options)
    assert (code, err) == (0, "")
    assert "MRENCLAVE is equal" in out


def test_a_build_and_its_own_manifest_are_the_same(capsys, outs):
    assert run(capsys, outs[0], f"{outs[0]}/tiny.manifest.sgx")[0] == 0
    assert run(capsys, outs[0], f"{outs[1]}/tiny.manifest.sgx")[0] == 1


@pytest.mark.parametrize("arguments", [(), ("A",), ("absent", "absent"), (".", ".", "--nonsense")])
def test_usage_errors_exit_with_2(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert (code, out) == (2, "")


def test_what_cannot_be_read_as_anything_is_refused(capsys, outs, tmp_path):
    (tmp_path / "garbage").write_bytes(b"\xff")
    for pair in ((outs[0], str(tmp_path / "garbage")), (str(tmp_path), outs[0])):
        code, out, err = run(capsys, *pair)
        assert (code, out) == (1, "")
        assert err.startswith("error[")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m[bold red]x[/]\r\n"


def test_hostile_names_and_values_do_not_reach_the_terminal(capsys, tmp_path):
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    for name, value in (("a", {}), ("b", {HOSTILE: HOSTILE, "sgx": {"trusted_files": [{"uri": HOSTILE}]}})):
        (folder / f"{name}\x1b[5m").write_text(tomli_w.dumps(value))
    arguments = [str(folder / f"{name}\x1b[5m") for name in "ab"]
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert all(char.isprintable() or char == "\n" for char in out + err)
    assert "[bold red]x[/]" in out
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 1
    assert all(char.isprintable() or char == "\n" for char in out)
    assert out.isascii()


def test_long_sections_are_cut_for_people_and_counted(capsys, tmp_path):
    for name, count in (("a", 0), ("b", 50)):
        files = [{"uri": f"file:{n:03}", "sha256": "0" * 64} for n in range(count)]
        (tmp_path / name).write_text(tomli_w.dumps({"sgx": {"trusted_files": files}}))
    code, out, _ = run(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 1
    assert "trusted files (50)" in out
    assert "  019" in out
    assert "  020" not in out
    assert "… and 30 more; --json lists them" in out


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_an_error(capsys, outs):
    Path(outs[0], "libpal.so").chmod(0)
    code, out, err = run(capsys, *outs)
    assert (code, out) == (1, "")
    assert err.startswith("error[io]")
