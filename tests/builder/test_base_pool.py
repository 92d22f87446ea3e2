"""Where packages come from: pools, a cache, a server of an archive's past; always by digest."""

import http.server
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest

from assay.builder import base_pool
from assay.builder.base_pool import package_finder, snapshot_download
from assay.builder.recipe import load_recipe
from assay.tlog.errors import LogError, UnavailableError, UntrustedError


@pytest.fixture
def locked(based):
    return {package.name: package for package in load_recipe(based.recipe).base_lock.packages}


class Archive(http.server.BaseHTTPRequestHandler):
    """A server laid out as the snapshot archive: ``answers`` maps paths to (status, headers, body)."""

    def do_GET(self):
        self.server.asked.append(self.path)
        status, headers, body = self.server.answers.get(unquote(self.path), (404, {}, b"no such file" * 9))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def archive(based, locked, snapshot_time):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archive)
    server.asked = []
    server.answers = {
        f"/archive/{p.archive}/{snapshot_time}/{p.path}": (
            200,
            {},
            next(based.pool.glob(f"{p.name}_*")).read_bytes(),
        )
        for p in locked.values()
    }
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_pool_may_name_files_as_apt_or_as_the_archive_does(based, locked):
    find = package_finder([based.pool])
    apt = based.pool / "pydemo_1%3a3.11-1_amd64.deb"
    data = apt.read_bytes()
    assert find(locked["pydemo"]) == data
    apt.rename(based.pool / "pydemo_3.11-1_amd64.deb")
    assert find(locked["pydemo"]) == data


def test_what_is_nowhere_is_unavailable_and_says_where_it_was_looked_for(based, locked, tmp_path):
    with pytest.raises(UnavailableError, match=f"package pydemo 1:3.11-1.*{tmp_path}") as refusal:
        package_finder([tmp_path])(locked["pydemo"])
    assert refusal.value.code == "package-missing"


def test_the_cache_is_filled_from_the_server_once_and_serves_without_it(
    archive, locked, tmp_path, snapshot_time
):
    download = snapshot_download(archive.url + "/", snapshot_time)
    cache = tmp_path / "cache"
    online = package_finder(cache=cache, download=download)
    first = {name: online(package) for name, package in locked.items()}
    assert len(archive.asked) == len(locked) == 3
    offline = package_finder(cache=cache)
    assert {name: offline(package) for name, package in locked.items()} == first
    assert {name: online(package) for name, package in locked.items()} == first
    assert len(archive.asked) == 3
    assert not [path for path in cache.rglob("*") if path.name.startswith(".")]


def test_a_moment_between_two_states_is_redirected_to_the_earlier_one(archive, locked, snapshot_time):
    package = locked["libdemo1"]
    path = f"/archive/debian-security/{snapshot_time}/{package.path}"
    earlier = path.replace(snapshot_time, "20261119T210404Z")
    archive.answers[earlier] = archive.answers[path]
    archive.answers[path] = (301, {"Location": earlier}, b"moved")
    assert snapshot_download(archive.url, snapshot_time)(package) == archive.answers[earlier][2]


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b""),
        (404, {}, b"x" * 4000),
        (500, {}, b""),
        (302, {}, b""),
        (302, {"Location": "http://127.0.0.2:1/x"}, b""),
        (302, {"Location": "//example.org/x"}, b""),
        (302, {"Location": "/nowhere"}, b""),
        (200, {}, b"another package"),
        (200, {}, b"x" * 100_000),
    ],
    ids=range(9),
)
def test_nothing_else_than_the_package_is_taken_from_a_server(
    archive, locked, snapshot_time, tmp_path, answer
):
    package = locked["pydemo"]
    archive.answers[f"/archive/debian/{snapshot_time}/{package.path}"] = answer
    find = package_finder(cache=tmp_path / "cache", download=snapshot_download(archive.url, snapshot_time))
    with pytest.raises(LogError):
        find(package)
    assert not (tmp_path / "cache").exists()


def test_a_server_that_is_not_there_is_unavailable(archive, locked, snapshot_time):
    find = package_finder(download=snapshot_download("http://127.0.0.1:1", snapshot_time))
    with pytest.raises(UnavailableError):
        find(locked["pydemo"])


def test_a_changed_cache_is_refused_not_repaired_in_silence(archive, locked, snapshot_time, tmp_path):
    cache = tmp_path / "cache"
    find = package_finder(cache=cache, download=snapshot_download(archive.url, snapshot_time))
    find(locked["pydemo"])
    next(cache.rglob("*.deb")).write_bytes(b"changed on disk")
    with pytest.raises(UntrustedError) as refusal:
        find(locked["pydemo"])
    assert refusal.value.code == "base-package"


def test_the_cache_is_the_users():
    assert base_pool.cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/assay/packages")
    assert base_pool.cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/assay/packages"
