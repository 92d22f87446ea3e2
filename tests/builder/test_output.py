"""Builds on disk: complete or absent, never over something else, and not believed when read back."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import rfc8785

from assay.attest.gramine.sigstruct import sign_sigstruct, verify_sigstruct
from assay.builder import tree
from assay.builder.build import prepare
from assay.builder.compose import Inputs
from assay.builder.output import load_build, measured_fields, write_build
from assay.builder.record import parse_record
from assay.builder.sigstruct_signing import key_signing
from assay.builder.wheels import wheel_finder
from assay.tlog.errors import LogError, MalformedError, UntrustedError


@pytest.fixture
def built(workshop, log_policy, ca_pem, signing_key):
    return prepare(
        workshop.recipe,
        workshop.source,
        Inputs(log_policy, ca_pem),
        find_wheels=wheel_finder(workshop.wheels),
        report=lambda line: None,
        signing=key_signing(signing_key),
    )


@pytest.fixture
def out(built, tmp_path):
    write_build(built, tmp_path / "out")
    return tmp_path / "out"


def rewrite(path, data):
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_build_reads_back(out, built):
    assert load_build(out).record == built.record


def test_the_record_is_canonical_and_parses_to_itself(built):
    data = built.files["build.json"]
    assert parse_record(data) == built.record
    assert parse_record(data).to_bytes() == data


def test_every_changed_file_of_a_build_is_found(out, built):
    for name, data in built.files.items():
        if name in ("tree.json", "build.json"):
            continue
        rewrite(out / name, data + b"\n")
        with pytest.raises(LogError):
            load_build(out)
        rewrite(out / name, data)
    load_build(out)


@pytest.mark.parametrize("changed", ["trusted file", "libsysdb"])
def test_a_manifest_that_names_another_digest_is_refused_whatever_the_record_says(built, changed):
    files = {name[7:]: data for name, data in built.files.items() if name.startswith("rootfs/")}
    libpal, libsysdb = built.files["libpal.so"], built.files["rt/libsysdb.so"]
    honest = hashlib.sha256(files["app/main.py"] if changed == "trusted file" else libsysdb).hexdigest()
    manifest = built.files["tiny.manifest.sgx"].replace(honest.encode(), b"00" * 32)
    with pytest.raises(UntrustedError) as refusal:
        measured_fields(files, manifest, libpal, libsysdb, epoch_s=1)
    assert refusal.value.code == "build-mismatch"


@pytest.mark.parametrize("name", ["rootfs/app/extra.py", "rootfs/extra"])
def test_a_file_that_the_manifest_does_not_trust_is_found(out, name):
    (out / name).write_bytes(b"")
    with pytest.raises(UntrustedError):
        load_build(out)


def test_a_hidden_file_is_found(out):
    (out / "rootfs/app/main.py").unlink()
    with pytest.raises(UntrustedError):
        load_build(out)


FIELDS = {
    "mr_enclave": "00" * 32,
    "mr_signer": None,
    "isv_prod_id": 8,
    "isv_svn": 4,
    "attribute_flags": "0000000000000006",
    "attribute_xfrms": "0000000000000007",
    "attribute_xfrm_mask": "ffffffffffffffff",
    "misc_select": 0,
    "enclave_size": 1 << 30,
    "threads": 5,
    "edmm": False,
    "manifest_sha256": "00" * 32,
    "libpal_sha256": "00" * 32,
    "libsysdb_sha256": "00" * 32,
    "tree_sha256": "00" * 32,
    "trusted_files_sha256": "00" * 32,
    "trusted_files": [],
    "epoch_s": 1,
    "inputs": {"ca": "another", "log_policy": "another"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_that_says_something_else_is_refused(out, built, name):
    value = json.loads(built.files["build.json"])
    assert value[name] != FIELDS[name]
    rewrite(out / "build.json", rfc8785.dumps({**value, name: FIELDS[name]}))
    with pytest.raises(UntrustedError) as refusal:
        load_build(out)
    assert refusal.value.code == "build-mismatch"


def test_a_sigstruct_for_another_enclave_is_refused(out, built, signing_key):
    body = verify_sigstruct(built.files["tiny.sig"]).body
    rewrite(
        out / "tiny.sig", sign_sigstruct(dataclasses.replace(body, attribute_flags=6), signing_key).to_bytes()
    )
    with pytest.raises(UntrustedError) as refusal:
        load_build(out)
    assert refusal.value.code == "sigstruct-mismatch"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"},
        {"name": ""},
        {"format": "urn:assay:build:v2"},
        {"extra": 1},
        {"threads": "4"},
        {"threads": -1},
        {"edmm": 1},
        {"mr_enclave": "AB" * 32},
        {"mr_enclave": None},
        {"mr_signer": ""},
        {"attribute_flags": "4"},
        {"attribute_flags": 4},
        {"inputs": {"ca": 1}},
        {"inputs": []},
        {"allow": {"debug": 1}},
        {"allow": []},
        {"wheels": {}},
        {"trusted_files": [{"path": "x"}]},
    ],
    ids=str,
)
def test_malformed_records_are_refused(built, change):
    with pytest.raises(MalformedError):
        parse_record(rfc8785.dumps({**json.loads(built.files["build.json"]), **change}))


def test_every_missing_member_is_refused(built):
    value = json.loads(built.files["build.json"])
    for name in value:
        with pytest.raises(MalformedError):
            parse_record(rfc8785.dumps({key: item for key, item in value.items() if key != name}))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"NaN", b'{"a":1,"a":1}', b"[" * 100_000, b"1e400", b'{"a": 1}'],
    ids=range(10),
)  # fmt: skip
def test_records_that_are_no_canonical_json_are_refused(data):
    with pytest.raises(MalformedError):
        parse_record(data)


def test_the_same_build_again_is_left_alone_with_what_lies_beside_it(out, built):
    (out / "state").mkdir()
    (out / "state" / "sealed").write_bytes(b"secret")
    inode = out.stat().st_ino
    write_build(built, out)
    write_build(built, out, force=True)
    assert out.stat().st_ino == inode
    assert (out / "state" / "sealed").read_bytes() == b"secret"


@pytest.mark.parametrize(
    "name", ["libpal.so", "rootfs/app/main.py", "tree.json", "build.json", "rt/libsysdb.so"]
)
def test_another_build_is_replaced_only_by_force(out, built, name):
    rewrite(out / name, b"other")
    with pytest.raises(FileExistsError):
        write_build(built, out)
    assert (out / name).read_bytes() == b"other"
    write_build(built, out, force=True)
    assert tree.read_files(out) == dict(sorted(built.files.items(), key=lambda item: item[0].split("/")))


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_anything_else_is_never_replaced(out, built, force):
    rewrite(out / "libpal.so", b"other")
    (out / "state").mkdir()
    with pytest.raises(FileExistsError):
        write_build(built, out, force=force)
    assert (out / "libpal.so").read_bytes() == b"other"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_build_is_never_replaced(tmp_path, built, force):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rootfs").mkdir()
    with pytest.raises(FileExistsError):
        write_build(built, tmp_path / "mine", force=force)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        write_build(built, tmp_path / "file", force=force)


def test_an_empty_folder_is_filled(tmp_path, built):
    (tmp_path / "empty").mkdir()
    write_build(built, tmp_path / "empty")
    assert load_build(tmp_path / "empty").record == built.record


def test_a_build_that_fails_half_way_leaves_nothing(tmp_path, built, monkeypatch):
    write = Path.write_bytes

    def fail(path, data):
        if path.name == "top.py":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_build(built, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
