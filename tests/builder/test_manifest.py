"""Manifests: the canonical text is a fixed point, and every default is spelled."""

import tomllib

import pytest
import tomli_w

from assay.attest.gramine.options import parse_options
from assay.builder.lint import lint
from assay.builder.manifest import format_manifest, read_canonical
from assay.builder.recipe import load_recipe
from assay.tlog.errors import MalformedError

TRUSTED = {"rootfs/app/main.py": bytes(32), 'rootfs/app/ü "q".py': bytes([1]) * 32}

GRAMINES_DEFAULTS = {
    "trusted_files", "max_threads", "isvprodid", "isvsvn", "remote_attestation", "debug", "enable_stats",
    "edmm_enable", "enclave_size", "use_exinfo", "cpu_features",
}  # fmt: skip


@pytest.fixture
def text(workshop):
    return format_manifest(load_recipe(workshop.recipe), TRUSTED, bytes([2]) * 32).decode()


def test_the_text_is_its_own_serialisation(text):
    assert tomli_w.dumps(tomllib.loads(text)) == text


def test_every_default_of_gramines_is_spelled(text):
    table = tomllib.loads(text)
    assert table["sgx"].keys() >= GRAMINES_DEFAULTS
    assert table["sgx"]["cpu_features"].keys() == {"avx", "avx512", "amx", "mpx", "pkru"}
    assert table["loader"]["entrypoint"] == {"uri": "file:rt/libsysdb.so", "sha256": "02" * 32}
    assert table["fs"]["root"] == {"type": "tmpfs"}


def test_the_recipe_decides_options_and_process(text):
    table = tomllib.loads(text)
    assert parse_options(text.encode()).enclave_size == 64 << 20
    assert (table["sgx"]["isvprodid"], table["sgx"]["isvsvn"], table["sgx"]["max_threads"]) == (7, 3, 4)
    assert table["sgx"]["remote_attestation"] == "dcap"
    assert table["loader"]["argv"] == ["python3", "/app/main.py"]
    assert table["loader"]["env"] == {"LANG": "C.UTF-8"}
    assert table["fs"]["mounts"][1] == {
        "type": "encrypted",
        "path": "/state",
        "uri": "file:state",
        "key_name": "_sgx_mrenclave",
    }


def test_trusted_files_keep_their_order_and_have_digests(text):
    trusted = tomllib.loads(text)["sgx"]["trusted_files"]
    assert trusted == [{"uri": f"file:{path}", "sha256": digest.hex()} for path, digest in TRUSTED.items()]


def test_what_is_written_is_canonical_and_secure(text):
    read_canonical(text.encode())
    assert lint(text.encode(), {}).findings == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[libos]", "# comment\n[libos]"),
        ("[libos]", "\n[libos]"),
        ("max_threads = 4", "max_threads  = 4"),
        ("max_threads = 4", "max_threads = 0x4"),
        ("max_threads = 4", "max_threads = 4 # four"),
        ('entrypoint = "/app/main.py"', "entrypoint = '/app/main.py'"),
        ("debug = false\n", ""),
        ("enable_stats = false\n", ""),
        ('pkru = "disabled"\n', ""),
        ("\n", "\r\n"),
        ('"C.UTF-8"', '"C.UTF\\u002d8"'),
    ],
    ids=repr,
)
def test_any_other_text_of_the_same_content_is_refused(text, old, new):
    assert old in text
    with pytest.raises(MalformedError) as refusal:
        read_canonical(text.replace(old, new).encode())
    assert refusal.value.code == "not-canonical"


@pytest.mark.parametrize("mark", ["{{ x }}", "{% x %}", "{# x #}"])
def test_what_gramine_would_read_as_a_template_is_refused(text, mark):
    with pytest.raises(MalformedError) as refusal:
        read_canonical(text.replace('"C.UTF-8"', f'"{mark}"').encode())
    assert refusal.value.code == "not-canonical"


@pytest.mark.parametrize("digest", ["00" * 31, "AA" * 32, "", "zz" * 32])
def test_a_trusted_file_needs_a_lower_case_sha256(text, digest):
    with pytest.raises(MalformedError):
        read_canonical(text.replace("00" * 32, digest).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f'[loader.entrypoint]\nuri = "file:rt/libsysdb.so"\nsha256 = "{"02" * 32}"\n\n', ""),
        (f'sha256 = "{"02" * 32}"\n', ""),
        ('uri = "file:rt/libsysdb.so"', 'uri = "rt/libsysdb.so"'),
        ('uri = "file:rootfs/app/main.py"', 'uri = "dev:rootfs"'),
        (f'uri = "file:rootfs/app/main.py"\nsha256 = "{"00" * 32}"\n', 'uri = "file:rootfs/app/main.py"\n'),
    ],
    ids=range(5),
)
def test_files_without_a_digest_are_refused(text, old, new):
    assert old in text
    with pytest.raises(MalformedError):
        read_canonical(text.replace(old, new).encode())


def test_a_bare_trusted_uri_is_refused(text):
    table = tomllib.loads(text)
    table["sgx"]["trusted_files"] = ["file:rootfs/app/main.py"]
    with pytest.raises(MalformedError, match="not a list"):
        read_canonical(tomli_w.dumps(table).encode())
