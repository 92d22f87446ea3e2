"""Policies: one good file, and every way in which another is refused."""

import hashlib

import pytest

from assay.attest import p256
from assay.attest.roots import Platform
from assay.client.trust import load_policy, parse_policy
from assay.tlog.errors import MalformedError


@pytest.fixture
def text(world):
    return world.policy_text()


def parse(world, text):
    return world.make_policy(text)


def test_policy_holds_what_the_file_says(world, text):
    policy = parse(world, text)
    assert policy.log.origins == ("log.example",)
    assert policy.publishers["agent"].threshold == 1
    assert policy.rebuilders.signers == {
        p256.signer_id(p256.spki(world.ec_key(name).public_key())) for name in ("rebuilder", "rebuilder-2")
    }
    assert policy.revokers == frozenset()
    assert policy.quotes.root.platform is Platform.SIMULATED
    assert policy.quotes.tcb.statuses == {"UpToDate"}
    assert policy.freshness.nonce_required is True


def test_keys_may_stand_in_the_file_itself(world, text):
    inline = text.replace('"publisher.pub"', f'"""{world.pem("publisher")}"""')
    assert parse(world, inline) == parse(world, text)


def test_log_policy_may_be_a_file(world, text):
    start, end = text.index("inline"), text.index("[publishers")
    by_path = text[:start] + 'policy = "log.txt"\n' + text[end:]
    files = {"log.txt": world.log_policy_text().encode()}
    policy = parse_policy(
        by_path.encode(),
        resolve=lambda name: files.get(name) or world.resolve(name),
        intel_root=b"",
    )
    assert policy == parse(world, text)


def test_loading_reads_files_beside_the_policy_and_intels_root(world, text, tmp_path):
    (tmp_path / "policy.toml").write_text(text.replace('"root.der"', '"intel"'))
    for name in ("publisher.pub", "rebuilder.pub", "rebuilder-2.pub"):
        (tmp_path / name).write_bytes(world.resolve(name))
    policy = load_policy(tmp_path / "policy.toml")
    assert policy.quotes.root.platform is Platform.INTEL
    assert policy.quotes.root.name == "intel"
    (tmp_path / "publisher.pub").unlink()
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path / "policy.toml")


def test_root_may_be_pem(world, text):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = x509.load_der_x509_certificate(world.platform().root_der)
    pem = certificate.public_bytes(Encoding.PEM)
    policy = parse_policy(
        text.encode(),
        resolve=lambda name: pem if name == "root.der" else world.resolve(name),
        intel_root=b"",
    )
    assert policy.quotes.root.sha256 == hashlib.sha256(world.platform().root_der).hexdigest()
    for bad in (pem + pem, pem[:200], b"", b"x"):
        with pytest.raises(MalformedError):
            parse_policy(
                text.encode(),
                resolve=lambda name, bad=bad: bad if name == "root.der" else world.resolve(name),
                intel_root=b"",
            )


def lines_of(text):
    inside = False
    for line in text.split("\n"):
        inside ^= line.count("'''") % 2
        if " = " in line and not inside and "'''" not in line:
            yield line


def test_every_member_is_required(world, text):
    for line in lines_of(text):
        with pytest.raises(MalformedError) as caught:
            parse(world, text.replace(line + "\n", "", 1))
        assert caught.value.code == "policy", line


def test_every_section_is_required(world, text):
    sections = text.split("\n[")
    for number in range(1, len(sections)):
        kept = sections[:number] + sections[number + 1 :]
        with pytest.raises(MalformedError) as caught:
            parse(world, "\n[".join(kept))
        assert caught.value.code == "policy", sections[number]


def test_unknown_members_are_refused_everywhere(world, text):
    for section in [line for line in text.split("\n") if line.startswith("[") and "advisories" not in line]:
        with pytest.raises(MalformedError):
            parse(world, text.replace(section, f"{section}\nunknown = 1"))
    with pytest.raises(MalformedError):
        parse(world, text + "[more]\n")


