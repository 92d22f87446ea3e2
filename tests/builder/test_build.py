"""Builds: the same inputs give the same bytes anywhere, and any other byte gives another measurement."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib

import pytest
import rfc8785

from assay.attest.gramine.measure import measure
from assay.attest.gramine.sigstruct import verify_sigstruct
from assay.attest.statement import Statement, parse_statement, release_subjects
from assay.builder import tree
from assay.builder.build import build, prepare
from assay.builder.compose import MAX_INPUT_SIZE, Inputs
from assay.builder.output import load_build
from assay.builder.publish import ReleaseTerms, release_of
from assay.builder.sigstruct_signing import key_signing
from assay.builder.wheels import wheel_finder
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError

TERMS = ReleaseTerms(
    advisories=(),
    valid_from_ms=1,
    valid_until_ms=None,
    effective_after_ms=1,
    supersedes=None,
    source_commit=None,
)


@pytest.fixture
def inputs(log_policy, ca_pem):
    return Inputs(log_policy, ca_pem)


def prepared(workshop, inputs, **options):
    return prepare(
        workshop.recipe,
        workshop.source,
        inputs,
        find_wheels=wheel_finder(workshop.wheels),
        report=lambda line: None,
        **options,
    )


def test_the_tree_holds_what_the_recipe_chose(workshop, inputs):
    built = prepared(workshop, inputs)
    assert [path for path in built.files if path.startswith("rootfs/")] == [
        "rootfs/app/llm-ca.pem",
        "rootfs/app/log-policy.txt",
        "rootfs/app/main.py",
        "rootfs/app/packages/demo_pkg/__init__.py",
        "rootfs/app/packages/demo_pkg-1.0.dist-info/METADATA",
        "rootfs/app/packages/demo_pkg-1.0.dist-info/WHEEL",
        "rootfs/app/pkg/__init__.py",
        "rootfs/app/pkg/a/x.py",
        "rootfs/app/pkg/a-b.py",
        "rootfs/app/pkg/a.py",
        "rootfs/app/top.py",
    ]


def test_the_inputs_go_in_byte_for_byte_and_into_the_record(workshop, inputs):
    built = prepared(workshop, inputs)
    assert built.files["rootfs/app/log-policy.txt"] == inputs.log_policy
    assert built.files["rootfs/app/llm-ca.pem"] == inputs.ca
    record = json.loads(built.files["build.json"])
    assert record["inputs"] == {"ca": inputs.ca.decode(), "log_policy": inputs.log_policy.decode()}


def test_the_manifest_trusts_exactly_the_tree(workshop, inputs):
    built = prepared(workshop, inputs)
    trusted = tomllib.loads(built.files["tiny.manifest.sgx"].decode())["sgx"]["trusted_files"]
    on_disk = {path: data for path, data in built.files.items() if path.startswith("rootfs/")}
    assert [item["uri"] for item in trusted] == [f"file:{path}" for path in on_disk]
    assert [item["sha256"] for item in trusted] == [hashlib.sha256(d).hexdigest() for d in on_disk.values()]


def test_the_record_says_what_was_measured(workshop, inputs):
    built = prepared(workshop, inputs)
    record = built.record
    manifest, libpal = built.files["tiny.manifest.sgx"], built.files["libpal.so"]
    assert record.mr_enclave == measure(manifest, libpal).mr_enclave
    assert record.manifest_sha256 == hashlib.sha256(manifest).digest()
    assert record.libpal_sha256 == record.libsysdb_sha256 == hashlib.sha256(libpal).digest()
    assert (record.isv_prod_id, record.isv_svn, record.attribute_flags, record.misc_select) == (7, 3, 4, 1)
    assert (record.enclave_size, record.threads, record.edmm, record.mr_signer) == (64 << 20, 4, True, None)
    listing = "".join(f"{digest.hex()}  {path}\n" for path, digest in record.trusted_files.items())
    assert record.trusted_files_sha256 == hashlib.sha256(listing.encode()).digest()


def test_the_source_digest_is_over_the_measured_sources_only(workshop, inputs):
    names = ["lib/__init__.py", "lib/a/x.py", "lib/a-b.py", "lib/a.py", "top.py"]
    listing = tree.digest_list({name: (workshop.source / name).read_bytes() for name in names})
    assert prepared(workshop, inputs).record.source_sha256 == hashlib.sha256(listing).digest()


LEFT_OUT = [
    "lib/cli.py",
    "lib/a/cli.py",
    "lib/out.py",
    "lib/left/y.py",
    "lib/notes.txt",
    "other.py",
    "lib/x.pyc",
]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_the_recipe_leaves_out_changes_nothing(workshop, inputs, name):
    before = prepared(workshop, inputs)
    (workshop.source / name).write_bytes(b"changed")
    assert prepared(workshop, inputs).files == before.files


MEASURED = [
    *(
        "src/top.py",
        "src/lib/__init__.py",
        "src/lib/a/x.py",
        "src/lib/a-b.py",
        "src/lib/a.py",
        "recipe/main.py",
    ),
]


@pytest.mark.parametrize("name", MEASURED)
def test_changing_any_one_trusted_byte_changes_the_measurement(workshop, inputs, name):
    before = prepared(workshop, inputs).record
    path = workshop.recipe.parent / name
    data = path.read_bytes()
    path.write_bytes(data + b"#")
    after = prepared(workshop, inputs).record
    assert after.mr_enclave != before.mr_enclave
    assert after.tree_sha256 != before.tree_sha256
    path.write_bytes(data)
    assert prepared(workshop, inputs).record == before


def test_changing_an_input_changes_the_measurement(workshop, inputs, ca_pem):
    seen = {
        prepared(workshop, each).record.mr_enclave
        for each in (
            inputs,
            Inputs(inputs.log_policy + b"#\n", ca_pem),
            Inputs(inputs.log_policy, ca_pem + b"\n"),
        )
    }
    assert len(seen) == 3


def test_a_new_source_file_and_a_new_name_change_the_measurement(workshop, inputs):
    seen = [prepared(workshop, inputs).record.mr_enclave]
    (workshop.source / "lib" / "new.py").write_bytes(b"")
    seen.append(prepared(workshop, inputs).record.mr_enclave)
    (workshop.source / "lib" / "new.py").rename(workshop.source / "lib" / "newer.py")
    seen.append(prepared(workshop, inputs).record.mr_enclave)
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threads = 4", "threads = 5"),
        ('size = "64M"', 'size = "128M"'),
        ("isv_svn = 3", "isv_svn = 4"),
        ("edmm = true", "edmm = false"),
        ('"C.UTF-8"', '"C"'),
        ('to = "app/top.py"', 'to = "app/high.py"'),
    ],
)
def test_changing_an_option_changes_the_measurement(workshop, inputs, old, new):
    before = prepared(workshop, inputs).record.mr_enclave
    path = workshop.recipe / "recipe.toml"
    path.write_text(path.read_text().replace(old, new))
    assert prepared(workshop, inputs).record.mr_enclave != before


def test_the_epoch_changes_the_tree_but_not_the_measurement(workshop, inputs):
    before = prepared(workshop, inputs).record
    path = workshop.recipe / "recipe.toml"
    path.write_text(path.read_text().replace("1700000000", "1700000001"))
    after = prepared(workshop, inputs).record
    assert after.mr_enclave == before.mr_enclave
    assert after.tree_sha256 != before.tree_sha256


BUILD = """
import sys
from pathlib import Path
from assay.builder.build import build
from assay.builder.compose import Inputs
from assay.builder.wheels import wheel_finder
recipe, source, wheels, policy, ca, out = map(Path, sys.argv[1:])
build(recipe, source, Inputs(policy.read_bytes(), ca.read_bytes()), out,
      find_wheels=wheel_finder(wheels), report=lambda line: None)
