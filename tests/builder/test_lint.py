"""The linter: every rule fires on what it is about and on nothing else, and nothing is allowed without a reason."""

import copy
import re
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.gramine.options import parse_manifest
from assay.attest.lint import parse_lint
from assay.builder.lint import find, lint, require_clean
from assay.builder.lint_rules import RULES
from assay.builder.manifest import format_manifest
from assay.builder.recipe import load_recipe
from assay.tlog.errors import MalformedError, UntrustedError

TRUSTED = {"rootfs/app/main.py": bytes(32), "rootfs/app/pkg/a.py": bytes([1]) * 32}
DIGEST = "ab" * 32
APP = {"path": "/app", "uri": "file:rootfs/app"}
STATE = {"type": "encrypted", "path": "/state", "uri": "file:state", "key_name": "_sgx_mrenclave"}
FIRST = {"uri": "file:rootfs/app/main.py", "sha256": "00" * 32}


@pytest.fixture
def table(workshop):
    text = format_manifest(load_recipe(workshop.recipe), TRUSTED, bytes([2]) * 32)
    return tomllib.loads(text.decode())


def put(table, path, value):
    """The manifest with one member replaced; a value of None removes it."""
    table = copy.deepcopy(table)
    *parents, name = path.split(".")
    inner = table
    for parent in parents:
        inner = inner.setdefault(parent, {})
    if value is None:
        del inner[name]
    else:
        inner[name] = value
    return table


def mounts(*more):
    return [APP, STATE, *more]


def trusted(*more):
    return [FIRST, *more]


