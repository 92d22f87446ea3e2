"""Every command refuses nonsense with a sentence and the right exit code, and never with a traceback."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from assay import cli

REFUSED, USAGE, UNAVAILABLE = 1, 2, 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of the wrong kinds, to which relative paths in the table refer."""
    (tmp_path / "garbage").write_bytes(b"\xff\x00garbage\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "object.json").write_text("{}\n")
    (tmp_path / "bad.toml").write_text("origin = [\n")
    (tmp_path / "unknown.toml").write_text('listen = "127.0.0.1:1"\nnonsense = 1\n')
    (tmp_path / "dir").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = [
    ("nonsense", USAGE),
    ("--nonsense", USAGE),
    ("verify", USAGE),
    ("verify garbage", USAGE),
    ("verify absent --policy garbage", USAGE),
    ("verify garbage --policy absent", USAGE),
    ("verify garbage --policy garbage", REFUSED),
    ("verify garbage --policy empty", REFUSED),
    ("verify garbage --policy bad.toml", REFUSED),
    ("verify-quote", USAGE),
    ("verify-quote garbage", USAGE),
    ("verify-quote garbage --collateral garbage", USAGE),
    ("verify-quote garbage --root intel", USAGE),
    ("verify-quote garbage --collateral garbage --archive http://127.0.0.1:1 --root intel", USAGE),
    ("verify-quote garbage --archive http://127.0.0.1:1 --root intel", REFUSED),
    ("verify-quote absent --collateral garbage --root intel", USAGE),
    ("verify-quote garbage --collateral garbage --root garbage", REFUSED),
    ("verify-quote garbage --collateral garbage --root intel --at yesterday", USAGE),
    ("verify-quote garbage --collateral garbage --root intel --report-data 00", REFUSED),
    ("verify-quote garbage --collateral garbage --root intel --policy garbage", REFUSED),
    ("verify garbage --policy unknown.toml", REFUSED),
    ("verify garbage --policy garbage --at yesterday", USAGE),
    ("ask hello", USAGE),
    ("ask hello --policy garbage --connect a:b:c", USAGE),
    ("ask hello --policy garbage --connect 127.0.0.1:1", REFUSED),
    ("keys new a --kind nonsense --out k", USAGE),
    ("keys new a+b --kind log --out k", REFUSED),
    ("keys new a --kind publisher --out garbage", REFUSED),
    ("keys show garbage", REFUSED),
    ("keys show empty", REFUSED),
    ("keys show absent", USAGE),
    ("lint", USAGE),
    ("lint absent", USAGE),
    ("lint garbage", REFUSED),
    ("lint bad.toml", REFUSED),
    ("lint object.json --allow debug", USAGE),
    ("log init new", USAGE),
    ("log init new --origin", USAGE),
    ("log init new --origin a+b", REFUSED),
    ("log init new --origin example.org --listen nonsense", REFUSED),
    ("log serve", USAGE),
    ("log serve --dir dir", USAGE),
    ("log serve --config bad.toml", REFUSED),
    ("log serve --config unknown.toml", REFUSED),
    ("log serve --config garbage", REFUSED),
    ("witness serve", USAGE),
    ("witness serve --config absent", USAGE),
    ("witness serve --config bad.toml", REFUSED),
    ("witness serve --config unknown.toml", REFUSED),
    ("witness add-log nonsense --config unknown.toml", REFUSED),
    ("base", USAGE),
    ("base lock dir", USAGE),
    ("base lock absent --pool dir --snapshot 20261120T000000Z", USAGE),
    ("base lock dir --pool dir --snapshot 20261120T000000Z", REFUSED),
    ("base add-gramine dir absent", USAGE),
    ("base add-gramine dir garbage", REFUSED),
    ("build dir --out out", USAGE),
    ("build dir --out out --date today", USAGE),
    ("build dir --out out --pool absent", USAGE),
    ("build absent --out out", USAGE),
    ("measure --manifest garbage --libpal garbage", REFUSED),
    ("measure --manifest empty --libpal empty", REFUSED),
    ("measure --manifest absent --libpal empty", USAGE),
    ("measure --manifest garbage --libpal garbage --gramine-version 1.4", REFUSED),
    ("build dir --out out --signing-command x", USAGE),
    ("diff", USAGE),
    ("diff dir", USAGE),
    ("diff absent absent", USAGE),
    ("diff dir dir", REFUSED),
    ("diff garbage garbage", REFUSED),
    ("diff object.json empty", REFUSED),
    ("import sigstruct", USAGE),
    ("import nonsense", USAGE),
    ("import sigstruct absent", USAGE),
    ("import sigstruct garbage --checkpoint garbage", USAGE),
    ("import sigstruct garbage --vkey x", USAGE),
    ("import sigstruct garbage --proofs garbage", USAGE),
    ("import sigstruct garbage --checkpoint garbage --vkey x", REFUSED),
    ("publish dir --key garbage --log http://127.0.0.1:1 --policy garbage", REFUSED),
    ("publish dir --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("publish dir --keyless --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("publish dir --keyless --sigstore-root absent --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("publish dir --keyless --sigstore-root garbage --log http://127.0.0.1:1 --policy garbage", REFUSED),
    ("publish dir --key garbage --sigstore-root garbage --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("publish dir --key garbage --identity-token garbage --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("publish dir --key garbage --trusted-root-out x --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("export-bundle garbage --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("export-bundle garbage --out x --log http://127.0.0.1:1 --policy garbage", REFUSED),
    ("export-bundle absent --out x --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("export-bundle garbage --out x --signature 0 --log http://127.0.0.1:1 --policy garbage", USAGE),
    ("rebuild garbage --source dir --key garbage --log http://127.0.0.1:1 --policy garbage", REFUSED),
    ("rebuild garbage --source absent --key garbage --log x --policy garbage", USAGE),
    ("enclave run dir --log http://127.0.0.1:1 --state s", UNAVAILABLE),
    ("enclave run dir --log http://127.0.0.1:1 --state s --runtime nonsense", USAGE),
    ("enclave run dir --log http://127.0.0.1:1 --state s --runtime simulated", REFUSED),
    ("enclave run absent --log http://127.0.0.1:1 --state s", USAGE),
    ("enclave simulate-device dir --renew", REFUSED),
    ("enclave standin-llm --listen nonsense", USAGE),
    ("demo --source dir", USAGE),
]


@pytest.mark.parametrize(("line", "code"), CASES, ids=[line for line, _ in CASES])
def test_nonsense_is_refused_with_its_exit_code(
    line: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if line.startswith("enclave run dir") and Path("/dev/sgx_enclave").exists():
        pytest.skip("this machine has SGX")
    assert cli.main(line.split()) == code
    output = capsys.readouterr()
    assert "Traceback" not in output.err + output.out
    assert output.err.strip(), "a refusal says why"
    assert output.out == "", "results and nothing else go to stdout"


def test_every_command_of_the_table_has_a_case_and_a_help_page(capsys: pytest.CaptureFixture[str]) -> None:
    tested = {line.split()[0] for line, _ in CASES}
    context = click.Context(cli.cli)
    names = cli.cli.list_commands(context)
    assert set(names) <= tested
    for name in names:
        assert cli.main([name, "--help"]) == 0
        assert "Usage:" in capsys.readouterr().out


def test_a_relying_party_imports_no_server(tmp_path: Path) -> None:
    program = (
        "import sys; from assay.cli import main; "
        "main(['verify', '--help']); "
        "print(sorted(m for m in ('flask', 'granian', 'sqlalchemy', 'pydantic', 'tomli_w') if m in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


@pytest.mark.slow
def test_the_program_runs_as_a_process_and_keeps_stdout_for_results(folder: Path) -> None:
    command = [sys.executable, "-m", "assay.cli", "verify", "garbage", "--policy", "garbage"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == REFUSED
    assert result.stdout == ""
    assert result.stderr.startswith("error[")
