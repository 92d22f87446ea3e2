"""A witness's files: no unknown key, no second meaning, no key of another role."""

from pathlib import Path

import pytest

from assay.tlog.errors import MalformedError
from assay.tlog.keys import KeyType, SignerKey, format_key_file
from assay.witness import config, worker

MINIMAL = 'key = "k"\nstate = "s"\nlogs = "l"\n'
Signers = tuple[SignerKey, SignerKey]


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "witness.toml"
    file.write_text(text)
    return config.load(file)


def test_a_minimal_file_listens_on_loopback_only(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).listen == "127.0.0.1:8090"


@pytest.mark.parametrize(
    "text",
    [
        "",
        'key = "k"\nstate = "s"\n',
        'state = "s"\nlogs = "l"\n',
        MINIMAL + 'secret = "x"\n',
        MINIMAL + 'Listen = "x"\n',
        MINIMAL + "listen = 8090\n",
        MINIMAL + 'threads = "8"\n',
        MINIMAL + "threads = 0\n",
        MINIMAL + "threads = 1.0\n",
        MINIMAL + "threads = true\n",
        MINIMAL + 'key = "k2"\n',
        "key = k\n",
        "\x00",
    ],
    ids=ascii,
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        load(tmp_path, text)
    assert caught.value.code == "config"


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "witness.toml").write_bytes(b"\xff")
    with pytest.raises(MalformedError):
        config.load(tmp_path / "witness.toml")


def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN", "KEY", "STATE", "LOGS", "ASSAY_WITNESS_KEY"):
        monkeypatch.setenv(name, "elsewhere")
    assert load(tmp_path, MINIMAL).key == "k"


def test_list_of_logs_formats_back_with_several_keys_of_one_origin(log_signers: Signers) -> None:
    keys = tuple(each.verifier for each in log_signers)
    second = SignerKey("log.example/2", KeyType.ED25519, bytes(32)).verifier
    text = config.format_logs([keys[0], second, keys[1]])
    assert config.parse_logs(text) == {keys[0].name: keys, second.name: (second,)}
    assert config.parse_logs("# comment\n\n" + text) == config.parse_logs(text)
    assert config.parse_logs("") == {}


def test_bad_lists_of_logs_are_refused(log_signers: Signers, witness_signers: Signers) -> None:
    line = f"{log_signers[0].verifier}\n"
    refused = [line[:-1], line * 2, line[:-2] + "\n", " " + line, line.replace("\n", " \n"), line.replace("\n", "\r\n"),
               f"{witness_signers[0].verifier}\n", "log.example\n", f"log {line}"]  # fmt: skip
    for text in refused:
        with pytest.raises(MalformedError):
            config.parse_logs(text)


def test_a_whole_witness_opens_and_names_itself(config_file: Path, witness_signers: Signers) -> None:
    assert worker.check(config_file) == witness_signers[0].name
    assert worker.open_witness(config_file).vkeys == tuple(str(each.verifier) for each in witness_signers)


def test_keys_of_another_role_are_refused(config_file: Path, log_signers: Signers) -> None:
    (config_file.parent / "witness.key").write_text(format_key_file(log_signers))
    with pytest.raises(MalformedError) as caught:
        worker.check(config_file)
    assert caught.value.code == "config"


def test_a_log_of_the_witnesss_own_name_is_refused(config_file: Path, witness_signers: Signers) -> None:
    own = SignerKey(witness_signers[0].name, KeyType.ED25519, bytes(32)).verifier
    with (config_file.parent / "logs.txt").open("a") as file:
        file.write(f"{own}\n")
    for opening in (worker.check, worker.open_witness):
        with pytest.raises(MalformedError) as caught:
            opening(config_file)
        assert caught.value.code == "config"


@pytest.mark.parametrize("missing", ["witness.key", "logs.txt"])
def test_missing_files_stop_the_start(config_file: Path, missing: str) -> None:
    (config_file.parent / missing).unlink()
    with pytest.raises(FileNotFoundError):
        worker.check(config_file)