BROKEN = [
    ("debug", "sgx.debug", True, "sgx.debug"),
    ("debug", "sgx.debug", 0, "sgx.debug"),
    ("debug", "sgx.debug", "false", "sgx.debug"),
    ("cmdline-argv", "loader.insecure__use_cmdline_argv", True, "loader.insecure__use_cmdline_argv"),
    ("host-env", "loader.insecure__use_host_env", True, "loader.insecure__use_host_env"),
    ("host-env", "loader.insecure__use_host_env", False, "loader.insecure__use_host_env"),
    ("manifest-keys", "fs.insecure__keys", {"default": "00"}, "fs.insecure__keys"),
    ("insecure-option", "sys.insecure__allow_eventfd", True, "sys.insecure__allow_eventfd"),
    ("insecure-option", "sgx.insecure__rpc_thread_num", 4, "sgx.insecure__rpc_thread_num"),
    (
        "insecure-option",
        "sgx.insecure__allow_memfaults_without_exinfo",
        True,
        "sgx.insecure__allow_memfaults_without_exinfo",
    ),
    ("insecure-option", "fs.mounts", [{**APP, "insecure__x": 1}, STATE], "fs.mounts[0].insecure__x"),
    ("insecure-option", "insecure__top", 1, "insecure__top"),
    ("experimental-option", "sys.experimental__enable_flock", True, "sys.experimental__enable_flock"),
    (
        "experimental-option",
        "fs.mounts",
        [APP, {**STATE, "experimental__y": 1}],
        "fs.mounts[1].experimental__y",
    ),
    ("unreviewed-option", "sgx.vtune_profile", True, "sgx.vtune_profile"),
    ("unreviewed-option", "loader.log_file", "log", "loader.log_file"),
    ("unreviewed-option", "fs.mount", {"a": {}}, "fs.mount"),
    ("unreviewed-option", "extra", 1, "extra"),
    ("unreviewed-option", "libos.x", 1, "libos.x"),
    ("unreviewed-option", "sys.x", 1, "sys.x"),
    ("unreviewed-option", "fs.root", {"type": "tmpfs", "x": 1}, "fs.root"),
    ("unreviewed-option", "fs.mounts", [APP, {**STATE, "enable_recovery": True}], "fs.mounts[1]"),
    ("argv-src-file", "loader.argv_src_file", "file:argv", "loader.argv_src_file"),
    ("env-src-file", "loader.env_src_file", "file:env", "loader.env_src_file"),
    ("env-passthrough", "loader.env.X", {"passthrough": True}, "loader.env.X"),
    ("env-passthrough", "loader.env.X", {"passthrough": True, "value": "1"}, "loader.env.X"),
    ("env-passthrough", "loader.env.X", {"passthrough": False}, "loader.env.X"),
    ("env-passthrough", "loader.env.X", {"value": 1}, "loader.env.X"),
    ("env-passthrough", "loader.env.X", 1, "loader.env.X"),
    ("log-level", "loader.log_level", "warning", "loader.log_level"),
    ("log-level", "loader.log_level", "all", "loader.log_level"),
    ("log-level", "loader.log_level", 1, "loader.log_level"),
    ("allowed-files", "sgx.allowed_files", ["file:tmp/x"], "sgx.allowed_files[0]"),
    ("file-check-policy", "sgx.file_check_policy", "allow_all_but_log", "sgx.file_check_policy"),
    ("file-check-policy", "sgx.file_check_policy", True, "sgx.file_check_policy"),
    ("unpinned-file", "sgx.trusted_files", trusted("file:rootfs/x"), "sgx.trusted_files[1]"),
    ("unpinned-file", "sgx.trusted_files", trusted({"uri": "file:rootfs/x"}), "sgx.trusted_files[1]"),
    (
        "unpinned-file",
        "sgx.trusted_files",
        trusted({"uri": "file:rootfs/x", "sha256": DIGEST.upper()}),
        "sgx.trusted_files[1]",
    ),
    (
        "unpinned-file",
        "sgx.trusted_files",
        trusted({"uri": "file:rootfs/x", "sha256": DIGEST[:-2]}),
        "sgx.trusted_files[1]",
    ),
    ("trusted-directory", "sgx.trusted_files", trusted("file:rootfs/app/"), "sgx.trusted_files[1]"),
    (
        "trusted-directory",
        "sgx.trusted_files",
        trusted({"uri": "file:rootfs/", "sha256": DIGEST}),
        "sgx.trusted_files[1]",
    ),
    ("duplicate-file", "sgx.trusted_files", trusted({**FIRST, "sha256": DIGEST}), "sgx.trusted_files[1]"),
    ("duplicate-file", "sgx.trusted_files", trusted(FIRST), "sgx.trusted_files[1]"),
    ("entrypoint-unpinned", "loader.entrypoint", None, "loader.entrypoint"),
    ("entrypoint-unpinned", "loader.entrypoint", "file:rt/libsysdb.so", "loader.entrypoint"),
    ("entrypoint-unpinned", "loader.entrypoint", {"uri": "file:rt/libsysdb.so"}, "loader.entrypoint"),
    ("entrypoint-unpinned", "loader.entrypoint", {"uri": "file:rt/x", "sha256": "00"}, "loader.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "/usr/bin/python3", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "/app/other.py", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "/app", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "/state/main.py", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "app/main.py", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "file:rootfs/app/main.py", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", "/app/../main.py", "libos.entrypoint"),
    ("entrypoint-unverified", "libos.entrypoint", 1, "libos.entrypoint"),
    (
        "non-relative-uri",
        "sgx.trusted_files",
        trusted({"uri": "file:/usr/lib/x", "sha256": DIGEST}),
        "sgx.trusted_files[1]",
    ),
    (
        "non-relative-uri",
        "sgx.trusted_files",
        trusted({"uri": "file:rootfs/../../x", "sha256": DIGEST}),
        "sgx.trusted_files[1]",
    ),
    (
        "non-relative-uri",
        "sgx.trusted_files",
        trusted({"uri": "rootfs/x", "sha256": DIGEST}),
        "sgx.trusted_files[1]",
    ),
    (
        "non-relative-uri",
        "loader.entrypoint",
        {"uri": "file:/usr/lib/libsysdb.so", "sha256": DIGEST},
        "loader.entrypoint",
    ),
    ("non-relative-uri", "fs.mounts", [APP, {**STATE, "uri": "file:/data/state"}], "fs.mounts[1]"),
    ("non-relative-uri", "fs.mounts", mounts({"path": "/dev/tty", "uri": "dev:tty"}), "fs.mounts[2]"),
    ("root-default", "fs.root", None, "fs.root"),
    ("root-default", "fs.root", {"uri": "file:."}, "fs.root"),
    ("root-default", "fs.root", {"type": "chroot", "uri": "file:rootfs"}, "fs.root"),
    ("host-root-mount", "fs.mounts", mounts({"path": "/h", "uri": "file:/"}), "fs.mounts[2]"),
    ("host-root-mount", "fs.mounts", mounts({"path": "/h", "uri": "file://"}), "fs.mounts[2]"),
    ("host-root-mount", "fs.mounts", mounts({"path": "/h", "uri": "file:."}), "fs.mounts[2]"),
    ("host-root-mount", "fs.mounts", mounts({"path": "/h", "uri": "file:"}), "fs.mounts[2]"),
    ("host-root-mount", "fs.mounts", mounts({"path": "/h", "uri": "file:a/../.."}), "fs.mounts[2]"),
    ("unverified-mount", "fs.mounts", mounts({"path": "/tmp", "uri": "file:tmp"}), "fs.mounts[2]"),
    ("unverified-mount", "fs.mounts", mounts({"path": "/x", "uri": "file:rootfs/ap"}), "fs.mounts[2]"),
    (
        "unverified-mount",
        "fs.mounts",
        mounts({"type": "chroot", "path": "/t", "uri": "file:t"}),
        "fs.mounts[2]",
    ),
    ("hidden-mount", "fs.mounts", mounts({"type": "tmpfs", "path": "/app"}), "fs.mounts[0]"),
    ("hidden-mount", "fs.mounts", mounts({"type": "tmpfs", "path": "/"}), "fs.mounts[1]"),
    ("hidden-mount", "fs.mounts", mounts({"type": "tmpfs", "path": "//app/"}), "fs.mounts[0]"),
    (
        "mount-type",
        "fs.mounts",
        mounts({"type": "untrusted_shm", "path": "/s", "uri": "dev:s"}),
        "fs.mounts[2]",
    ),
    ("mount-type", "fs.root", {"type": "other"}, "fs.root"),
    ("mount-path", "fs.mounts", mounts({"type": "tmpfs", "path": "tmp"}), "fs.mounts[2]"),
    ("mount-path", "fs.mounts", mounts({"type": "tmpfs"}), "fs.mounts[2]"),
    ("mount-path", "fs.mounts", mounts({"type": "tmpfs", "path": "/a/../b"}), "fs.mounts[2]"),
    ("mount-path", "fs.mounts", [APP, {"type": "encrypted", "path": "/s"}], "fs.mounts[1]"),
    ("encrypted-key", "fs.mounts", [APP, {**STATE, "key_name": "default"}], "fs.mounts[1]"),
    ("encrypted-key", "fs.mounts", [APP, {**STATE, "key_name": "_sgx_mrsigner"}], "fs.mounts[1]"),
    (
        "encrypted-key",
        "fs.mounts",
        [APP, {k: v for k, v in STATE.items() if k != "key_name"}],
        "fs.mounts[1]",
    ),
    ("encrypted-key", "fs.root", {"type": "encrypted", "uri": "file:r"}, "fs.root"),
    ("protected-files", "sgx.protected_files", ["file:x"], "sgx.protected_files"),
    ("protected-files", "sgx.protected_mrsigner_files", ["file:x"], "sgx.protected_mrsigner_files"),
    ("seal-key", "sgx.seal_key", {"flags_mask": "0x0"}, "sgx.seal_key"),
    ("remote-attestation", "sgx.remote_attestation", "none", "sgx.remote_attestation"),
    ("remote-attestation", "sgx.remote_attestation", "epid", "sgx.remote_attestation"),
    ("remote-attestation", "sgx.remote_attestation", None, "sgx.remote_attestation"),
    ("few-threads", "sgx.max_threads", 3, "sgx.max_threads"),
    ("few-threads", "sgx.max_threads", 1, "sgx.max_threads"),
    ("max-threads", "sgx.max_threads", 0, "sgx.max_threads"),
    ("max-threads", "sgx.max_threads", 4097, "sgx.max_threads"),
    ("max-threads", "sgx.max_threads", None, "sgx.max_threads"),
    ("enclave-size", "sgx.enclave_size", "96M", "sgx.enclave_size"),
    ("enclave-size", "sgx.enclave_size", "64m", "sgx.enclave_size"),
    ("enclave-size", "sgx.enclave_size", "0x4000000", "sgx.enclave_size"),
    ("enclave-size", "sgx.enclave_size", "2048G", "sgx.enclave_size"),
    ("enclave-size", "sgx.enclave_size", None, "sgx.enclave_size"),
    ("enable-stats", "sgx.enable_stats", True, "sgx.enable_stats"),
    ("use-exinfo", "sgx.use_exinfo", False, "sgx.use_exinfo"),
    ("use-exinfo", "sgx.use_exinfo", None, "sgx.use_exinfo"),
    (
        "host-names",
        "sys.enable_extra_runtime_domain_names_conf",
        True,
        "sys.enable_extra_runtime_domain_names_conf",
    ),
    ("sigterm-injection", "sys.enable_sigterm_injection", True, "sys.enable_sigterm_injection"),
    ("missing-option", "fs.mounts", None, "fs.mounts"),
    ("missing-option", "libos.entrypoint", None, "libos.entrypoint"),
    ("missing-default", "sgx.debug", None, "sgx.debug"),
    ("missing-default", "sgx.isvsvn", None, "sgx.isvsvn"),
    ("missing-default", "sgx.cpu_features.amx", None, "sgx.cpu_features.amx"),
]


