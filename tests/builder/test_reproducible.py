"""The same MRENCLAVE on anyone's machine: `assay build` of agent-standin in surroundings that differ in one thing, and in all.

Each build is a process of its own that runs the program as a stranger would, on a checkout of its own. Compared are
every byte, mode and time of the tree, the manifest, MRENCLAVE and the SIGSTRUCT.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
COPIED = (
    "src",
    "tlog",
    "attest",
    "fetch",
    "client",
    "builder",
    "enclave",
    "reproducible",
    "log_server",
    "witness",
)
SITE_PACKAGES = sysconfig.get_path("platlib")
KEY = REPOSITORY / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem"

SHUFFLED = """
import os, random
_listdir, _scandir, _random = os.listdir, os.scandir, random.Random({seed})
def listdir(*a):
    return sorted(_listdir(*a), key=lambda name: _random.random())
class scandir:
    def __init__(self, *a):
        with _scandir(*a) as scan:
            self.entries = sorted(scan, key=lambda entry: _random.random())
    def __iter__(self): return iter(self.entries)
    def __next__(self): raise NotImplementedError
    def __enter__(self): return self
    def __exit__(self, *a): pass
    def close(self): pass
os.listdir, os.scandir = listdir, scandir
"""
"""Where disorderfs is not installed: each reading of a directory is shuffled in the process."""

CLOCK = """
import time, datetime
_shift = {shift}
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _shift
time.time_ns = lambda: _time_ns() + _shift * 10**9
_localtime, _gmtime, _strftime = time.localtime, time.gmtime, time.strftime
time.localtime = lambda s=None: _localtime(time.time() if s is None else s)
time.gmtime = lambda s=None: _gmtime(time.time() if s is None else s)
time.strftime = lambda f, t=None: _strftime(f, time.localtime() if t is None else t)
class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls): return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)
class _Date(datetime.date):
    @classmethod
    def today(cls): return cls.fromtimestamp(time.time())
datetime.datetime, datetime.date = _Datetime, _Date
"""
"""Where faketime is not installed: what Python says of the time is moved in the process."""


@dataclass(frozen=True)
class Surroundings:
    """What a build should not notice; ``site`` is Python that runs before it."""

    umask: int = 0o22
    checkout: str = "checkout"
    home: str = "home"
    user: str | None = None
    reverse: bool = False
    site: str = ""
    wrapper: tuple[str, ...] = ()
    path: str = "/usr/bin:/bin"
    environment: dict[str, str] = field(default_factory=dict)


PLAIN = Surroundings(environment={"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "LANG": "C.UTF-8"})


def env(**changed):
    return lambda s: replace(s, environment={**s.environment, **changed})


def in_process_clock(s):
    return replace(s, site=s.site + CLOCK.format(shift=5 * 365 * 86_400))


def clock(s):
    if shutil.which("faketime"):
        return replace(s, wrapper=("faketime", "2031-07-09 03:04:05", *s.wrapper))
    return in_process_clock(s)


VARIATIONS = {
    "umask": lambda s: replace(s, umask=0o77),
    "time zone": env(TZ="Asia/Kathmandu"),
    "locale": env(LC_ALL="tr_TR.UTF-8", LANG="tr_TR.UTF-8", LANGUAGE="tr"),
    "locale C": env(LC_ALL="C", LANG="C", PYTHONCOERCECLOCALE="0"),
    "home": lambda s: replace(s, home="another home, ünlike"),
    "path": lambda s: replace(s, path="/nonexistent:/usr/local/sbin:/bin:/usr/bin"),
    "clock": clock,
    "clock in the process": in_process_clock,
    "SOURCE_DATE_EPOCH": env(SOURCE_DATE_EPOCH="1"),
    "hash seed": env(PYTHONHASHSEED="4242"),
    "random hashes": env(PYTHONHASHSEED="random"),
    "directory order": lambda s: replace(s, reverse=True, site=s.site + SHUFFLED.format(seed=7)),
    "checkout path": lambda s: replace(s, checkout="a path with ünusual/and deeper names/checkout-2"),
    "optimized": env(PYTHONOPTIMIZE="2", PYTHONDONTWRITEBYTECODE="1"),
}


def checkout(source, target, *, reverse):
    """Copy what a build reads; ``reverse`` makes files and folders in the opposite order, with other modes and times."""
    for folder in sorted(COPIED, reverse=reverse):
        for base, folders, files in os.walk(source / folder):
            folders[:] = sorted((f for f in folders if f != "__pycache__"), reverse=reverse)
            inside = target / Path(base).relative_to(source)
            inside.mkdir(parents=True, exist_ok=True)
            for name in [*folders]:
                if (Path(base) / name).is_symlink():
                    (inside / name).symlink_to((Path(base) / name).readlink())
            for name in sorted(files, reverse=reverse):
                shutil.copyfile(Path(base) / name, inside / name)
                (inside / name).chmod(0o644 if not reverse else 0o755)
                if reverse:
                    os.utime(inside / name, (1, 1))


def build(root, surroundings, wheels):
    """Run the program once and return the folder that it wrote."""
    here = root / surroundings.checkout
    checkout(REPOSITORY, here, reverse=surroundings.reverse)
    home, site = root / surroundings.home, root / "site"
    for folder in (home, site, root / "result"):
        folder.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(textwrap.dedent(surroundings.site))
    policy = root / "policy.txt"
    policy.write_text("log log.example+00000000+AAAA\nquorum none\n")
    shutil.copyfile(KEY, root / "key.pem")
    out = root / "result" / "out"
    if surroundings.user is not None:
        entry = pwd.getpwnam(surroundings.user)
        for path in [root, *root.rglob("*")]:
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    command = [
        *surroundings.wrapper,
        *(sys.executable, "-c", "from assay.cli import run; run()"),
        *("build", here / "reproducible" / "agent-standin", "--out", out, "--log-policy", policy),
        *("--wheels", wheels, "--signing-key", root / "key.pem", "--without-tools", "--json"),
    ]
    done = subprocess.run(
        command,
        cwd=home,
        umask=surroundings.umask,
        env={
            "HOME": str(home),
            "PATH": surroundings.path,
            "PYTHONPATH": os.pathsep.join([str(site), str(here / "src"), SITE_PACKAGES]),
            "PYTHONNOUSERSITE": "1",
            **surroundings.environment,
        },
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["out"] == str(out)
    return out


def contents(out):
    return {
        path.relative_to(out).as_posix(): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [out, *out.rglob("*")]
    }


def measured(out):
    """What two builds must agree on, by the names that the issue gives."""
    record = json.loads((out / "build.json").read_bytes())
    return {
        "tree": record["tree_sha256"],
        "manifest": (out / "agent-standin.manifest.sgx").read_bytes(),
        "mr_enclave": record["mr_enclave"],
        "sigstruct": (out / "agent-standin.sig").read_bytes(),
    }


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The locked wheel, packed here from what is installed, is not the locked one; so it has to be found."""
    folder = tmp_path_factory.mktemp("wheels")
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(REPOSITORY / "reproducible" / "agent-standin"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        timeout=200,
        check=False,
    )
    if done.returncode == 3:
        pytest.skip(f"the locked wheel cannot be had here: {done.stderr.decode().strip()[-200:]}")
    assert done.returncode == 0, done.stderr.decode()
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    return folder


