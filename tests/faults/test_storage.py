"""Disks that fill up or turn read-only, and a database that goes away: a clear answer, no fork, and service again."""

import contextlib
import json
import os
import subprocess
import time

import pytest

from assay.fetch import http
from assay.log_server import config as configuration
from assay.log_server.app import create_app
from assay.log_server.service import LogService
from assay.tlog.errors import LogError

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 4 MiB large; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def make_log(assay, folder, anchor):
    assay("log", "init", str(folder), "--origin", "faults.example", "--anchor", str(anchor))
    service = LogService(configuration.load(folder / "log.toml"), folder=folder)
    service.start()
    return service


@pytest.fixture
def assay():
    from assay import cli

    def run(*arguments):
        assert cli.main(list(arguments)) == 0

    return run


def fill(file):
    """Write until the disk is full."""
    with file.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(bytes(4096))


def post(client, entry):
    return client.post("/api/v1/entries", data=entry)


def test_a_full_disk_refuses_and_space_brings_the_log_back(small_disk, tmp_path, assay, make_entry, check):
    service = make_log(assay, small_disk / "log", tmp_path / "anchor")
    client = create_app(service).test_client()
    try:
        ballast = small_disk / "ballast"
        kept = [post(client, make_entry(number)).json["index"] for number in range(3)]
        fill(ballast)
        answers = [post(client, make_entry(number)) for number in range(3, 300)]
        refused = [each for each in answers if each.status_code != 201]
        assert refused
        assert {(each.status_code, each.json["code"]) for each in refused} == {(503, "not-stored")}
        assert client.get("/readyz").status_code == 503
        assert client.get("/checkpoint").status_code == 200
        ballast.unlink()
        after = post(client, make_entry(1000))
        assert after.status_code == 201
        assert client.get("/readyz").status_code == 200
        size, entries = check(client, service)
        assert size == len(kept) + len(answers) - len(refused) + 1
        assert entries[after.json["index"]] == make_entry(1000)
    finally:
        service.stop()


def test_on_a_read_only_disk_nothing_starts_and_nothing_is_lost(
    small_disk, tmp_path, assay, make_entry, check, capsys
):
    service = make_log(assay, small_disk / "log", tmp_path / "anchor")
    assert post(create_app(service).test_client(), make_entry(0)).status_code == 201
    service.stop()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, capture_output=True)
    from assay import cli

    assert cli.main(["log", "check", "--dir", str(small_disk / "log")]) == 3
    assert "error[storage]" in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True, capture_output=True)
    service = LogService(configuration.load(small_disk / "log" / "log.toml"), folder=small_disk / "log")
    service.start()
    try:
        client = create_app(service).test_client()
        assert post(client, make_entry(1)).json["index"] == 1
        assert check(client, service)[0] == 2
    finally:
        service.stop()


def test_an_anchor_that_cannot_be_written_holds_the_checkpoint_back(
    small_disk, tmp_path, assay, make_entry, check
):
    service = make_log(assay, tmp_path / "log", small_disk / "anchor")
    client = create_app(service).test_client()
    try:
        assert post(client, make_entry(0)).status_code == 201
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, capture_output=True)
        refused = post(client, make_entry(1))
        assert (refused.status_code, refused.json["code"]) == (503, "anchor")
        assert client.get("/api/v1/log").json["size"] == 1
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True, capture_output=True)
        again = post(client, make_entry(1))
        assert (again.status_code, again.json["index"]) == (200, 1)
        assert check(client, service)[0] == 2
    finally:
        service.stop()


def test_a_database_that_goes_away_and_comes_back(server, make_entry, check_http):
    """PostgreSQL killed under a running log: 503 meanwhile, service again without hands, nothing lost."""
    log, database = server
    acknowledged = {number: log.submit(make_entry(number)) for number in range(5)}
    database.stop(kill=True)
    with pytest.raises((LogError, AssertionError)):
        log.submit(make_entry(5))
    url = f"http://{log.address}"
    answer = http.request(
        "POST", f"{url}/api/v1/entries", body=make_entry(5), timeout_s=60, max_bytes=1 << 20
    )
    assert answer.status == 503
    assert json.loads(answer.body)["code"] in ("not-stored", "storage")
    ready = http.request("GET", f"{url}/readyz", timeout_s=60, max_bytes=1 << 20)
    assert ready.status == 503
    database.start()
    deadline = time.monotonic() + 60
    while True:
        try:
            acknowledged[6] = log.submit(make_entry(6))
            break
        except (LogError, AssertionError):
            assert time.monotonic() < deadline, "the log does not come back"
            time.sleep(0.2)
    check_http(log, acknowledged)
