"""The commands: nonsense is usage, what cannot be had is exit 3, and nothing is a traceback."""

import socket

import pytest

from assay import cli


@pytest.fixture
def build(tmp_path):
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "x.manifest.sgx").write_text("[sgx]\nisvprodid = 1\nisvsvn = 1\n")
    (folder / "libpal.so").write_bytes(b"no elf")
    return folder


def call(capfd, *arguments):
    code = cli.main(["enclave", *(str(each) for each in arguments)])
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    assert shown.out == "" or code == 0
    return code, shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "/nowhere", "--log", "http://x", "--state", "s"],
        ["run", ".", "--state", "s"],
        ["run", ".", "--log", "http://x"],
        ["run", ".", "--log", "http://x", "--state", "s", "--runtime", "sgx2"],
        ["run", ".", "--log", "http://x", "--state", "s", "--runtime", "Simulated"],
        ["simulate-device"],
        ["standin-llm", "--listen", "nonsense"],
        ["standin-llm", "--listen", "127.0.0.1:"],
        ["standin-llm", "--listen", "127.0.0.1:65536"],
        ["standin-llm", "--listen", ":1"],
    ],
)
def test_nonsense_is_usage(capfd, arguments):
    code, error = call(capfd, *arguments)
    assert code == 2
    assert error


@pytest.mark.parametrize("runtime", ["auto", "sgx", "direct"])
def test_a_runtime_that_is_not_here_is_unavailable(capfd, build, tmp_path, monkeypatch, runtime):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, error = call(
        capfd, "run", build, "--log", "http://x", "--state", tmp_path / "s", "--runtime", runtime
    )
    assert code == 3
    assert "error[no-runtime]" in error
    assert not (tmp_path / "s").exists()


def test_auto_is_the_default_and_never_a_simulation(capfd, build, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    device = tmp_path / "device"
    assert call(capfd, "simulate-device", device)[0] == 0
    code, error = call(
        capfd, "run", build, "--log", "http://x", "--state", tmp_path / "s", "--device", device
    )
    assert code == 3
    assert "must be asked for by name" in error


def test_a_simulation_needs_its_device(capfd, build, tmp_path):
    code, error = call(
        capfd, "run", build, "--log", "http://x", "--state", tmp_path, "--runtime", "simulated"
    )
    assert code == 1
    assert "error[no-device]" in error


def test_a_folder_that_is_no_build_is_refused(capfd, build, tmp_path):
    (build / "libpal.so").unlink()
    code, error = call(
        capfd, "run", build, "--log", "http://x", "--state", tmp_path, "--runtime", "simulated"
    )
    assert code == 1
    assert "error[build]" in error


def test_a_manifest_without_files_is_refused(capfd, build, tmp_path):
    code, error = call(
        capfd,
        "run",
        build,
        "--log",
        "http://x",
        "--state",
        tmp_path,
        "--runtime",
        "simulated",
        "--device",
        "d",
    )
    assert code == 1
    assert "error[build]" in error


def test_a_device_is_made_once_and_then_renewed(capfd, tmp_path):
    device = tmp_path / "device"
    assert call(capfd, "simulate-device", device)[0] == 0
    seed = (device / "seed").read_bytes()
    code, error = call(capfd, "simulate-device", device)
    assert code == 1
    assert "error[exists]" in error
    assert call(capfd, "simulate-device", device, "--renew")[0] == 0
    assert (device / "seed").read_bytes() == seed


def test_nothing_is_renewed_where_no_device_is(capfd, tmp_path):
    code, error = call(capfd, "simulate-device", tmp_path, "--renew")
    assert code == 1
    assert "error[io]" in error


def test_a_stand_in_on_a_taken_port_is_refused(capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = call(capfd, "standin-llm", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert code == 1
    assert "error[io]" in error