FETCH = """
import sys
from pathlib import Path
from assay.builder.recipe import load_recipe
from assay.builder.wheels import wheel_finder
from assay.tlog.errors import UnavailableError
try:
    found = wheel_finder(None)(load_recipe(Path(sys.argv[1])).lock.wheels)
except UnavailableError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
for wheel, data in found.items():
    (Path(sys.argv[2]) / wheel.file).write_bytes(data)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory, wheels):
    return build(tmp_path_factory.mktemp("plain"), PLAIN, wheels)


@pytest.mark.parametrize("name", list(VARIATIONS))
def test_a_build_does_not_notice(tmp_path, plain, wheels, name):
    surroundings = VARIATIONS[name](PLAIN)
    assert surroundings != PLAIN
    out = build(tmp_path, surroundings, wheels)
    assert measured(out) == measured(plain)
    assert contents(out) == contents(plain)


AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def why_not_nobody():
    """Why a build as another user is not possible here, or None."""
    if os.geteuid() != 0:
        return "building as another user needs root"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed"
    probe = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", "import click"],
        env={"PYTHONPATH": SITE_PACKAGES, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return None if probe.returncode == 0 else "this Python's folder is root's alone"


def as_nobody(surroundings):
    return replace(surroundings, user="nobody", wrapper=(*AS_NOBODY, *surroundings.wrapper))


@pytest.fixture
def reachable(wheels):
    """A folder with the wheels that another user may read: pytest's own are for one user alone."""
    with tempfile.TemporaryDirectory(prefix="assay-reproducible-") as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(wheels, Path(folder) / "wheels")
        yield Path(folder)


def test_a_build_does_not_notice_the_user(reachable, plain):
    if reason := why_not_nobody():
        pytest.skip(reason)
    out = build(reachable / "root", as_nobody(PLAIN), reachable / "wheels")
    assert out.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert measured(out) == measured(plain)
    assert contents(out) == contents(plain)


def test_a_build_does_not_notice_everything_at_once(reachable, plain):
    surroundings = PLAIN if why_not_nobody() else as_nobody(PLAIN)
    for name, vary in VARIATIONS.items():
        if name not in ("locale", "clock in the process", "random hashes"):
            surroundings = vary(surroundings)
    out = build(reachable / "the root", surroundings, reachable / "wheels")
    assert measured(out) == measured(plain)
    assert contents(out) == contents(plain)


@pytest.mark.skipif(shutil.which("disorderfs") is None, reason="disorderfs is not installed")
def test_a_build_does_not_notice_a_file_system_in_disorder(tmp_path, plain, wheels):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (tmp_path / "real").mkdir()
    mount = ["disorderfs", "--shuffle-dirents=yes", tmp_path / "real", mounted]
    done = subprocess.run(mount, capture_output=True, check=False, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"disorderfs cannot mount here: {done.stderr.decode()[-200:]}")
    try:
        out = build(mounted, PLAIN, wheels)
        assert measured(out) == measured(plain)
    finally:
        subprocess.run(["umount", mounted], check=True, timeout=30)


def test_the_variations_are_real(tmp_path):
    """A wrapper that changes nothing would prove nothing."""
    (tmp_path / "many").mkdir()
    for number in range(40):
        (tmp_path / "many" / f"{number:02}").write_bytes(b"")
    code = (
        "import os, time, datetime, json; "
        "print(json.dumps([os.listdir('many'), [e.name for e in os.scandir('many')], time.time(), "
        "datetime.datetime.now().year, str(datetime.date.today())]))"
    )

    def say(site):
        (tmp_path / "sitecustomize.py").write_text(site)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            check=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    first, second = say(""), say(SHUFFLED.format(seed=7) + CLOCK.format(shift=5 * 365 * 86_400))
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert sorted(first[0]) == sorted(second[0]) == sorted(second[1])
    assert second[2] - first[2] > 4 * 365 * 86_400
    assert second[3] - first[3] in (4, 5)
    assert first[4] != second[4]
