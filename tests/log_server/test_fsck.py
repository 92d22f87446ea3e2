"""fsck: everything derived again from the entries up, and the one that is at fault named."""

import gzip
import json
import sqlite3
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from assay import cli
from assay.log_server import fsck, store_source
from assay.log_server.store_source import StoreSource
from assay.tlog import tiles


@pytest.fixture
def log(make_log):
    log = make_log()
    log.open()
    return log


def corrupt(folder, path, change):
    file = folder / path
    file.chmod(0o644)
    file.write_bytes(change(file.read_bytes()))
    if not path.endswith(".gz"):
        (folder / f"{path}.gz").unlink(missing_ok=True)


FLIP = lambda data: bytes([data[0] ^ 1]) + data[1:]  # noqa: E731


@pytest.mark.parametrize(
    ("path", "change", "named"),
    [
        ("tile/0/000", FLIP, "tile/0/000"),
        ("tile/0/001.p/44", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "tile/0/001.p/44"),
        ("tile/0/001.p/44", lambda data: data[:-32], "tile/0/001.p/44"),
        ("tile/1/000.p/1", FLIP, "tile/1/000.p/1"),
        ("tile/1/000.p/1", lambda data: b"", "tile/1/000.p/1"),
        ("tile/entries/000", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "tile/entries/000"),
        ("tile/entries/000", lambda data: data[:-1], "tile/entries/000"),
        ("tile/entries/000", lambda data: data + b"\x00\x00", "tile/entries/000"),
        ("tile/entries/001.p/44", lambda data: b"\x00\x00" * 44, "tile/entries/001.p/44"),
    ],
)
def test_fsck_names_what_is_wrong(log, tmp_path, capsys, path, change, named):
    log.grow(300)
    log.export(tmp_path)
    assert cli.main(["log", "fsck", str(tmp_path), *log.key_options]) == 0
    corrupt(tmp_path, path, change)
    capsys.readouterr()
    assert cli.main(["log", "fsck", str(tmp_path), *log.key_options, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["clean"]
    assert named in [fault["path"] for fault in report["faults"]]


@pytest.mark.parametrize("size", [300, pytest.param(65_536 + 300, marks=pytest.mark.slow)])
def test_one_wrong_byte_is_one_fault_at_its_own_path(log, tmp_path, size):
    log.grow(size)
    log.export(tmp_path)
    for path in ("tile/0/000", "tile/entries/000", f"tile/1/{'000' if size > 65_536 else '000.p/1'}"):
        good = (tmp_path / path).read_bytes()
        corrupt(tmp_path, path, lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:])
        assert [fault.path for fault in log.check(tmp_path).faults] == [path]
        corrupt(tmp_path, path, lambda data, good=good: good)


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/44"]
)
def test_fsck_notices_what_is_missing(log, tmp_path, path):
    log.grow(300)
    log.export(tmp_path)
    (tmp_path / path).unlink()
    assert path in [fault.path for fault in log.check(tmp_path).faults]


def test_what_is_missing_below_does_not_accuse_what_is_above(log, tmp_path):
    log.grow(800)
    log.export(tmp_path)
    (tmp_path / "tile/0/000").unlink()
    (tmp_path / "tile/entries/000").unlink()
    assert {fault.path for fault in log.check(tmp_path).faults} == {"tile/0/000", "tile/entries/000"}


def test_the_packed_form_of_a_bundle_must_hold_the_same(log, tmp_path):
    log.grow(30)
    log.export(tmp_path)
    corrupt(tmp_path, "tile/entries/000.p/30.gz", lambda data: gzip.compress(b"evil"))
    assert [fault.path for fault in log.check(tmp_path).faults] == ["tile/entries/000.p/30"]


def test_fsck_notices_entries_that_changed_places(log, tmp_path):
    log.grow(10)
    log.export(tmp_path)

    def swap(data):
        entries = tiles.parse_bundle(data, width=10)
        return tiles.format_bundle([entries[1], entries[0], *entries[2:]])

    corrupt(tmp_path, "tile/entries/000.p/10", swap)
    faults = log.check(tmp_path).faults
    assert [fault.path for fault in faults] == ["tile/entries/000.p/10"]


def test_fsck_believes_only_the_keys_it_is_given(make_log, log, tmp_path, capsys):
    log.grow(3)
    log.export(tmp_path)
    other = make_log()
    other.open()
    for vkeys in ([other.vkeys[0]], [log.vkeys[0], other.vkeys[1]]):
        keys = [argument for vkey in vkeys for argument in ("--vkey", vkey)]
        assert cli.main(["log", "fsck", str(tmp_path), *keys]) == 1
    assert cli.main(["log", "fsck", str(tmp_path)]) == 2
    assert cli.main(["log", "fsck", str(tmp_path / "nothing"), "--vkey", log.vkeys[0]]) == 3
    assert cli.main(["log", "fsck", "http://127.0.0.1:1", "--vkey", log.vkeys[0]]) == 3


