"""Wheels, packages and recipes to build in tests; everything is made in memory or in tmp_path."""

import base64
import contextlib
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from assay.cli import main

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


PACK = {"": bytes, ".gz": lambda data: gzip.compress(data, mtime=0), ".xz": lzma.compress}


class Debs:
    """Debian packages, by Python's own tarfile: a second opinion beside the reader under test."""

    @staticmethod
    def tar(
        members: list[tuple[str, dict[str, object], bytes]], *, layout: int = tarfile.GNU_FORMAT
    ) -> bytes:
        """A tar of (name, attributes of the TarInfo, content)."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
            for name, attributes, content in members:
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(content), 0o644
                for key, value in attributes.items():
                    setattr(info, key, value)
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()

    @staticmethod
    def ar(members: list[tuple[str, bytes]]) -> bytes:
        """An ar archive."""
        out = b"!<arch>\n"
        for name, data in members:
            out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
            out += b"\n" * (len(data) & 1)
        return out

    @classmethod
    def files(cls, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
        """The data of a package; what lies in a bin folder is executable."""
        folders = {path[:at] for path in files for at, letter in enumerate(path) if letter == "/"}
        members: list[tuple[str, dict[str, object], bytes]] = [("./", {"type": tarfile.DIRTYPE}, b"")]
        members += [(f"./{path}/", {"type": tarfile.DIRTYPE}, b"") for path in sorted(folders)]
        members += [(f"./{p}", {"mode": 0o755 if "bin/" in p else 0o644}, data) for p, data in files.items()]
        members += [
            (f"./{path}", {"type": tarfile.SYMTYPE, "linkname": to}, b"")
            for path, to in (links or {}).items()
        ]
        return cls.tar(members)

    @classmethod
    def make(
        cls,
        name: str,
        files: Mapping[str, bytes] | bytes,
        *,
        links: Mapping[str, str] | None = None,
        version: str = "1.0-1",
        architecture: str = "amd64",
        fields: str = "",
        packing: str = ".xz",
    ) -> bytes:
        """A package; ``files`` may be its data tar itself."""
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{fields}Description: x\n y\n"
        )
        data = files if isinstance(files, bytes) else cls.files(files, links)
        return cls.ar(
            [
                ("debian-binary", b"2.0\n"),
                (f"control.tar{packing}", PACK[packing](cls.files({"control": control.encode()}))),
                (f"data.tar{packing}", PACK[packing](data)),
            ]
        )


@pytest.fixture(scope="session")
def debs() -> type[Debs]:
    return Debs


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


BASE = """
[base]
lock = "base.lock"
architecture = "amd64"
packages = [
    { name = "gramine", archive = "gramine" },
    { name = "libdemo1", archive = "debian-security" },
    { name = "pydemo", archive = "debian" },
]
files = [
    { to = "usr/bin/python3", package = "pydemo", from = "usr/bin/python3" },
    { to = "lib/libdemo.so.1", package = "libdemo1", from = "lib/libdemo.so.1" },
]
[base.zip]
to = "usr/lib/python3.zip"
from = [{ package = "pydemo", from = "usr/lib/python3" }, { package = "libdemo1", from = "usr/lib/python3" }]
exclude = ["test/", "turtle.py", "sub/left.py"]
[base.libraries]
libpal = { package = "gramine", from = "usr/lib/gramine/sgx/libpal.so" }
libsysdb = { package = "gramine", from = "usr/lib/gramine/libsysdb.so" }
"""
SNAPSHOT_TIME = "20261120T000000Z"


@dataclass(frozen=True)
class Based:
    """A workshop whose recipe has a base layer, locked, and the pool of the layer's packages."""

    recipe: Path
    source: Path
    wheels: Path
    pool: Path
    libpal: bytes


def make_pool(folder: Path, libpal: bytes) -> None:
    """Write the packages of ``BASE``, and one that the recipe does not want."""
    packages = {
        "pydemo_1%3a3.11-1_amd64.deb": Debs.make(
            "pydemo",
            {
                "usr/bin/python3": b"the interpreter",
                "usr/lib/python3/os.py": b"import sys\n",
                "usr/lib/python3/sub/kept.py": b"",
                "usr/lib/python3/sub/left.py": b"left out by path",
                "usr/lib/python3/test/x.py": b"left out with its folder",
                "usr/lib/python3/turtle.py": b"left out by name",
                "usr/lib/python3/notes.txt": b"no source",
            },
            version="1:3.11-1",
        ),
        "libdemo1_1.2-1_all.deb": Debs.make(
            "libdemo1",
            {"lib/libdemo.so.1.2": b"the library", "usr/lib/python3/demo.py": b"D = 1\n"},
            links={"lib/libdemo.so.1": "libdemo.so.1.2"},
            version="1.2-1",
            architecture="all",
            fields="Source: demo (1.2)\n",
            packing=".gz",
        ),
        "gramine_1.9_amd64.deb": Debs.make(
            "gramine",
            {"usr/lib/gramine/sgx/libpal.so": libpal, "usr/lib/gramine/libsysdb.so": libpal + b"sysdb"},
            version="1.9",
        ),
        "stranger_1.0-1_amd64.deb": b"not even a package",
    }
    folder.mkdir(parents=True)
    for name, data in packages.items():
        (folder / name).write_bytes(data)


def make_based(root: Path, elf: Callable[..., bytes]) -> Based:
    """A recipe with a base layer; its lock is made by the program itself."""
    plain = make_workshop(root, elf)
    libpal = (plain.recipe / "lib.so").read_bytes()
    (plain.recipe / "lib.so").unlink()
    make_pool(root / "pool", libpal)
    recipe = RECIPE.replace("\n[inputs]", BASE + "\n[inputs]", 1)
    (plain.recipe / "recipe.toml").write_text(recipe)
    lock = (plain.recipe / "recipe.lock").read_text()
    (plain.recipe / "recipe.lock").write_text("format = 1\n\n" + lock[lock.index("[[wheel]]") :])
    made = ["base", "lock", str(plain.recipe), "--pool", str(root / "pool"), "--snapshot", SNAPSHOT_TIME]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*made]) == 0
    return Based(plain.recipe, plain.source, plain.wheels, root / "pool", libpal)


@pytest.fixture
def based(tmp_path: Path, elf: Callable[..., bytes]) -> Based:
    return make_based(tmp_path / "based", elf)


@pytest.fixture(scope="session")
def snapshot_time() -> str:
    return SNAPSHOT_TIME
