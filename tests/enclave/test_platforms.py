"""Platforms: Gramine's files and the simulated device's socket, behaving and misbehaving."""

import os
import shutil
import socket
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from assay.attest.quote import sgx
from assay.enclave import platforms, simulated_device
from assay.enclave.platforms import MAX_QUOTE_SIZE, SgxPlatform, SimulatedPlatform
from assay.enclave.simulated_device import DeviceServer, create_device, open_platform, renew_collateral
from assay.tlog.errors import LogError, MalformedError, UnavailableError

T0 = 1_800_000_000
DATA = bytes(range(64))
MR_ENCLAVE = b"m" * 32


@pytest.fixture
def attestation(tmp_path):
    (tmp_path / "user_report_data").write_bytes(b"")
    (tmp_path / "quote").write_bytes(b"a quote")
    return tmp_path


def no_quote(platform):
    with pytest.raises(UnavailableError) as caught:
        platform.quote(DATA)
    return caught.value.code == "no-quote"


def test_report_data_is_written_in_one_piece_before_the_quote_is_opened(attestation):
    """A FIFO in each file's place shows what Gramine would see."""
    seen = []
    for name in ("user_report_data", "quote"):
        (attestation / name).unlink()
        os.mkfifo(attestation / name)

    def gramine():
        with (attestation / "user_report_data").open("rb", buffering=0) as file:
            seen.append(file.read(100))
            seen.append(file.read(100))
        (attestation / "quote").write_bytes(b"quote of " + seen[0])

    thread = threading.Thread(target=gramine)
    thread.start()
    assert SgxPlatform(attestation).quote(DATA) == b"quote of " + DATA
    thread.join()
    assert seen == [DATA, b""]


