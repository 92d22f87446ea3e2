"""Copies of a log: complete whenever their checkpoint says so, checked from the entries up, and enough to recover from."""

import gzip
import json
import shutil
import sqlite3
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from assay import cli
from assay.attest.admission import Admitted
from assay.attest.index import index_leaf
from assay.fetch import http
from assay.log_server import fsck
from assay.log_server.anchor import AnchorMovedError, open_anchor
from assay.log_server.copies import CopySource, FolderTarget, open_target
from assay.log_server.export import Exporter
from assay.log_server.store_source import StoreSource
from assay.tlog import note, proof, tiles
from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint, sign_checkpoint
from assay.tlog.errors import InconsistentError, LogError, UnavailableError


def grow(service, entry_maker, count):
    """Append entries of this service's log to its database, many at a time and without HTTP."""
    store, signers = service.store, service.signers
    with store.write() as batch:
        start = batch.latest().size
        admitted = []
        for number in range(start, start + count):
            leaf = entry_maker(number)
            indexed = index_leaf(leaf)
            admitted.append(Admitted(leaf, indexed.identity, indexed.kind, indexed.terms))
        batch.append(start, admitted, now_ms=1_000_000)
        checkpoint = Checkpoint(
            signers[0].name, start + count, proof.tree_root(start + count, batch.hashes())
        )
        signed = note.format_note(sign_checkpoint(checkpoint, signers, time_s=1000))
        batch.sign(checkpoint, signed, now_ms=1_000_000, published=True)
    service.newest()  # the anchor follows


@pytest.fixture
def log(make_log):
    log = make_log()
    log.open()
    return log


def exporter(log, target):
    return Exporter(log.service.store, target, log_keys=log.service.log_keys, interval_s=1)


def check(target, log):
    return fsck.check_log(CopySource(target), log_keys=log.service.log_keys)


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "sizes", [[1], [255], [256], [257], [1, 255, 256, 1], [300, 300], [513, 511], [5, 0, 3]]
)
def test_a_copy_is_what_the_log_serves_at_every_size(log, entry_maker, tmp_path, sizes):
    target = FolderTarget(tmp_path / "copy")
    client = log.client()
    for more in sizes:
        if more:
            grow(log.service, entry_maker, more)
        size = log.service.newest().size
        assert exporter(log, target).round().new_size == size
        found = check(target, log)
        assert (found.faults, found.entries, found.unknown) == ([], size, 0)
        expected = {tile.path for tile in tiles.tiles_of_size(size)}
        bundles = {bundle.path for bundle in tiles.bundles_of_size(size)}
        there = files(tmp_path / "copy")
        assert expected | bundles | {f"{path}.gz" for path in bundles} | {"checkpoint"} <= there
        for path in there:
            content = (tmp_path / "copy" / path).read_bytes()
            plain = gzip.decompress(content) if path.endswith(".gz") else content
            assert client.get("/" + path.removesuffix(".gz")).data == plain
    again = exporter(log, target).round()
    assert again.written == 0


def test_what_is_copied_is_written_once_and_read_only(log, entry_maker, tmp_path):
    folder = tmp_path / "copy"
    target = FolderTarget(folder)
    grow(log.service, entry_maker, 300)
    exporter(log, target).round()
    for path in files(folder) - {"checkpoint"}:
        assert (folder / path).stat().st_mode & 0o777 == 0o444
    before = (folder / "tile/0/000").stat().st_mtime_ns
    grow(log.service, entry_maker, 5)
    exporter(log, target).round()
    assert (folder / "tile/0/000").stat().st_mtime_ns == before
    assert not (folder / "tile/0/000.p").exists()


def test_partial_tiles_go_when_the_full_one_is_there(log, entry_maker, tmp_path):
    target = FolderTarget(tmp_path)
    grow(log.service, entry_maker, 100)
    exporter(log, target).round()
    grow(log.service, entry_maker, 200)
    exporter(log, target).round()
    assert "tile/0/000.p/100" not in files(tmp_path)
    assert "tile/entries/000.p/100" not in files(tmp_path)
    assert "tile/entries/000.p/100.gz" not in files(tmp_path)


class Failing:
    """A target that fails at its n-th write, before it or after it."""

    def __init__(self, target, *, at, after):
        self._target, self._left, self._after = target, at, after
        self.name = target.name
        self.read, self.delete = target.read, target.delete

    def write(self, path, content, **options):
        self._step(self._target.write, path, content, **options)

    def replace(self, path, content):
        self._step(self._target.replace, path, content)

    def _step(self, do, *arguments, **options):
        self._left -= 1
        if self._left == 0 and not self._after:
            raise UnavailableError("broken", code="copy")
        do(*arguments, **options)
        if self._left == 0:
            raise UnavailableError("broken", code="copy")


