"""Small enclaves, wheels and recipes to build in tests; everything is made in memory or in tmp_path."""

import base64
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

GRAMINE_VECTORS = Path(__file__).parents[1] / "vectors" / "gramine"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Vector:
    """One of the Gramine vectors, decoded."""

    values: Mapping[str, Any]

    @property
    def manifest(self) -> bytes:
        return base64.b64decode(self.values["manifest_b64"])

    @property
    def libpal(self) -> bytes:
        return base64.b64decode(self.values["libpal_b64"])

    @property
    def sigstruct(self) -> bytes:
        return base64.b64decode(self.values["sigstruct"]["b64"])


def read_vectors() -> dict[str, Vector]:
    return {
        path.stem: Vector(json.loads(path.read_bytes())) for path in sorted(GRAMINE_VECTORS.glob("*.json"))
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``any_vector``: all of them; ``vector``: those that a builder accepts."""
    found = read_vectors()
    if "any_vector" in metafunc.fixturenames:
        metafunc.parametrize("any_vector", found.values(), ids=found.keys())
    if "vector" in metafunc.fixturenames:
        accepted = {name: v for name, v in found.items() if v.values["expect"] == "ok"}
        metafunc.parametrize("vector", accepted.values(), ids=accepted.keys())


@pytest.fixture(scope="session")
def tiny() -> Vector:
    return read_vectors()["tiny_64M_t1"]


@pytest.fixture(scope="session")
def signing_key() -> RSAPrivateKey:
    pem = (GRAMINE_VECTORS / "test-signing-key-INSECURE.pem").read_bytes()
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, RSAPrivateKey)
    return key


ElfMaker = Callable[..., bytes]


def make_elf(
    *segments: tuple[int, int, int, int, int], entry: int = 0x10, size: int = 0x6000, **header: int
) -> bytes:
    """An image with segments (flags, offset, address, file size, memory size); every byte is distinctive."""
    values = {
        "type": 3, "machine": 62, "version": 1, "phoff": 64, "ehsize": 64, "phentsize": 56, "phnum": len(segments)
    } | header  # fmt: skip
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, values["type"], values["machine"], values["version"], entry, values["phoff"],
        0, 0, values["ehsize"], values["phentsize"], values["phnum"], 0, 0, 0,
    )  # fmt: skip
    for flags, offset, address, file_size, memory_size in segments:
        head += struct.pack(
            "<IIQQQQQQ", header.get("kind", 1), flags, offset, address, address, file_size, memory_size, 4096
        )
    return head + bytes((i * 7 + i // 256) % 255 + 1 for i in range(len(head), size))


@pytest.fixture(scope="session")
def elf() -> ElfMaker:
    return make_elf


MANIFEST = """\
[libos]
entrypoint = "/app/main"

[sgx]
enclave_size = "64M"
max_threads = 1
edmm_enable = true
"""


@pytest.fixture(scope="session")
def small_manifest() -> str:
    """A manifest with only what the layout needs; EDMM, so that measuring is fast."""
    return MANIFEST


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
entrypoint = "/usr/bin/python3"
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


def make_workshop(root: Path, *, reverse: bool = False) -> Workshop:
    """Write everything that a build needs; ``reverse`` writes the files in the opposite order."""
    wheel = make_wheel({"demo_pkg/__init__.py": b"X = 1\n"})
    libpal = make_elf((5, 0, 0, 0x800, 0x800), (6, 0x1F00, 0x2F00, 0x200, 0x1800))
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
def workshop(tmp_path: Path) -> Workshop:
    return make_workshop(tmp_path / "workshop")


@pytest.fixture(scope="session")
def workshop_maker() -> Callable[..., Workshop]:
    return make_workshop


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