def test_quotes_of_many_threads_are_made_one_after_the_other(attestation, monkeypatch):
    """The pair of files is one state of the process: no other write may come in between."""
    platform, steps = SgxPlatform(attestation), []
    opened = Path.open

    def watch(path, *arguments, **options):
        steps.append(path.name)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watch)
    threads = [threading.Thread(target=platform.quote, args=(DATA,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == ["user_report_data", "quote"] * 8


@pytest.mark.parametrize("name", ["user_report_data", "quote"])
def test_a_missing_file_is_no_quote(attestation, name):
    (attestation / name).unlink()
    (attestation / name).mkdir()
    assert no_quote(SgxPlatform(attestation))


def test_outside_of_gramine_there_is_no_quote(tmp_path):
    assert no_quote(SgxPlatform(tmp_path / "nowhere"))


@pytest.mark.parametrize("size", [0, MAX_QUOTE_SIZE + 1, 10 * MAX_QUOTE_SIZE])
def test_an_empty_or_oversized_quote_is_none(attestation, size):
    (attestation / "quote").write_bytes(bytes(size))
    assert no_quote(SgxPlatform(attestation))


def test_a_short_write_is_no_quote(attestation, monkeypatch):
    class Short:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            return len(data) - 1

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *a, **k: Short() if path.name == "user_report_data" else opened(path, *a, **k),
    )
    assert no_quote(SgxPlatform(attestation))


def test_under_gramine_the_file_system_seals(attestation):
    assert SgxPlatform(attestation).seal_key() is None


@pytest.fixture
def short_dir():
    """A Unix socket's path has room for about 100 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="a"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def device(tmp_path):
    create_device(tmp_path / "device", now_s=T0)
    return tmp_path / "device"


def serve(device, path, mr_enclave=MR_ENCLAVE):
    server = DeviceServer(open_platform(device), mr_enclave=mr_enclave, isv_prod_id=3, isv_svn=4, path=path)
    server.start()
    return closing(server)


def test_the_device_quotes_the_measured_enclave_and_no_other(device, short_dir):
    with serve(device, short_dir / "d"):
        body = sgx.parse_quote(SimulatedPlatform(str(short_dir / "d")).quote(DATA)).body
    assert (body.mr_enclave, body.report_data, body.isv_prod_id, body.isv_svn) == (MR_ENCLAVE, DATA, 3, 4)


def test_seal_keys_are_of_device_and_measurement(device, tmp_path, short_dir):
    create_device(tmp_path / "other", now_s=T0)
    keys = []
    for n, (folder, mr_enclave) in enumerate(
        [(device, MR_ENCLAVE), (device, MR_ENCLAVE), (device, b"n" * 32), (tmp_path / "other", MR_ENCLAVE)]
    ):
        path = short_dir / str(n)
        with serve(folder, path, mr_enclave):
            keys.append(SimulatedPlatform(str(path)).seal_key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert all(len(key) == 16 for key in keys)


def test_the_socket_is_for_its_owner_only(device, short_dir):
    with serve(device, short_dir / "d"):
        assert (short_dir / "d").stat().st_mode & 0o777 == 0o600


def test_nonsense_is_answered_with_nothing_and_the_device_goes_on(device, short_dir, monkeypatch):
    monkeypatch.setattr(platforms, "DEVICE_TIMEOUT_S", 0.2)
    with serve(device, short_dir / "d"):
        for request in (b"", b"Q", b"Q" + bytes(63), b"X", b"\0" * 100):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(short_dir / "d"))
                peer.sendall(request)
                peer.shutdown(socket.SHUT_WR)
                assert peer.recv(100) == bytes(4)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(short_dir / "d"))
            assert silent.recv(100) == b""  # it waited for as long as it waits for anyone
        assert SimulatedPlatform(str(short_dir / "d")).quote(DATA)


def test_a_closed_device_answers_nobody(device, short_dir):
    with serve(device, short_dir / "d"):
        pass
    assert no_quote(SimulatedPlatform(str(short_dir / "d")))


ANSWERS = {
    "nothing": b"",
    "half-a-length": b"\0\0",
    "length-0": b"\0\0\0\0",
    "length-only": b"\0\0\0\x10",
    "cut-off": b"\0\0\0\x10" + bytes(15),
    "oversized": (MAX_QUOTE_SIZE + 1).to_bytes(4, "big") + bytes(MAX_QUOTE_SIZE + 1),
    "4GiB": b"\xff\xff\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("call", ["quote", "seal_key"])
def test_a_device_that_answers_otherwise_is_none(short_dir, name, call):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "d"))
        listener.listen()

        def answer():
            peer, _ = listener.accept()
            with peer:
                peer.recv(100)
                peer.sendall(ANSWERS[name])

        thread = threading.Thread(target=answer)
        thread.start()
        platform = SimulatedPlatform(str(short_dir / "d"))
        with pytest.raises(UnavailableError) as caught:
            platform.quote(DATA) if call == "quote" else platform.seal_key()
        thread.join()
    assert caught.value.code == "no-quote"


@pytest.mark.parametrize("size", [15, 17, 32])
def test_a_seal_key_of_another_size_is_refused(short_dir, size):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "d"))
        listener.listen()

        def answer():
            peer, _ = listener.accept()
            with peer:
                peer.recv(100)
                peer.sendall(size.to_bytes(4, "big") + bytes(size))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnavailableError):
            SimulatedPlatform(str(short_dir / "d")).seal_key()
        thread.join()


@pytest.mark.parametrize("path", ["/nowhere/d", "x" * 200])
def test_a_path_without_a_device_is_no_quote(path):
    assert no_quote(SimulatedPlatform(path))


def test_a_device_is_made_once_and_its_seed_is_private(device):
    assert (device / "seed").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_device(device, now_s=T0)
    assert b"BEGIN CERTIFICATE" in (device / "root.pem").read_bytes()


def test_renewed_collateral_is_of_the_same_root(device):
    root = open_platform(device).root_der
    (before,) = (device / "collateral").iterdir()
    old = before.read_bytes()
    assert renew_collateral(device, now_s=T0 + 86_400) == before
    assert before.read_bytes() != old
    assert open_platform(device).root_der == root


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("seed", b""),
        ("seed", bytes(31)),
        ("seed", bytes(33)),
        ("epoch", b""),
        ("epoch", b"x\n"),
        ("epoch", b"\xff\n"),
        ("epoch", b"01\n"),
    ],
)
def test_a_damaged_device_is_refused(device, name, data):
    (device / name).write_bytes(data)
    with pytest.raises(LogError) as caught:
        open_platform(device)
    assert isinstance(caught.value, MalformedError)


def test_no_device_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError):
        simulated_device.open_platform(tmp_path)
