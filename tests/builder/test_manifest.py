"""Manifests: the canonical text is a fixed point, every default is spelled, and insecure options are named."""

import tomllib

import pytest
import tomli_w

from assay.attest.gramine.options import parse_options
from assay.builder.manifest import format_manifest, insecure_options, read_canonical
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
    assert insecure_options(read_canonical(text.encode())) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[libos]", "# comment\n[libos]"),
        ("[libos]", "\n[libos]"),
        ("max_threads = 4", "max_threads  = 4"),
        ("max_threads = 4", "max_threads = 0x4"),
        ("max_threads = 4", "max_threads = 4 # four"),
        ('entrypoint = "/usr/bin/python3"', "entrypoint = '/usr/bin/python3'"),
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


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"loader": {"insecure__use_cmdline_argv": True}}, "loader.insecure__use_cmdline_argv"),
        ({"loader": {"insecure__use_host_env": False}}, "loader.insecure__use_host_env"),
        ({"loader": {"argv_src_file": "file:argv"}}, "argv_src_file"),
        ({"loader": {"env_src_file": "file:env"}}, "env_src_file"),
        ({"loader": {"env": {"X": {"passthrough": True}}}}, "loader.env.X"),
        ({"loader": {"env": {"X": {"passthrough": True, "value": "1"}}}}, "loader.env.X"),
        ({"loader": {"log_level": "debug"}}, "log_level"),
        ({"sgx": {"debug": True}}, "sgx.debug"),
        ({"sgx": {"debug": 0}}, "sgx.debug"),
        ({"sgx": {"enable_stats": True}}, "enable_stats"),
        ({"sgx": {"allowed_files": ["file:tmp/"]}}, "allowed_files"),
        ({"sgx": {"file_check_policy": "allow_all_but_log"}}, "file_check_policy"),
        ({"sgx": {"remote_attestation": "none"}}, "remote_attestation"),
        ({"sgx": {"insecure__rpc_thread_num": 4}}, "insecure__rpc_thread_num"),
        ({"fs": {"insecure__keys": {"default": "00"}}}, "fs.insecure__keys"),
        ({"sys": {"insecure__allow_eventfd": True}}, "insecure__allow_eventfd"),
        ({"sys": {"experimental__enable_flock": True}}, "experimental__enable_flock"),
        ({"fs": {"mounts": [{"path": "/", "insecure__x": 1}]}}, "insecure__x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_insecure_options_are_named(text, change, finding):
    table = tomllib.loads(text)
    for name, members in change.items():
        table[name] = {**table.get(name, {}), **members}
    assert [line for line in insecure_options(table) if finding in line]


@pytest.mark.parametrize("value", ["v", {"value": "v"}], ids=str)
def test_literal_environment_is_no_finding(text, value):
    table = tomllib.loads(text)
    table["loader"]["env"]["X"] = value
    assert insecure_options(table) == []


@pytest.mark.parametrize("table", [{"sgx": 1}, {"loader": []}, {"loader": {"env": "x"}}], ids=str)
def test_the_linter_refuses_what_is_no_manifest(table):
    with pytest.raises(MalformedError):
        insecure_options(table)