"""


def build_elsewhere(root, workshop_maker, inputs, *, umask, reverse, environment):
    """Build in a process of its own, under another umask, folder, clock zone, home, hash seed and file order."""
    workshop = workshop_maker(root / "workshop", reverse=reverse)
    for name, data in (("policy", inputs.log_policy), ("ca", inputs.ca)):
        (root / name).write_bytes(data)
    home = root / "home"
    home.mkdir()
    out = root / "a build" / "out"
    subprocess.run(
        [
            sys.executable,
            "-c",
            BUILD,
            workshop.recipe,
            workshop.source,
            workshop.wheels,
            root / "policy",
            root / "ca",
            out,
        ],
        check=True,
        cwd=root if reverse else home,
        umask=umask,
        env={"HOME": str(home), "PATH": os.environ["PATH"], **environment},
        timeout=60,
    )
    return {
        path.relative_to(out).as_posix(): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [out, *out.rglob("*")]
    }


def test_two_builds_in_different_surroundings_are_byte_identical(tmp_path, workshop_maker, inputs):
    roots = [tmp_path / "one", tmp_path / "the other, ünlike"]
    for root in roots:
        root.mkdir()
    first = build_elsewhere(
        roots[0], workshop_maker, inputs, umask=0o22, reverse=False,
        environment={"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"},
    )  # fmt: skip
    time.sleep(0.01)
    second = build_elsewhere(
        roots[1], workshop_maker, inputs, umask=0o77, reverse=True,
        environment={
            "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "1", "PYTHONHASHSEED": "4242", "USER": "other",
            "SOURCE_DATE_EPOCH": "1",
        },
    )  # fmt: skip
    assert first == second
    assert len(first) > 20


def test_modes_and_times_of_the_sources_do_not_matter(workshop, inputs):
    before = prepared(workshop, inputs).files
    for path in workshop.source.rglob("*.py"):
        path.chmod(0o777)
        os.utime(path, (1, 1))
    assert prepared(workshop, inputs).files == before


def test_a_signing_key_adds_a_sigstruct_and_nothing_else(workshop, inputs, signing_key):
    plain = prepared(workshop, inputs)
    signed = prepared(workshop, inputs, signing=key_signing(signing_key))
    sigstruct = verify_sigstruct(signed.files["tiny.sig"])
    assert sigstruct.body.mr_enclave == plain.record.mr_enclave == signed.record.mr_enclave
    assert sigstruct.mr_signer == signed.record.mr_signer
    assert sigstruct.body.date == "0000-00-00"
    assert not sigstruct.body.debug_enclave
    changed = {name for name in signed.files if signed.files[name] != plain.files.get(name)}
    assert changed == {"tiny.sig", "build.json"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda w: (w.source / "top.py").unlink(), FileNotFoundError),
        (lambda w: shutil.rmtree(w.source / "lib"), LogError),
        (lambda w: shutil.rmtree(w.source / "lib" / "left"), MalformedError),
        (lambda w: (w.source / "lib" / "out.py").unlink(), MalformedError),
        (lambda w: (w.source / "lib" / "b.py").symlink_to("a.py"), MalformedError),
        (lambda w: (w.source / "lib" / "sub").symlink_to("a"), MalformedError),
        (lambda w: os.mkfifo(w.source / "lib" / "pipe.py"), MalformedError),
        (lambda w: (w.recipe / "main.py").unlink(), FileNotFoundError),
        (lambda w: (w.recipe / "lib.so").write_bytes(b"\x7fELF"), UntrustedError),
        (lambda w: (w.recipe / "lib.so").unlink(), FileNotFoundError),
        (lambda w: next(w.wheels.iterdir()).unlink(), UnavailableError),
        (lambda w: next(w.wheels.iterdir()).write_bytes(b"PK"), UntrustedError),
    ],
    ids=range(12),
)
def test_what_is_missing_changed_or_odd_stops_the_build(workshop, inputs, change, error):
    change(workshop)
    with pytest.raises(error):
        prepared(workshop, inputs)


@pytest.mark.parametrize("name", ["libpal", "libsysdb"])
def test_a_library_that_is_not_the_locked_one_is_refused(workshop, inputs, name):
    lock = workshop.recipe / "recipe.lock"
    (workshop.recipe / "own.so").write_bytes((workshop.recipe / "lib.so").read_bytes() + b"!")
    lock.write_text(lock.read_text().replace(f'[{name}]\nfile = "lib.so"', f'[{name}]\nfile = "own.so"'))
    with pytest.raises(UntrustedError) as refusal:
        prepared(workshop, inputs)
    assert refusal.value.code == "lock-mismatch"


def test_a_source_linked_as_a_whole_is_refused(workshop, inputs):
    (workshop.source / "lib").rename(workshop.source / "real")
    (workshop.source / "lib").symlink_to("real")
    with pytest.raises(MalformedError):
        prepared(workshop, inputs)


def test_a_file_that_collides_with_a_source_is_refused(workshop, inputs):
    path = workshop.recipe / "recipe.toml"
    path.write_text(path.read_text().replace('to = "app/main.py"', 'to = "app/top.py"'))
    with pytest.raises(MalformedError) as refusal:
        prepared(workshop, inputs)
    assert refusal.value.code == "tree-conflict"


@pytest.mark.parametrize(
    ("policy", "ca"),
    [
        (b"", None),
        (b"\xff", None),
        (b"a\0b", None),
        (b"x" * (MAX_INPUT_SIZE + 1), None),
        (b"log", b""),
        (b"log", b"no certificate"),
        (b"log", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (b"log", b"#" * (MAX_INPUT_SIZE + 1)),
    ],
    ids=range(8),
)
def test_unusable_inputs_are_refused(workshop, ca_pem, policy, ca):
    with pytest.raises(MalformedError):
        prepared(workshop, Inputs(policy, ca_pem if ca is None else ca))


def test_a_private_key_among_the_certificates_is_never_published(workshop, log_policy, ca_pem):
    key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    with pytest.raises(MalformedError) as refusal:
        prepared(workshop, Inputs(log_policy, ca_pem + key))
    assert refusal.value.code == "private-key"


def test_an_insecure_manifest_is_not_built(workshop, inputs):
    path = workshop.recipe / "recipe.toml"
    path.write_text(path.read_text().replace("_sgx_mrenclave", "_sgx_mrsigner"))
    with pytest.raises(UntrustedError) as refusal:
        prepared(workshop, inputs)
    assert refusal.value.code == "insecure-manifest"


def allow(workshop, rule, reason):
    path = workshop.recipe / "recipe.toml"
    path.write_text(path.read_text() + f'[[allow]]\nrule = "{rule}"\nreason = "{reason}"\n')


def test_an_allowance_of_the_recipe_lets_it_be_built_and_is_published(workshop, inputs, tmp_path):
    test_an_insecure_manifest_is_not_built(workshop, inputs)
    allow(workshop, "encrypted-key", "all enclaves of this signer share the state")
    build(
        workshop.recipe,
        workshop.source,
        inputs,
        tmp_path / "out",
        find_wheels=wheel_finder(workshop.wheels),
        report=lambda line: None,
    )
    built = load_build(tmp_path / "out")
    assert built.record.allow == {"encrypted-key": "all enclaves of this signer share the state"}
    said = release_of(built, TERMS)
    assert [(item.rule, item.where, item.reason) for item in said.lint.allowed] == [
        ("encrypted-key", ("fs.mounts[1]",), "all enclaves of this signer share the state")
    ]
    assert said.lint.findings == ()
    assert parse_statement(Statement(release_subjects(said), said).payload()).predicate == said


@pytest.mark.parametrize("change", [{}, {"encrypted-key": "x", "debug": "y"}], ids=["removed", "more"])
def test_a_build_whose_allowances_were_changed_is_not_published(workshop, inputs, tmp_path, change):
    test_an_allowance_of_the_recipe_lets_it_be_built_and_is_published(workshop, inputs, tmp_path)
    path = tmp_path / "out" / "build.json"
    path.chmod(0o600)
    path.write_bytes(rfc8785.dumps({**json.loads(path.read_bytes()), "allow": change}))
    with pytest.raises(LogError) as refusal:
        release_of(load_build(tmp_path / "out"), TERMS)
    assert refusal.value.code in ("insecure-manifest", "unused-allowance")


@pytest.mark.parametrize(
    ("rule", "code"),
    [("debug", "unused-allowance"), ("nonsense", "unknown-rule"), ("enclave-size", "not-allowable")],
)
def test_an_allowance_that_allows_nothing_stops_the_build(workshop, inputs, rule, code):
    allow(workshop, rule, "why not")
    with pytest.raises(MalformedError) as refusal:
        prepared(workshop, inputs)
    assert refusal.value.code == code


def test_build_writes_what_prepare_computes(workshop, inputs, tmp_path):
    out = tmp_path / "new" / "out"
    result = build(
        workshop.recipe,
        workshop.source,
        inputs,
        out,
        find_wheels=wheel_finder(workshop.wheels),
        report=lambda line: None,
    )
    expected = prepared(workshop, inputs)
    assert tree.read_files(out) == dict(sorted(expected.files.items(), key=lambda item: item[0].split("/")))
    assert result.record == expected.record
    assert result.manifest.read_bytes() == expected.files["tiny.manifest.sgx"]