@pytest.mark.parametrize("after", [False, True])
def test_a_copy_that_breaks_off_at_any_write_is_whole_and_goes_on(log, entry_maker, tmp_path, after):
    first = FolderTarget(tmp_path / "first")
    grow(log.service, entry_maker, 300)
    exporter(log, first).round()
    grow(log.service, entry_maker, 270)
    for at in range(1, 30):
        folder = tmp_path / f"copy{at}"
        shutil.copytree(tmp_path / "first", folder)
        target = FolderTarget(folder)
        try:
            done = exporter(log, Failing(target, at=at, after=after)).round()
        except UnavailableError:
            found = check(target, log)
            assert found.faults == []
            assert found.checkpoint.size in (300, 570)
            exporter(log, target).round()
            assert check(target, log).checkpoint.size == 570
        else:
            assert done.written < at
            return
    raise AssertionError("the round never ended")


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/000", "tile/1/000.p/1"])
def test_a_copy_of_other_bytes_is_never_overwritten(log, entry_maker, tmp_path, path):
    grow(log.service, entry_maker, 300)
    target = FolderTarget(tmp_path)
    target.write(path, b"something else")
    with pytest.raises(InconsistentError) as refused:
        exporter(log, target).round()
    assert refused.value.code == "copy-differs"
    assert target.read(path) == b"something else"
    assert target.read("checkpoint") is None


def test_a_copy_of_another_log_or_of_more_is_not_touched(make_log, log, entry_maker, tmp_path):
    other = make_log()
    other.open()
    grow(other.service, entry_maker, 3)
    exporter(other, FolderTarget(tmp_path / "a")).round()
    with pytest.raises(LogError):
        exporter(log, FolderTarget(tmp_path / "a")).round()
    grow(log.service, entry_maker, 3)
    exporter(log, FolderTarget(tmp_path / "b")).round()
    exporter_ = exporter(log, FolderTarget(tmp_path / "b"))
    for old in (Checkpoint("log.test.example", 99, bytes(32)), Checkpoint("log.test.example", 3, bytes(32))):
        with pytest.raises(InconsistentError):
            exporter_._require_older(old, Checkpoint("log.test.example", 3, bytes(32)))


def test_the_server_keeps_a_copy_behind_itself(make_log, entry_maker, tmp_path):
    log = make_log(extra=f'[export]\nto = "{tmp_path / "copy"}"\ninterval_s = 0.05\n')
    service = log.open()
    service.submit(entry_maker(0), witnessed=False)
    target = FolderTarget(tmp_path / "copy")
    for _ in range(200):
        note_ = target.read("checkpoint")
        if note_ and parse_signed_checkpoint(note_).checkpoint.size == 1:
            break
        threading.Event().wait(0.05)
    assert check(target, log).checkpoint.size == 1


def corrupt(folder, path, change):
    file = folder / path
    file.chmod(0o644)
    file.write_bytes(change(file.read_bytes()))


FLIP = lambda data: bytes([data[0] ^ 1]) + data[1:]  # noqa: E731