def broken(table, path, value):
    return lint(tomli_w.dumps(put(table, path, value)).encode(), {}).findings


@pytest.mark.parametrize(
    ("rule", "path", "value", "where"), BROKEN, ids=[f"{n}-{case[0]}" for n, case in enumerate(BROKEN)]
)
def test_a_broken_rule_is_named_with_its_place(table, rule, path, value, where):
    assert (rule, where) in [(item.rule.name, item.where) for item in broken(table, path, value)]


def test_a_mount_that_holds_allowed_files_is_writable_by_the_host(table):
    changed = put(table, "sgx.allowed_files", ["file:rootfs/app/log/"])
    found = {(item.rule.name, item.where) for item in find(changed)}
    assert ("host-writable-mount", "fs.mounts[0]") in found
    elsewhere = put(table, "sgx.allowed_files", ["file:rootfs/apple"])
    assert "host-writable-mount" not in {item.rule.name for item in find(elsewhere)}


@pytest.mark.parametrize(
    ("old", "new"),
    [("[libos]", "# why\n[libos]"), ("debug = false", "debug  = false"), ("\n", "\r\n")],
    ids=repr,
)
def test_another_text_of_the_same_content_is_not_canonical(table, old, new):
    text = tomli_w.dumps(table).replace(old, new).encode()
    assert [item.rule.name for item in lint(text, {}).findings] == ["not-canonical"]


