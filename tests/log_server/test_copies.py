"""Copies of a log: complete whenever their checkpoint says so, created and never overwritten, in folders and buckets."""

import gzip
import os
import shutil
import threading

import pytest
from sqlalchemy.exc import OperationalError

from assay import cli
from assay.fetch import http
from assay.log_server.anchor import AnchorMovedError, open_anchor
from assay.log_server.copies import open_target
from assay.log_server.folder_target import FolderTarget
from assay.tlog import tiles
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.errors import InconsistentError, LogError, UnavailableError


@pytest.fixture
def log(make_log):
    log = make_log()
    log.open()
    return log


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file()}


@pytest.mark.parametrize(
    "sizes", [[1], [255], [256], [257], [1, 255, 256, 1], [300, 300], [513, 511], [5, 0, 3]]
)
def test_a_copy_is_what_the_log_serves_at_every_size(log, tmp_path, sizes):
    target = FolderTarget(tmp_path / "copy")
    client = log.client()
    for more in sizes:
        if more:
            log.grow(more)
        size = log.service.newest().size
        assert log.export(target).new_size == size
        found = log.check(target)
        assert (found.faults, found.entries, found.unknown) == ([], size, 0)
        expected = {tile.path for tile in tiles.tiles_of_size(size)}
        bundles = {bundle.path for bundle in tiles.bundles_of_size(size)}
        there = files(tmp_path / "copy")
        assert expected | bundles | {f"{path}.gz" for path in bundles} | {"checkpoint"} <= there
        for path in there:
            content = (tmp_path / "copy" / path).read_bytes()
            plain = gzip.decompress(content) if path.endswith(".gz") else content
            assert client.get("/" + path.removesuffix(".gz")).data == plain
    again = log.export(target)
    assert again.written == 0


def test_what_is_copied_is_written_once_and_read_only(log, tmp_path):
    folder = tmp_path / "copy"
    target = FolderTarget(folder)
    log.grow(300)
    log.export(target)
    for path in files(folder) - {"checkpoint"}:
        assert (folder / path).stat().st_mode & 0o777 == 0o444
    before = (folder / "tile/0/000").stat().st_mtime_ns
    log.grow(5)
    log.export(target)
    assert (folder / "tile/0/000").stat().st_mtime_ns == before
    assert not (folder / "tile/0/000.p").exists()


def test_any_web_server_may_read_a_copy_whatever_the_umask(log, tmp_path):
    before = os.umask(0o077)
    try:
        log.grow(3)
        log.export(tmp_path / "copy")
    finally:
        os.umask(before)
    assert (tmp_path / "copy/tile/0/000.p/3").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "copy/checkpoint").stat().st_mode & 0o777 == 0o644
    for folder in (tmp_path / "copy", tmp_path / "copy/tile/0"):
        assert folder.stat().st_mode & 0o777 == 0o755


def test_partial_tiles_go_when_the_full_one_is_there(log, tmp_path):
    target = FolderTarget(tmp_path)
    log.grow(100)
    log.export(target)
    log.grow(200)
    log.export(target)
    assert "tile/0/000.p/100" not in files(tmp_path)
    assert "tile/entries/000.p/100" not in files(tmp_path)
    assert "tile/entries/000.p/100.gz" not in files(tmp_path)


def test_no_partial_tile_of_any_size_between_stays(log, tmp_path):
    for more in (10, 10, 300):
        log.grow(more)
        log.export(tmp_path)
    assert [path for path in files(tmp_path) if "000.p/" in path and "tile/1" not in path] == []


class Failing:
    """A target that fails at its n-th write, before it or after it."""

    def __init__(self, target, *, at, after):
        self._target, self._left, self._after = target, at, after
        self._turn = threading.Lock()
        self.name = target.name
        self.read, self.clear = target.read, target.clear

    def create(self, path, content, **options):
        return self._step(self._target.create, path, content, **options)

    def swap(self, path, expected, content):
        return self._step(self._target.swap, path, expected, content)

    def _step(self, do, *arguments, **options):
        with self._turn:
            self._left -= 1
            left = self._left
        if left == 0 and not self._after:
            raise UnavailableError("broken", code="copy")
        done = do(*arguments, **options)
        if left == 0:
            raise UnavailableError("broken", code="copy")
        return done


@pytest.mark.parametrize("after", [False, True])
def test_a_copy_that_breaks_off_at_any_write_is_whole_and_goes_on(log, tmp_path, after):
    first = FolderTarget(tmp_path / "first")
    log.grow(300)
    log.export(first)
    log.grow(270)
    for at in range(1, 30):
        folder = tmp_path / f"copy{at}"
        shutil.copytree(tmp_path / "first", folder)
        target = FolderTarget(folder)
        try:
            done = log.export(Failing(target, at=at, after=after))
        except UnavailableError:
            found = log.check(target)
            assert found.faults == []
            assert found.checkpoint.size in (300, 570)
            log.export(target)
            assert log.check(target).checkpoint.size == 570
        else:
            assert done.written < at
            return
    raise AssertionError("the round never ended")


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/000", "tile/1/000.p/1"])
def test_a_copy_of_other_bytes_is_never_overwritten(log, tmp_path, path):
    log.grow(300)
    target = FolderTarget(tmp_path)
    target.create(path, b"something else", compress=False)
    with pytest.raises(InconsistentError) as refused:
        log.export(target)
    assert refused.value.code == "copy-differs"
    assert target.read(path) == b"something else"
    assert target.read("checkpoint") is None


