"""SIGSTRUCTs of others: every leaf of a public log verifies and is shown to be in it; nothing forged does."""

import base64
import dataclasses
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest.gramine.sigstruct import SIGSTRUCT_SIZE, SignedBody, sign_sigstruct
from assay.builder import imports
from assay.builder.foreign_log import (
    Proof,
    parse_proofs,
    place_by_proofs,
    place_whole_log,
    verify_foreign_checkpoint,
)
from assay.builder.imports import import_leaves, import_sigstruct, summary
from assay.cli import main
from assay.tlog import merkle, proof
from assay.tlog.checkpoint import sign_checkpoint
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey, parse_vkey
from assay.tlog.merkle import Hash
from assay.tlog.note import format_note
from assay.tlog.tree_head import Checkpoint

BODY = SignedBody(
    mr_enclave=b"\x01" * 32,
    isv_prod_id=1,
    isv_svn=2,
    attribute_flags=4,
    attribute_xfrms=3,
    attribute_xfrm_mask=0xFFFFFFFFFFF9FF1B,
    misc_select=0,
    date="2024-03-09",
)
SOURCES = [{"repository": "source", "source_git_sha1": "ab" * 20}]


def leaf_of(data: bytes, **changes) -> bytes:
    value = {
        "description": "An enclave",
        "revision": "1.0",
        "sgx_enclave_identity": base64.b64encode(data).decode(),
        "sources": SOURCES,
    } | changes
    return json.dumps({name: item for name, item in value.items() if item is not ...}).encode()


@pytest.fixture(scope="session")
def signed(signing_key) -> bytes:
    return sign_sigstruct(BODY, signing_key).to_bytes()


@pytest.fixture(scope="session")
def leaves(signing_key) -> list[bytes]:
    """Leaves of five enclaves, the fourth of them a debug enclave, the fifth the first once more."""
    bodies = [dataclasses.replace(BODY, mr_enclave=bytes([n]) * 32, isv_svn=n // 2) for n in range(3)]
    bodies += [dataclasses.replace(bodies[0], attribute_flags=6), bodies[0]]
    return [
        leaf_of(sign_sigstruct(body, signing_key).to_bytes(), revision=str(n))
        for n, body in enumerate(bodies)
    ]


def one(line: bytes):
    [imported] = import_leaves("leaves", [line])
    return imported


def refused(line: bytes) -> str:
    imported = one(line)
    assert imported.sigstruct is None
    assert imported.refusal is not None
    assert imported.leaf_hash == merkle.leaf_hash(line)
    return imported.refusal.code


class PublicLog:
    """The vectors of a public log."""

    def __init__(self, folder):
        self.folder = folder
        self.index = json.loads((folder / "index.json").read_bytes())
        self.lines = (folder / "leaves.jsonl").read_bytes().splitlines(keepends=True)

    def checkpoint(self) -> Checkpoint:
        return verify_foreign_checkpoint(
            (self.folder / "checkpoint").read_bytes(), parse_vkey(self.index["vkey"])
        )


@pytest.fixture(scope="session")
def public_log(vectors):
    return PublicLog(vectors / "sigstruct")


def test_every_leaf_of_a_public_log_verifies_to_its_expected_fields(public_log):
    imported = list(import_leaves("leaves.jsonl", public_log.lines))
    assert len(imported) == len(public_log.index["leaves"]) == 200
    for each, expected in zip(imported, public_log.index["leaves"], strict=True):
        assert each.refusal is None
        assert each.line == expected["line"] + 1
        assert each.leaf_hash.hex() == expected["leaf_hash"]
        assert each.description == expected["description"]
        found = each.to_json()["sigstruct"]
        names = set(expected) & set(found)
        assert len(names) == 13
        assert {name: found[name] for name in names} == {name: expected[name] for name in names}
        assert [source.repository for source in each.sources] == ["source", "config"]


def test_every_leaf_of_a_public_log_is_in_it(public_log):
    checkpoint = public_log.checkpoint()
    assert (checkpoint.size, checkpoint.root) == (
        public_log.index["size"],
        base64.b64decode(public_log.index["root"]),
    )
    proofs = parse_proofs((public_log.folder / "index.json").read_bytes())
    hashes = [each.leaf_hash for each in import_leaves("x", public_log.lines)]
    placed = place_by_proofs(hashes, proofs, checkpoint)
    assert [place.index for place in placed] == [leaf["index"] for leaf in public_log.index["leaves"]]


def test_a_changed_leaf_of_a_public_log_is_not_in_it(public_log):
    proofs = parse_proofs((public_log.folder / "index.json").read_bytes())
    line = public_log.lines[7].replace(b"SDKMS", b"sdkms")
    assert line != public_log.lines[7]
    [place] = place_by_proofs([one(line).leaf_hash], proofs, public_log.checkpoint())
    assert place.index is None


def test_the_summary_of_a_public_log(public_log):
    [group] = summary(import_leaves("x", public_log.lines))
    assert (group.count, group.enclaves, group.debug) == (200, 196, True)


def test_the_command_verifies_the_public_log(public_log, capsys):
    folder = public_log.folder
    arguments = ["--checkpoint", str(folder / "checkpoint"), "--vkey", public_log.index["vkey"]]
    command = ["import", "sigstruct", str(folder / "leaves.jsonl"), *arguments]
    assert main([*command, "--proofs", str(folder / "index.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["log"] == {
        "origin": "fortanix_enclave_transparency_dev_log2",
        "size": 8790,
        "root": base64.b64decode(public_log.index["root"]).hex(),
        "included": 200,
        "not_included": 0,
    }
    assert [each["log_index"] for each in found["sigstructs"]] == [
        leaf["index"] for leaf in public_log.index["leaves"]
    ]
    assert main(command) == 1
    assert "error[other-tree]" in capsys.readouterr().err


def test_a_sig_file_is_imported(vector):
    imported = import_sigstruct("x.sig", vector.sigstruct)
    assert imported.refusal is None
    assert imported.leaf_hash is None
    assert imported.sigstruct.body.mr_enclave.hex() == vector.values["mrenclave"]


def test_a_leaf_keeps_what_its_publisher_says(signed):
    imported = one(leaf_of(signed))
    assert (imported.description, imported.revision) == ("An enclave", "1.0")
    assert [(each.repository, each.commit) for each in imported.sources] == [("source", "ab" * 20)]
    assert one(leaf_of(signed, description=..., revision=..., sources=..., more=[1])).refusal is None


def test_a_leaf_is_hashed_as_it_is_without_its_newline(signed):
    line = b" " + leaf_of(signed) + b"  "
    for text in (line, line + b"\n"):
        assert one(text).leaf_hash == Hash(hashlib.sha256(b"\0" + line).digest())


def test_every_flipped_byte_of_a_sigstruct_is_refused(signed):
    for at in range(0, SIGSTRUCT_SIZE, 7):
        data = bytearray(signed)
        data[at] ^= 1
        assert import_sigstruct("x", bytes(data)).refusal is not None
        assert refused(leaf_of(bytes(data))) in ("malformed", "bad-signature")


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{", b"{}", b"[]", b"null", b"1", b'"x"', b"\xff", b"\0", b'{"a":1,"a":1}', b"NaN", b"[" * 60_000,
     b'{"x":' * 10_000, b'{"sgx_enclave_identity":1}', b'{"sgx_enclave_identity":null}', b'{"sgx_enclave_identity":""}',
     b'{"sgx_enclave_identity":"AA=="}', b'{"sgx_enclave_identity":"\\ud800"}'],
    ids=range(19),
)  # fmt: skip
def test_what_is_no_leaf_is_refused(line):
    assert refused(line.removesuffix(b"\n"))


CHANGES = [
    {"description": 1},
    {"description": None},
    {"revision": []},
    {"revision": 1.5},
    {"sources": {}},
    {"sources": [1]},
    {"sources": [{}]},
    {"sources": [{"repository": "x"}]},
    {"sources": [{"repository": 1, "source_git_sha1": "ab" * 20}]},
    {"sources": [{"repository": "x", "source_git_sha1": "AB" * 20}]},
    {"sources": [{"repository": "x", "source_git_sha1": "ab" * 19}]},
    {"sources": SOURCES * 257},
    {"sgx_enclave_identity": ...},
    {"sgx_enclave_identity": [1]},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change)[:60])
def test_a_leaf_with_a_malformed_member_is_refused(signed, change):
    assert refused(leaf_of(signed, **change)) in ("malformed", "no-sigstruct")


def test_base64_has_one_spelling(signed):
    text = base64.b64encode(signed).decode()
    for other in (text + "\n", text.rstrip("="), text.replace("+", "-").replace("/", "_") + "=", " " + text):
        assert refused(leaf_of(signed, sgx_enclave_identity=other)) == "malformed"


def test_a_bad_leaf_does_not_hide_the_others(leaves):
    found = list(import_leaves("x", [leaves[0], b"garbage", leaves[1]]))
    assert [each.refusal is None for each in found] == [True, False, True]
    assert [each.line for each in found] == [1, 2, 3]


def test_too_large_a_leaf_is_refused(signed):
    assert refused(leaf_of(signed, description="x" * imports.MAX_LEAF_SIZE)) == "too-large"


def test_too_many_leaves_are_refused(monkeypatch, leaves):
    monkeypatch.setattr(imports, "MAX_LEAVES", 2)
    with pytest.raises(MalformedError) as caught:
        list(import_leaves("x", leaves))
    assert caught.value.code == "too-large"


def test_the_summary_counts_by_signer_product_version_and_debug(leaves):
    groups = summary(import_leaves("x", [*leaves, b"garbage"]))
    assert [(g.isv_prod_id, g.isv_svn, g.debug, g.count, g.enclaves) for g in groups] == [
        (1, 0, False, 3, 2),
        (1, 0, True, 1, 1),
        (1, 1, False, 1, 1),
    ]


@settings(max_examples=200, deadline=None)
@given(line=st.binary(max_size=200).filter(lambda line: b"\n" not in line))
def test_arbitrary_lines_are_refused(line):
    assert refused(line)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_leaf_is_refused_or_says_the_same_of_its_enclave(signed, data):
    line = bytearray(leaf_of(signed))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] = data.draw(st.integers(0, 255))
    imported = one(bytes(line))
    if imported.refusal is None:
        assert imported.sigstruct.to_bytes() == signed


# The log that leaves come from.

SEED = bytes(range(32))
SIGNER = SignerKey("example_signer", KeyType.ED25519, SEED)


def checkpoint_note(hashes, *, origin="example_log", signer=SIGNER) -> bytes:
    """A checkpoint that is signed under another name than its origin."""
    own = SignerKey(origin, KeyType.ED25519, SEED)
    note = sign_checkpoint(Checkpoint(origin, len(hashes), merkle.root_of(hashes)), [own], time_s=1)
    blob = signer.sign(note.text.encode())
    line = dataclasses.replace(note.signatures[0], name=signer.name, key_id=signer.verifier.key_id, blob=blob)
    return format_note(dataclasses.replace(note, signatures=(line,)))


class Reader:
    def __init__(self, hashes):
        self.hashes = hashes

    def read_hashes(self, nodes):
        return [merkle.root_of(self.hashes[n.index << n.level : (n.index + 1) << n.level]) for n in nodes]


def proofs_json(hashes, **changes) -> bytes:
    items = [
        {
            "index": index,
            "leaf_hash": digest.hex(),
            "inclusion_proof": [
                base64.b64encode(each).decode()
                for each in proof.prove_inclusion(index=index, size=len(hashes), reader=Reader(hashes))
            ],
        }
        | changes
        for index, digest in enumerate(hashes)
    ]
    return json.dumps({"leaves": items}).encode()


@pytest.fixture(scope="session")
def hashes(leaves):
    return [merkle.leaf_hash(line) for line in leaves]


def test_a_checkpoint_signed_under_another_name_is_accepted_by_its_key(hashes):
    checkpoint = verify_foreign_checkpoint(checkpoint_note(hashes), SIGNER.verifier)
    assert (checkpoint.origin, checkpoint.size) == ("example_log", len(hashes))


def test_another_key_does_not_vouch_for_a_checkpoint(hashes):
    other = SignerKey("example_signer", KeyType.ED25519, bytes(32)).verifier
    with pytest.raises(UntrustedError):
        verify_foreign_checkpoint(checkpoint_note(hashes), other)
    witness = SignerKey("example_signer", KeyType.COSIGNATURE_ED25519, SEED)
    with pytest.raises(UntrustedError) as caught:
        verify_foreign_checkpoint(checkpoint_note(hashes), witness.verifier)
    assert caught.value.code == "key-type"


def test_every_flipped_byte_of_a_checkpoint_is_refused(hashes):
    note = checkpoint_note(hashes)
    for at in range(len(note)):
        data = bytearray(note)
        data[at] ^= 1
        with pytest.raises(LogError):
            verify_foreign_checkpoint(bytes(data), SIGNER.verifier)


def test_the_whole_log_is_recognised_and_nothing_else(hashes):
    checkpoint = Checkpoint("x", len(hashes), merkle.root_of(hashes))
    assert [place.index for place in place_whole_log(hashes, checkpoint)] == list(range(len(hashes)))
    for other in (hashes[:-1], hashes + hashes[:1], hashes[::-1], [], [*hashes[:-1], Hash(bytes(32))]):
        with pytest.raises(UntrustedError) as caught:
            place_whole_log(other, checkpoint)
        assert caught.value.code == "other-tree"


def test_proofs_place_each_leaf_and_no_other(hashes):
    checkpoint = Checkpoint("x", len(hashes), merkle.root_of(hashes))
    proofs = parse_proofs(proofs_json(hashes))
    assert [place.index for place in place_by_proofs(hashes, proofs, checkpoint)] == [0, 1, 2, 3, 4]
    stranger = Hash(bytes(32))
    moved = {stranger: proofs[hashes[0]], hashes[1]: Proof(2, proofs[hashes[1]].path)}
    placed = place_by_proofs([stranger, *hashes[:2]], moved, checkpoint)
    assert [place.index for place in placed] == [None, None, None]
    assert all(place.reason for place in placed)
    smaller = Checkpoint("x", 4, merkle.root_of(hashes[:4]))
    assert place_by_proofs(hashes[4:], proofs, smaller)[0].index is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"leaves": {}}',
        b'{"leaves": [1]}',
        b'{"leaves": [{}]}',
        b"\xff",
        b"{",
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_malformed_proofs_are_refused(data):
    with pytest.raises(MalformedError):
        parse_proofs(data)


@pytest.mark.parametrize(
    "change",
    [
        {"index": "1"},
        {"index": True},
        {"index": 1.5},
        {"leaf_hash": "AB" * 32},
        {"leaf_hash": "ab"},
        {"leaf_hash": None},
        {"inclusion_proof": None},
        {"inclusion_proof": [1]},
        {"inclusion_proof": ["AA=="]},
        {"inclusion_proof": ["x"]},
    ],
    ids=str,
)
def test_malformed_members_of_proofs_are_refused(hashes, change):
    with pytest.raises(MalformedError):
        parse_proofs(proofs_json(hashes, **change))


@pytest.mark.parametrize("index", [-1, 5, 2**53 - 1])
def test_a_proof_of_no_leaf_places_nothing(hashes, index):
    checkpoint = Checkpoint("x", len(hashes), merkle.root_of(hashes))
    proofs = {hashes[0]: Proof(index, ())}
    assert place_by_proofs(hashes[:1], proofs, checkpoint)[0].index is None


# The command.


@pytest.fixture
def files(tmp_path, leaves, hashes, signed):
    (tmp_path / "leaves").write_bytes(b"\n".join(leaves) + b"\n")
    (tmp_path / "x.sig").write_bytes(signed)
    (tmp_path / "checkpoint").write_bytes(checkpoint_note(hashes))
    (tmp_path / "proofs").write_bytes(proofs_json(hashes))
    return {name: str(tmp_path / name) for name in ("leaves", "x.sig", "checkpoint", "proofs")}


def run(capsys, *arguments):
    code = main(["import", "sigstruct", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def log_options(files, *more):
    return ("--checkpoint", files["checkpoint"], "--vkey", str(SIGNER.verifier), *more)


def test_the_command_shows_each_and_the_summary(capsys, files):
    code, out, err = run(capsys, files["leaves"], files["x.sig"])
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"✓ leaves:1  {'00' * 32}  product 1 svn 0 flags 0x4 2024-03-09  An enclave 0")
    assert " DEBUG " in lines[3]
    assert lines[5].startswith(f"✓ x.sig  {'01' * 32}")
    assert lines[-1] == "6 verified, 0 refused"


def test_the_command_gives_everything_to_machines(capsys, files, signed):
    code, out, _ = run(capsys, files["x.sig"], "--json")
    assert code == 0
    found = json.loads(out)
    assert found.keys() == {"sigstructs", "summary", "refused", "log", "ok"}
    [each] = found["sigstructs"]
    assert each["sigstruct"]["mr_enclave"] == "01" * 32
    assert each["sigstruct"]["mr_signer"] == hashlib.sha256(signed[128:512]).hexdigest()
    assert (each["refused"], each["log_index"], found["log"]) == (None, None, None)


@pytest.mark.parametrize("proofs", [False, True])
def test_the_command_shows_that_leaves_are_in_the_log(capsys, files, proofs):
    more = ("--proofs", files["proofs"]) if proofs else ()
    code, out, _ = run(capsys, files["leaves"], *log_options(files, *more))
    assert code == 0
    assert out.splitlines()[-1] == "5 of 5 leaves are in the log example_log of size 5"


def test_the_command_refuses_leaves_that_are_not_in_the_log(capsys, files, tmp_path, signed):
    (tmp_path / "more").write_bytes(leaf_of(signed, revision="not logged"))
    code, out, _ = run(capsys, str(tmp_path / "more"), *log_options(files, "--proofs", files["proofs"]))
    assert code == 1
    assert "not shown to be in the log: no proof of it" in out
    code, out, err = run(capsys, files["leaves"], str(tmp_path / "more"), *log_options(files))
    assert (code, out) == (1, "")
    assert "error[other-tree]" in err


def test_the_command_exits_with_1_if_one_is_refused_and_still_shows_all(capsys, files, tmp_path, signed):
    (tmp_path / "bad").write_bytes(leaf_of(signed) + b"\n{}\n" + leaf_of(signed) + b"\n")
    code, out, _ = run(capsys, str(tmp_path / "bad"))
    assert code == 1
    assert "✗ bad:2  error[no-sigstruct]" in out
    assert out.splitlines()[-1] == "2 verified, 1 refused"
    code, out, _ = run(capsys, str(tmp_path / "bad"), "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False
    assert json.loads(out)["sigstructs"][1]["refused"]["code"] == "no-sigstruct"


@pytest.mark.parametrize("data", [b"", b"\0" * SIGSTRUCT_SIZE, b"\0" * 5000], ids=["empty", "zeros", "long"])
def test_the_command_refuses_what_is_no_sigstruct(capsys, tmp_path, data):
    (tmp_path / "x.sig").write_bytes(data)
    code, out, _ = run(capsys, str(tmp_path / "x.sig"))
    assert code == 1
    assert "✗ x.sig  error[malformed]" in out


def test_a_line_without_end_is_refused(capsys, tmp_path):
    (tmp_path / "endless").write_bytes(b"{" + b" " * 200_000)
    code, out, err = run(capsys, str(tmp_path / "endless"))
    assert (code, out) == (1, "")
    assert "error[too-large]" in err


@pytest.mark.parametrize("options", [("--checkpoint", "checkpoint"), ("--vkey", "x"), ("--proofs", "proofs")])
def test_options_that_need_each_other_are_usage(capsys, files, options):
    arguments = [files.get(option, option) for option in options]
    assert run(capsys, files["leaves"], *arguments)[0] == 2


def test_hostile_texts_do_not_reach_the_terminal(capsys, tmp_path, signed):
    hostile = "\x1b[2J\x9b\u202e\r[red]"
    lines = [leaf_of(signed, description=hostile), leaf_of(signed, **{hostile: 1, "sources": hostile})]
    (tmp_path / "\x1b[31m").write_bytes(b"\n".join(lines))
    code, out, err = run(capsys, str(tmp_path / "\x1b[31m"))
    assert code == 1
    assert all(char.isprintable() or char == "\n" for char in out + err)
    assert "[red]" in out
    _, out, _ = run(capsys, str(tmp_path / "\x1b[31m"), "--json")
    assert out.isascii()
    assert all(char.isprintable() or char == "\n" for char in out)