def test_with_a_policy_the_witnesses_must_have_cosigned(make_log, tmp_path, capsys):
    log = make_log(witnesses=1)
    for witness in log.witnesses:
        witness.mode = "down"
    log.open()
    log.grow(3)
    log.export(tmp_path / "copy")
    policy = log.folder / "witnesses.txt"
    assert cli.main(["log", "fsck", str(tmp_path / "copy"), *log.key_options]) == 0
    capsys.readouterr()
    assert cli.main(["log", "fsck", str(tmp_path / "copy"), "--policy", str(policy)]) == 1
    assert "FAULT checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE term SET value = 'x' WHERE name = 'signer' AND \"index\" = 1",
        "INSERT INTO term VALUES ('signer', 'somebody', 1)",
        "DELETE FROM term WHERE name = 'kind' AND \"index\" = 0",
        'UPDATE entry SET identity = zeroblob(32) WHERE "index" = 1',
        "UPDATE entry SET leaf = x'7b7d' WHERE \"index\" = 1",
        "UPDATE tile SET hashes = zeroblob(32 * 3)",
        "UPDATE checkpoint SET root = zeroblob(32) WHERE size = 3",
        "UPDATE checkpoint SET note = (SELECT note FROM checkpoint WHERE size = 0) WHERE size = 2",
        'DELETE FROM entry WHERE "index" = 2',
        "UPDATE entry SET leaf_hash = zeroblob(32)",
        "DELETE FROM tile",
        "INSERT INTO entry SELECT 99, x'00', zeroblob(32), zeroblob(32), 0",
        "INSERT INTO term VALUES ('signer', 'somebody', 99)",
    ],
)
def test_fsck_of_a_logs_own_directory_checks_the_database_too(log, capsys, sql):
    log.grow(2)
    log.grow(1)
    log.close()
    assert cli.main(["log", "fsck", str(log.folder), *log.key_options]) == 0
    database = sqlite3.connect(log.folder / "log.db")
    database.execute(sql)
    database.commit()
    database.close()
    assert cli.main(["log", "fsck", str(log.folder), *log.key_options]) == 1
    assert "FAULT" in capsys.readouterr().out


def test_a_log_that_grows_while_it_is_checked_is_clean(log, monkeypatch):
    log.grow(2)
    finish = store_source.IndexCheck.finish

    def late(check, findings):
        log.grow(5)
        return finish(check, findings)

    monkeypatch.setattr(store_source.IndexCheck, "finish", late)
    assert cli.main(["log", "fsck", str(log.folder), *log.key_options]) == 0


def test_a_database_that_is_gone_is_not_made_anew(log):
    log.lose_database()
    assert cli.main(["log", "fsck", str(log.folder), *log.key_options]) == 3
    assert cli.main(["log", "export", str(log.folder / "copy"), "--dir", str(log.folder)]) == 3
    assert not (log.folder / "log.db").exists()


class Handler(BaseHTTPRequestHandler):
    """Serves a folder, without being asked so packed, and says 503 to what it is told to."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.server.folder / self.path[1:]
        status = 503 if self.server.fails(self.path) else 200 if path.is_file() else 404
        data = path.read_bytes() if status == 200 else b""
        self.send_response(status)
        if self.server.packed and "/entries/" in self.path and data:
            data = gzip.compress(data)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served(folder, *, packed=False, fails=lambda path: False):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.packed, server.fails = folder, packed, fails
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("packed", [False, True])
def test_fsck_reads_over_http_what_any_web_server_serves(log, tmp_path, capsys, packed):
    log.grow(300)
    log.export(tmp_path)
    with served(tmp_path, packed=packed) as url:
        assert cli.main(["log", "fsck", url, *log.key_options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["entries"], report["kinds"]) == (300, {"attestation": 300})


def test_a_server_that_stops_answering_is_no_fault_of_the_log(log, tmp_path):
    log.grow(30)
    log.export(tmp_path)
    with served(tmp_path, fails=lambda path: "checkpoint" not in path) as url:
        assert cli.main(["log", "fsck", url, *log.key_options]) == 3


def test_the_store_is_a_source_like_any_other(log):
    log.grow(300)
    found = fsck.check_log(StoreSource(log.service.store), log_keys=log.service.log_keys)
    assert (found.faults, found.entries) == ([], 300)