def test_a_copy_of_another_log_or_of_another_tree_is_not_touched(make_log, log, tmp_path):
    other = make_log()
    other.open()
    other.grow(3)
    other.export(tmp_path / "a")
    before = files(tmp_path / "a")
    with pytest.raises(LogError):
        log.export(tmp_path / "a")
    log.grow(3)
    log.export(tmp_path / "b")
    ours = log.service.store.latest
    log.grow(2)
    log.export(tmp_path / "b")
    assert files(tmp_path / "a") == before
    # The copy is ahead of a database that was brought back from before.
    exporter = log.exporter(FolderTarget(tmp_path / "b"))
    exporter._store = Older(log.service.store, size=3)
    with pytest.raises(InconsistentError) as refused:
        exporter.round()
    assert refused.value.code == "copy-differs"
    assert ours().size == 5


class Older:
    """A store as it was when it had fewer entries."""

    def __init__(self, store, *, size):
        self._store, self._size = store, size

    def __getattr__(self, name):
        return getattr(self._store, name)

    def latest(self):
        return self._store.checkpoint(self._size)

    def published(self, **options):
        return self._store.checkpoint(self._size)


@pytest.mark.parametrize("path", ["tile/0/000.p/30", "tile/entries/000.p/30"])
def test_a_copy_that_ends_otherwise_than_the_log_is_not_continued(log, tmp_path, path):
    log.grow(30)
    log.export(tmp_path)
    file = tmp_path / path
    file.chmod(0o644)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / f"{path}.gz").unlink(missing_ok=True)
    log.grow(5)
    with pytest.raises(InconsistentError) as refused:
        log.export(tmp_path)
    assert refused.value.code == "copy-differs"


class Racing:
    """A store behind whose back another exporter copies more, once, just when this one has looked."""

    def __init__(self, log, folder):
        self._log, self._folder, self._raced = log, folder, False

    def __getattr__(self, name):
        return getattr(self._log.service.store, name)

    def published(self, **options):
        found = self._log.service.store.published(**options)
        if not self._raced:
            self._raced = True
            self._log.grow(1)
            self._log.export(self._folder)
        return found


def test_two_exporters_at_once_do_no_harm(log, tmp_path):
    log.grow(3)
    exporter = log.exporter(FolderTarget(tmp_path))
    exporter._store = Racing(log, tmp_path)
    exporter.round()
    found = log.check(tmp_path)
    assert (found.faults, found.checkpoint.size) == ([], 4)


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
    assert log.check(target).checkpoint.size == 1


def test_a_database_that_is_away_for_a_moment_does_not_end_the_copying(log, tmp_path):
    log.grow(1)
    exporter = log.exporter(FolderTarget(tmp_path))
    exporter._interval_s = 0.01
    exporter._store = Away(log.service.store)
    exporter.start()
    for _ in range(200):
        if (tmp_path / "checkpoint").exists():
            break
        threading.Event().wait(0.02)
    exporter.stop()
    assert log.check(tmp_path).checkpoint.size == 1


class Away:
    """A store whose database is away the first time."""

    def __init__(self, store):
        self._store, self._asked = store, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def published(self, **options):
        self._asked += 1
        if self._asked == 1:
            raise OperationalError("SELECT", {}, Exception("gone"))
        return self._store.published(**options)


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


def test_a_bucket_holds_what_a_folder_holds(log, tmp_path, bucket, capsys):
    log.grow(300)
    place = "s3://copies/logs/a"
    target = open_target(place, folder=tmp_path)
    assert log.export(target).new_size == 300
    assert log.export(target).written == 0
    assert log.check(target).faults == []
    log.grow(300)
    log.export(target)
    assert target.read("tile/0/001.p/44") is None
    assert log.check(target).entries == 600
    served = target._store.get("logs/a/tile/entries/000")
    assert served.attributes["Content-Encoding"] == "gzip"
    assert "immutable" in served.attributes["Cache-Control"]
    assert gzip.decompress(bytes(served.bytes())) == log.client().get("/tile/entries/000").data
    root = log.service.newest().root
    log.lose_database()
    assert cli.main(["log", "recover", "--from", place, "--dir", str(log.folder)]) == 0
    assert log.open().newest().root == root


def test_an_anchor_in_a_bucket_is_swapped_or_left_alone(make_log, tmp_path, bucket):
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


def test_a_bucket_that_is_gone_is_unavailable(tmp_path, monkeypatch, log):
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    log.grow(1)
    with pytest.raises(UnavailableError):
        log.export(open_target("s3://copies/x", folder=tmp_path))
    with pytest.raises(OSError):
        open_anchor("s3://copies/x", folder=tmp_path).read()