REFUSED = {
    "threshold 0": ("threshold = 1", "threshold = 0"),
    "threshold above the number of keys": ("threshold = 1", "threshold = 2"),
    "negative threshold": ("threshold = 1", "threshold = -1"),
    "threshold as text": ("threshold = 1", 'threshold = "1"'),
    "threshold true": ("threshold = 1", "threshold = true"),
    "no publisher's key": ('["publisher.pub"]', "[]"),
    "one key twice": ('["publisher.pub"]', '["publisher.pub", "publisher.pub"]'),
    "rebuilder who publishes": ('"rebuilder.pub"', '"publisher.pub"'),
    "one rebuilder twice": ('"rebuilder-2.pub"', '"rebuilder.pub"'),
    "key that is no key": ('["publisher.pub"]', '["root.der"]'),
    "key that is a number": ('["publisher.pub"]', "[1]"),
    "key that is empty": ('["publisher.pub"]', '[""]'),
    "keys that are no list": ('["publisher.pub"]', '"publisher.pub"'),
    "no TCB state": ('["UpToDate"]', "[]"),
    "unknown TCB state": ('["UpToDate"]', '["Fine"]'),
    "revoked as TCB state": ('["UpToDate"]', '["Revoked"]'),
    "TCB state twice": ('["UpToDate"]', '["UpToDate", "UpToDate"]'),
    "TCB state that is no text": ('["UpToDate"]', "[1]"),
    "TCB state that is a list": ('["UpToDate"]', '[["UpToDate"]]'),
    "root that is no certificate": ('"root.der"', '"publisher.pub"'),
    "root that is no text": ('"root.der"', "1"),
    "Intel's root that is not": ('"root.der"', '"intel"'),
    "negative age": ("checkpoint_max_age_s = 300", "checkpoint_max_age_s = -1"),
    "fractional age": ("checkpoint_max_age_s = 300", "checkpoint_max_age_s = 300.0"),
    "nonce as a number": ("nonce_required = true", "nonce_required = 1"),
    "evaluation number as text": ("min_evaluation_number = 1", 'min_evaluation_number = "1"'),
    "advisory of a short measurement": ("[quotes.advisories]", '[quotes.advisories]\n"00" = []'),
    "advisory that is none": ("[quotes.advisories]", '[quotes.advisories]\n"%s" = ["all"]' % ("0" * 64)),
    "advisories that are no list": ("[quotes.advisories]", '[quotes.advisories]\n"%s" = "x"' % ("0" * 64)),
    "no witness quorum": ("quorum q\n", "quorum none\n"),
    "no quorum line": ("quorum q\n", ""),
    "no log": ("log log.example", "# log log.example"),
    "both log policies": ("[log]", '[log]\npolicy = "x"'),
    "broken TOML": ("[log]", "[log"),
    "a NUL": ("[log]", "[log]\x00"),
}


@pytest.mark.parametrize(("old", "new"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_code_policy(world, text, old, new):
    assert old in text
    with pytest.raises(MalformedError) as caught:
        parse(world, text.replace(old, new))
    assert caught.value.code == "policy"


def test_no_product_is_refused(world, text):
    start, end = text.index("[publishers"), text.index("[rebuilders]")
    with pytest.raises(MalformedError):
        parse(world, text[:start] + "[publishers]\n" + text[end:])


def test_two_lines_of_one_witness_count_once_or_are_refused(world):
    from assay.tlog.keys import KeyType

    second = world.note_key("w1.example", KeyType.COSIGNATURE_ML_DSA_44)
    rows = world.log_policy_text().split("\n")
    rows.insert(3, f"witness w3 {second.verifier}")
    with pytest.raises(MalformedError) as caught:
        world.make_policy(world.policy_text("\n".join(rows).replace("all w1 w2", "2 w1 w2 w3")))
    assert caught.value.code == "policy"


def test_advisories_that_are_no_table_are_refused(world, text):
    changed = text.replace("[quotes.advisories]\n", "").replace('root = "', 'advisories = []\nroot = "')
    with pytest.raises(MalformedError) as caught:
        parse(world, changed)
    assert caught.value.code == "policy"


def test_oversized_files_are_refused(world, text, tmp_path):
    for name in ("publisher.pub", "rebuilder.pub", "rebuilder-2.pub", "root.der"):
        (tmp_path / name).write_bytes(world.resolve(name))
    padding = (1 << 20) - len(text.encode())
    (tmp_path / "policy.toml").write_bytes(text.encode() + b"#" * padding)
    assert load_policy(tmp_path / "policy.toml") == parse(world, text)
    (tmp_path / "policy.toml").write_bytes(text.encode() + b"#" * (padding + 1))
    with pytest.raises(MalformedError):
        load_policy(tmp_path / "policy.toml")