@pytest.mark.parametrize(
    ("path", "change", "named"),
    [
        ("tile/0/000", FLIP, "tile/0/000"),
        ("tile/0/001.p/44", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "tile/0/001.p/44"),
        ("tile/0/001.p/44", lambda data: data[:-32], "tile/0/001.p/44"),
        ("tile/1/000.p/1", FLIP, "tile/1/000.p/1"),
        ("tile/1/000.p/1", lambda data: b"", "tile/1/000.p/1"),
        ("tile/entries/000", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "tile/0/000"),
        ("tile/entries/000", lambda data: data[:-1], "tile/entries/000"),
        ("tile/entries/000", lambda data: data + b"\x00\x00", "tile/entries/000"),
        ("tile/entries/001.p/44", lambda data: b"\x00\x00" * 44, "tile/0/001.p/44"),
    ],
)
def test_fsck_names_what_is_wrong(log, entry_maker, tmp_path, capsys, path, change, named):
    grow(log.service, entry_maker, 300)
    exporter(log, FolderTarget(tmp_path)).round()
    keys = [argument for vkey in log.vkeys for argument in ("--vkey", vkey)]
    assert cli.main(["log", "fsck", str(tmp_path), *keys]) == 0
    corrupt(tmp_path, path, change)
    capsys.readouterr()
    assert cli.main(["log", "fsck", str(tmp_path), *keys, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["clean"]
    assert named in [fault["path"] for fault in report["faults"]]


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/44"]
)
def test_fsck_notices_what_is_missing(log, entry_maker, tmp_path, path):
    grow(log.service, entry_maker, 300)
    target = FolderTarget(tmp_path)
    exporter(log, target).round()
    (tmp_path / path).unlink()
    assert path in [fault.path for fault in check(target, log).faults]


def test_fsck_notices_entries_that_changed_places(log, entry_maker, tmp_path):
    grow(log.service, entry_maker, 10)
    target = FolderTarget(tmp_path)
    exporter(log, target).round()

    def swap(data):
        entries = tiles.parse_bundle(data, width=10)
        return tiles.format_bundle([entries[1], entries[0], *entries[2:]])

    corrupt(tmp_path, "tile/entries/000.p/10", swap)
    faults = check(target, log).faults
    assert [fault.path for fault in faults] == ["tile/0/000.p/10", "checkpoint"]


def test_fsck_believes_only_the_keys_it_is_given(make_log, log, entry_maker, tmp_path, capsys):
    grow(log.service, entry_maker, 3)
    exporter(log, FolderTarget(tmp_path)).round()
    other = make_log()
    other.open()
    for vkeys in ([other.vkeys[0]], [log.vkeys[0], other.vkeys[1]]):
        keys = [argument for vkey in vkeys for argument in ("--vkey", vkey)]
        assert cli.main(["log", "fsck", str(tmp_path), *keys]) == 1
    assert cli.main(["log", "fsck", str(tmp_path)]) == 2
    assert cli.main(["log", "fsck", str(tmp_path / "nothing"), "--vkey", log.vkeys[0]]) == 3
    assert cli.main(["log", "fsck", "http://127.0.0.1:1", "--vkey", log.vkeys[0]]) == 3


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
    ],
)
def test_fsck_of_a_logs_own_directory_checks_the_database_too(log, entry_maker, capsys, sql):
    grow(log.service, entry_maker, 2)
    grow(log.service, entry_maker, 1)
    keys = [argument for vkey in log.vkeys for argument in ("--vkey", vkey)]
    log.close()
    assert cli.main(["log", "fsck", str(log.folder), *keys]) == 0
    database = sqlite3.connect(log.folder / "log.db")
    database.execute(sql)
    database.commit()
    database.close()
    assert cli.main(["log", "fsck", str(log.folder), *keys]) == 1
    assert "FAULT" in capsys.readouterr().out


