"""Wheels and recipes to build in tests; everything is made in memory or in tmp_path."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def make_wheel(
    files: Mapping[str, bytes],
    *,
    name: str = "demo_pkg",
    version: str = "1.0",
    record: bytes | None = None,
    unrecorded: Mapping[str, bytes] | None = None,
    duplicate: str | None = None,
    external_attr: int = 0,
) -> bytes:
    """A wheel; ``record`` replaces its RECORD, ``unrecorded`` members are not listed there."""
    info = f"{name}-{version}.dist-info"
    members = {f"{info}/WHEEL": b"Wheel-Version: 1.0\n", f"{info}/METADATA": b"Name: x\n", **files}
    rows = [f"{path},{record_digest(data)},{len(data)}\n" for path, data in members.items()]
    listing = "".join([*rows, f"{info}/RECORD,,\n"]).encode() if record is None else record
    members |= {f"{info}/RECORD": listing, **(unrecorded or {})}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = external_attr
            entry.filename = path  # ZipInfo cuts at NUL
            archive.writestr(entry, data)
        if duplicate is not None:
            archive.writestr(zipfile.ZipInfo(duplicate), b"again")
    return out.getvalue()


def record_digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="session")
def wheel() -> Callable[..., bytes]:
    return make_wheel


STANDIN = REPOSITORY / "reproducible" / "agent-standin"
CA_PEM = (STANDIN / "llm-ca.pem").read_bytes()
LOG_POLICY = b"log log.example+00000000+AAAA\nquorum none\n"

RECIPE = """\
format = 1
name = "tiny"
product = "tiny-product"
release = "1.2.3"
gramine_version = "1.9"
epoch_s = 1700000000
sources = [
    { from = "top.py", to = "app/top.py" },
    { from = "lib", to = "app/pkg" },
]
exclude = ["cli.py", "lib/left/", "lib/out.py"]
files = [{ from = "main.py", to = "app/main.py" }]
wheels_target = "app/packages"

[inputs]
log_policy = "app/log-policy.txt"
ca = "app/llm-ca.pem"

[enclave]
size = "64M"
threads = 4
edmm = true
use_exinfo = true
isv_prod_id = 7
isv_svn = 3

[enclave.cpu_features]
avx = "unspecified"
avx512 = "unspecified"
amx = "unspecified"
mpx = "disabled"
pkru = "disabled"

[process]
entrypoint = "/app/main.py"
argv = ["python3", "/app/main.py"]
env = { LANG = "C.UTF-8" }
mounts = [
    { path = "/app", uri = "file:rootfs/app" },
    { type = "encrypted", path = "/state", uri = "file:state", key_name = "_sgx_mrenclave" },
]
"""


@dataclass(frozen=True)
class Workshop:
    """A recipe, its sources and wheels on disk."""

    recipe: Path
    source: Path
    wheels: Path


def make_workshop(root: Path, elf: Callable[..., bytes], *, reverse: bool = False) -> Workshop:
    """Write everything that a build needs; ``reverse`` writes the files in the opposite order."""
    wheel = make_wheel({"demo_pkg/__init__.py": b"X = 1\n"})
    libpal = elf((5, 0, 0, 0x800, 0x800), (6, 0x1F00, 0x2F00, 0x200, 0x1800))
    lock = (
        "format = 1\n"
        + "".join(
            f'[{name}]\nfile = "lib.so"\nsha256 = "{hashlib.sha256(libpal).hexdigest()}"\n'
            for name in ("libpal", "libsysdb")
        )
        + '[[wheel]]\nname = "demo-pkg"\nversion = "1.0"\nfile = "demo_pkg-1.0-py3-none-any.whl"\n'
        + f'sha256 = "{hashlib.sha256(wheel).hexdigest()}"\n'
    )
    files = {
        "src/top.py": b"TOP = 1\n",
        "src/lib/__init__.py": b"",
        "src/lib/a-b.py": b"A = 1\n",
        "src/lib/a/x.py": b"X = 1\n",
        "src/lib/a.py": b"AA = 1\n",
        "src/lib/cli.py": b"left out by name\n",
        "src/lib/a/cli.py": b"left out by name\n",
        "src/lib/out.py": b"left out by path\n",
        "src/lib/left/y.py": b"left out with its folder\n",
        "src/lib/notes.txt": b"no source\n",
        "src/lib/__pycache__/a.cpython-311.pyc": b"bytecode",
        "recipe/recipe.toml": RECIPE.encode(),
        "recipe/recipe.lock": lock.encode(),
        "recipe/main.py": b"print('hello')\n",
        "recipe/lib.so": libpal,
        "wheels/demo_pkg-1.0-py3-none-any.whl": wheel,
    }
    for path in sorted(files, reverse=reverse):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(files[path])
    return Workshop(root / "recipe", root / "src", root / "wheels")


@pytest.fixture
def workshop(tmp_path: Path, elf: Callable[..., bytes]) -> Workshop:
    return make_workshop(tmp_path / "workshop", elf)


@pytest.fixture(scope="session")
def workshop_maker(elf: Callable[..., bytes]) -> Callable[..., Workshop]:
    return lambda root, **how: make_workshop(root, elf, **how)


@pytest.fixture(scope="session")
def log_policy() -> bytes:
    return LOG_POLICY


@pytest.fixture(scope="session")
def ca_pem() -> bytes:
    return CA_PEM


@pytest.fixture(scope="session")
def standin() -> Path:
    return STANDIN


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY
