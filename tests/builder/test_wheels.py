"""Finding wheels: only the locked bytes, and no network when a folder is given."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from assay.builder import wheels
from assay.builder.recipe import LockedWheel
from assay.tlog.errors import UnavailableError, UntrustedError

DATA = b"the wheel"
LOCKED = LockedWheel("demo", "1.0", "demo-1.0-py3-none-any.whl", hashlib.sha256(DATA).digest())


def test_a_locked_wheel_is_read_and_strangers_are_ignored(tmp_path):
    (tmp_path / LOCKED.file).write_bytes(DATA)
    (tmp_path / "demo-1.0-cp311-none-any.whl").write_bytes(b"another candidate")
    assert wheels.wheels_from_folder([LOCKED], tmp_path) == {LOCKED: DATA}


def test_a_missing_wheel_is_unavailable_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a process was started"))
    with pytest.raises(UnavailableError) as refusal:
        wheels.wheel_finder(tmp_path)([LOCKED])
    assert refusal.value.code == "wheel-missing"


def test_another_digest_is_refused(tmp_path):
    (tmp_path / LOCKED.file).write_bytes(DATA + b"!")
    with pytest.raises(UntrustedError) as refusal:
        wheels.wheels_from_folder([LOCKED], tmp_path)
    assert refusal.value.code == "wheel-digest"


def test_the_cache_is_filled_once(tmp_path):
    asked = []

    def download(wheel, folder):
        asked.append(wheel)
        (folder / wheel.file).write_bytes(DATA)

    for _ in range(2):
        assert wheels.wheels_from_cache([LOCKED], tmp_path / "cache", download) == {LOCKED: DATA}
    assert asked == [LOCKED]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [LOCKED.sha256.hex()]


@pytest.mark.parametrize("content", [b"evil", None])
def test_nothing_unchecked_enters_the_cache(tmp_path, content):
    def download(wheel, folder):
        if content is not None:
            (folder / wheel.file).write_bytes(content)

    with pytest.raises((UntrustedError, UnavailableError)):
        wheels.wheels_from_cache([LOCKED], tmp_path, download)
    assert list((tmp_path / LOCKED.sha256.hex()).iterdir()) == []


def test_a_changed_cache_is_refused_not_repaired_in_silence(tmp_path):
    folder = tmp_path / LOCKED.sha256.hex()
    folder.mkdir()
    (folder / LOCKED.file).write_bytes(b"changed on disk")
    with pytest.raises(UntrustedError):
        wheels.wheels_from_cache([LOCKED], tmp_path, lambda wheel, folder: pytest.fail("fetched"))


def test_pip_is_asked_by_hash_without_dependencies_or_builds(tmp_path, monkeypatch):
    seen = {}

    def run(command, **options):
        seen.update(options, command=command)
        seen["requirements"] = Path(command[-1]).read_text()
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    wheels.pip_download(LOCKED, tmp_path)
    assert seen["requirements"] == f"demo==1.0 --hash=sha256:{LOCKED.sha256.hex()}\n"
    assert {"--no-deps", "--require-hashes", "--only-binary", ":all:"} <= set(seen["command"])
    assert not [
        word for word in seen["command"] if "://" in word or word.startswith(("--index", "--extra", "--find"))
    ]
    assert seen["timeout"] > 0


@pytest.mark.parametrize("failure", ["exit", "timeout"])
def test_pips_failures_are_unavailable(tmp_path, monkeypatch, failure):
    def run(command, **options):
        if failure == "timeout":
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, 1, b"", b"noise\nERROR: no route\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UnavailableError):
        wheels.pip_download(LOCKED, tmp_path)


@pytest.mark.parametrize("base", [None, "", "relative"])
def test_the_cache_defaults_to_the_users(base):
    environment = {} if base is None else {"XDG_CACHE_HOME": base}
    assert wheels.cache_folder(environment) == Path.home() / ".cache" / "assay" / "wheels"


def test_the_cache_follows_xdg():
    assert wheels.cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/assay/wheels")