def test_every_rule_has_a_case():
    elsewhere = {"host-writable-mount", "not-canonical"}
    assert {case[0] for case in BROKEN} | elsewhere == set(RULES)


def test_every_rule_says_why_and_what_to_do():
    for name, rule in RULES.items():
        assert name == rule.name
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert len(rule.why) > 30
        assert len(rule.fix) > 10


def test_every_rule_is_documented(repository):
    text = (repository / "docs" / "lint.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == list(RULES)


def test_what_the_builder_writes_is_clean(table):
    linted = lint(tomli_w.dumps(table).encode(), {})
    assert (linted.findings, linted.allowed) == ((), ())
    assert require_clean(linted) == linted.result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loader.env.X", "v"),
        ("loader.env.X", {"value": "v"}),
        ("loader.env.insecure__is_a_name_like_another", "v"),
        ("loader.log_level", "none"),
        ("sgx.file_check_policy", "strict"),
        ("sgx.allowed_files", []),
        ("sgx.max_threads", 4),
        ("sgx.enclave_size", "1024G"),
        ("sys.enable_sigterm_injection", False),
        ("sys.enable_extra_runtime_domain_names_conf", False),
        ("sys.stack", {"size": "2M"}),
        ("sys.brk", {"max_size": "1M"}),
        ("fs.start_dir", "/app"),
        ("fs.mounts", mounts({"type": "tmpfs", "path": "/tmp"})),
        ("fs.mounts", mounts({"type": "tmpfs", "path": "/app/cache"})),
        ("fs.mounts", mounts({"type": "tmpfs", "path": "/apple"})),
        ("fs.mounts", [{"path": "/app/main.py", "uri": "file:rootfs/app/main.py"}]),
        ("fs.root", {"type": "encrypted", "uri": "file:r", "key_name": "_sgx_mrenclave"}),
        ("libos.entrypoint", "/app/pkg/a.py"),
        ("libos.entrypoint", "//app//main.py"),
        ("sgx.trusted_files", trusted({"uri": "file:rootfs/app/..x", "sha256": DIGEST})),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_harmless_is_no_finding(table, path, value):
    assert broken(table, path, value) == ()


def test_a_deeper_mount_hides_what_the_entry_point_was(table):
    over = put(table, "fs.mounts", mounts({"path": "/app/main.py", "uri": "file:rootfs/app/pkg"}))
    assert "entrypoint-unverified" in {item.rule.name for item in find(over)}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sgx", 1),
        ("loader", []),
        ("fs", "x"),
        ("sys", 1),
        ("libos", 1),
        ("loader.env", "x"),
        ("fs.mounts", {"a": {}}),
        ("fs.mounts", ["x"]),
        ("fs.mounts", [{"path": 1}]),
        ("fs.mounts", [{**STATE, "key_name": 1}]),
        ("fs.root", "tmpfs"),
        ("sgx.trusted_files", [1]),
        ("sgx.trusted_files", [{"sha256": DIGEST}]),
        ("sgx.trusted_files", 1),
        ("sgx.allowed_files", "file:x"),
        ("sgx.allowed_files", [1]),
        ("sgx.cpu_features", 1),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_manifest_is_refused(table, path, value):
    with pytest.raises(MalformedError):
        broken(table, path, value)


def test_a_reason_lets_all_findings_of_its_rule_pass_and_is_published(table):
    text = tomli_w.dumps(put(table, "loader.env", {"A": {"passthrough": True}, "B": 1})).encode()
    linted = lint(text, {"env-passthrough": "the host names the region"})
    assert linted.findings == ()
    assert [item.where for item in linted.allowed] == ["loader.env.B", "loader.env.A"]
    assert require_clean(linted).to_json() == {
        "allowed": [
            {
                "count": 2,
                "reason": "the host names the region",
                "rule": "env-passthrough",
                "where": ["loader.env.B", "loader.env.A"],
            }
        ],
        "findings": [],
        "linter": "urn:assay:lint:v1",
    }


def test_what_is_not_allowed_is_refused_with_its_place(table):
    text = tomli_w.dumps(put(put(table, "loader.env.A", 1), "sgx.debug", True)).encode()
    with pytest.raises(UntrustedError, match=r"sgx\.debug") as refusal:
        require_clean(lint(text, {"env-passthrough": "why not"}))
    assert refusal.value.code == "insecure-manifest"
    assert "loader.env.A" not in str(refusal.value)


@pytest.mark.parametrize(
    ("allowances", "code"),
    [
        ({"nonsense": "because"}, "unknown-rule"),
        ({"debug": ""}, "no-reason"),
        ({"debug": " "}, "no-reason"),
        ({"debug": "two\nlines"}, "no-reason"),
        ({"debug": " padded"}, "no-reason"),
        ({"debug": "x" * 513}, "no-reason"),
        ({"debug": "right to left \u202e"}, "no-reason"),
        ({"debug": "nothing is wrong"}, "unused-allowance"),
        ({"enclave-size": "because"}, "not-allowable"),
        ({"max-threads": "because"}, "not-allowable"),
        ({"enable-stats": "because"}, "not-allowable"),
    ],
    ids=str,
)
def test_allowances_that_allow_nothing_or_say_nothing_are_refused(table, allowances, code):
    with pytest.raises(MalformedError) as refusal:
        lint(tomli_w.dumps(table).encode(), allowances)
    assert refusal.value.code == code


NAMES = st.sampled_from(
    [
        "sgx",
        "fs",
        "loader",
        "libos",
        "sys",
        "mounts",
        "root",
        "env",
        "entrypoint",
        "trusted_files",
        "uri",
        "path",
    ]
)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(max_size=8), inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_toml_is_linted_or_refused_and_what_is_said_of_it_can_be_published(table):
    text = tomli_w.dumps({"sgx": {}, **table}).encode()
    try:
        linted = lint(text, {})
    except MalformedError:
        return
    assert linted.findings
    assert all(item.where.isprintable() and item.what.isprintable() for item in linted.findings)
    assert parse_lint(linted.result.to_json(), what="lint") == linted.result


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_are_toml(data):
    try:
        parse_manifest(data)
        lint(data, {})
    except MalformedError:
        return
    tomllib.loads(data.decode())