def test_fsck_reads_over_http_what_any_web_server_serves(log, entry_maker, tmp_path, capsys):
    grow(log.service, entry_maker, 300)
    exporter(log, FolderTarget(tmp_path)).round()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        keys = [argument for vkey in log.vkeys for argument in ("--vkey", vkey)]
        url = f"http://127.0.0.1:{server.server_port}"
        assert cli.main(["log", "fsck", url, *keys, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["entries"] == 300
    finally:
        server.shutdown()
        server.server_close()


def lose_database(log):
    log.close()
    for path in log.folder.glob("log.db*"):
        path.unlink()


@pytest.mark.parametrize("size", [0, 1, 256, 700])
def test_a_lost_database_comes_back_the_same(log, entry_maker, tmp_path, size, capsys):
    if size:
        grow(log.service, entry_maker, size)
    exporter(log, FolderTarget(tmp_path / "copy")).round()
    before = log.service.newest()
    keys = [argument for vkey in log.vkeys for argument in ("--vkey", vkey)]
    terms = log.service.store.term_count()
    lose_database(log)
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 0
    assert cli.main(["log", "fsck", str(log.folder), *keys]) == 0
    service = log.open()
    assert (service.newest().size, service.newest().root) == (before.size, before.root)
    assert service.store.term_count() == terms
    if size:
        leaf = entry_maker(size - 1)
        assert service.submit(leaf, witnessed=False).index == size - 1
        assert service.store.find_terms(dict(index_leaf(leaf).terms))[0] == size - 1
    assert service.submit(entry_maker(size), witnessed=False).index == size
    exporter(log, FolderTarget(tmp_path / "copy")).round()
    assert check(FolderTarget(tmp_path / "copy"), log).faults == []


def test_a_copy_older_than_the_anchor_is_not_recovered_from(log, entry_maker, tmp_path, capsys):
    grow(log.service, entry_maker, 3)
    exporter(log, FolderTarget(tmp_path / "copy")).round()
    grow(log.service, entry_maker, 2)
    lose_database(log)
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 1
    assert "error[behind-anchor]" in capsys.readouterr().err
    assert not (log.folder / "log.db").exists()


def test_a_database_with_entries_is_never_replaced(log, entry_maker, tmp_path, capsys):
    grow(log.service, entry_maker, 3)
    exporter(log, FolderTarget(tmp_path / "copy")).round()
    log.close()
    before = (log.folder / "log.db").read_bytes()
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 1
    assert "error[exists]" in capsys.readouterr().err
    assert (log.folder / "log.db").read_bytes() == before


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/entries/000", "tile/1/000.p/1", "tile/entries/001.p/44"]
)
def test_a_corrupt_copy_recovers_nothing(log, entry_maker, tmp_path, path):
    grow(log.service, entry_maker, 300)
    exporter(log, FolderTarget(tmp_path / "copy")).round()
    lose_database(log)
    good = (tmp_path / "copy" / path).read_bytes()
    corrupt(tmp_path / "copy", path, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 1
    assert not (log.folder / "log.db").exists()
    corrupt(tmp_path / "copy", path, lambda data: good)  # and what was interrupted can be done again
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 0


def test_a_log_on_postgresql_is_recovered_into_an_empty_database(make_log, postgres, entry_maker, tmp_path):
    log = make_log(database=postgres.create("recover_from"))
    log.open()
    grow(log.service, entry_maker, 300)
    exporter(log, FolderTarget(tmp_path / "copy")).round()
    root = log.service.newest().root
    log.close()
    old = log.file.read_text()
    log.file.write_text(old.replace("recover_from", "recover_to"))
    postgres.create("recover_to")
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 0
    assert log.open().newest().root == root
    log.close()
    assert cli.main(["log", "recover", "--from", str(tmp_path / "copy"), "--dir", str(log.folder)]) == 1


def test_the_store_is_a_source_like_any_other(log, entry_maker):
    grow(log.service, entry_maker, 300)
    found = fsck.check_log(StoreSource(log.service.store), log_keys=log.service.log_keys)
    assert (found.faults, found.entries) == ([], 300)


@pytest.mark.parametrize("place", ["http://x", "s3://", "ftp://x/y"])
def test_a_copy_is_in_a_folder_or_a_bucket(place, tmp_path):
    with pytest.raises(LogError):
        open_target(place, folder=tmp_path)


@pytest.fixture
def bucket(monkeypatch):
    """An S3-compatible server on loopback with an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    http.request("PUT", f"http://{host}:{port}/copies", timeout_s=10, max_bytes=10_000)
    yield f"http://{host}:{port}/copies"
    server.stop()


def test_a_bucket_holds_what_a_folder_holds(log, entry_maker, tmp_path, bucket, capsys):
    grow(log.service, entry_maker, 300)
    place = "s3://copies/logs/a"
    target = open_target(place, folder=tmp_path)
    assert exporter(log, target).round().new_size == 300
    assert exporter(log, target).round().written == 0
    assert check(target, log).faults == []
    grow(log.service, entry_maker, 300)
    exporter(log, target).round()
    assert target.read("tile/0/001.p/44") is None
    assert check(target, log).entries == 600
    served = target._store.get("logs/a/tile/entries/000")
    assert served.attributes["Content-Encoding"] == "gzip"
    assert "immutable" in served.attributes["Cache-Control"]
    assert gzip.decompress(bytes(served.bytes())) == log.client().get("/tile/entries/000").data
    root = log.service.newest().root
    lose_database(log)
    assert cli.main(["log", "recover", "--from", place, "--dir", str(log.folder)]) == 0
    assert log.open().newest().root == root


def test_an_anchor_in_a_bucket_is_swapped_or_left_alone(make_log, entry_maker, tmp_path, bucket):
    anchor = open_anchor("s3://copies/anchors/log", folder=tmp_path)
    with pytest.raises(FileNotFoundError):
        anchor.read()
    anchor.create(b"first")
    with pytest.raises(FileExistsError):
        anchor.create(b"second")
    with pytest.raises(AnchorMovedError) as moved:
        anchor.swap(b"other", b"second")
    assert moved.value.current == b"first"
    anchor.swap(b"first", b"second")
    assert open_anchor("s3://copies/anchors/log", folder=tmp_path).read() == b"second"


def test_a_bucket_that_is_gone_is_unavailable(tmp_path, monkeypatch, log, entry_maker):
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    grow(log.service, entry_maker, 1)
    with pytest.raises(UnavailableError):
        exporter(log, open_target("s3://copies/x", folder=tmp_path)).round()
    with pytest.raises(OSError):
        open_anchor("s3://copies/x", folder=tmp_path).read()
