"""What tests of several folders use: where the shared vectors are, and Gramine's vectors and small images."""

import base64
import importlib.util
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

GRAMINE_VECTORS = Path(__file__).parent / "vectors" / "gramine"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of third-party vectors, named by ASSAY_VECTORS; skips when it is not set.

    With ASSAY_REQUIRE_VECTORS=1 (as CI sets it) their absence is a failure, not a skip.
    """
    folder = os.environ.get("ASSAY_VECTORS")
    if folder and Path(folder).is_dir():
        return Path(folder)
    reason = "ASSAY_VECTORS does not name a folder of vectors"
    if os.environ.get("ASSAY_REQUIRE_VECTORS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def sigstore_instance() -> ModuleType:
    """The module with a private Sigstore instance, which gives no independence."""
    path = Path(__file__).with_name("sigstore_instance.py")
    spec = importlib.util.spec_from_file_location("sigstore_instance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def npm() -> Callable[..., tuple[int, str, str]]:
    """Runs sigstore_npm.js with the packages of ASSAY_NPM (tests/log_server/README.md)."""
    folder = os.environ.get("ASSAY_NPM")
    node = shutil.which("node")
    if node is None or not folder or not (Path(folder) / "node_modules/@sigstore/sign").is_dir():
        pytest.skip("node, or a folder ASSAY_NPM with @sigstore/sign and @sigstore/verify, is not there")

    def run(*arguments: str, **values: object) -> tuple[int, str, str]:
        result = subprocess.run(
            [node, str(Path(__file__).with_name("sigstore_npm.js")), *arguments],
            input=json.dumps(values).encode(),
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "NODE_PATH": str(Path(folder) / "node_modules")},
        )
        return result.returncode, result.stdout.decode(), result.stderr.decode()

    return run


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
