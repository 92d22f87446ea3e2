"""Signing: a key in a file, a program that holds the key elsewhere, and the date."""

import shutil
import stat
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest.gramine.attributes import body_from_manifest
from assay.attest.gramine.options import parse_manifest
from assay.builder.sigstruct_signing import (
    SignerInput,
    command_signing,
    epoch_date,
    key_signing,
    load_private_key,
    load_public_key,
)
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

SIGNER = """#!{python}
import sys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(open({key!r}, "rb").read(), None)
data = sys.stdin.buffer.read()
assert len(data) == {size}, len(data)
sys.stdout.buffer.write(key.sign(data, padding.PKCS1v15(), {digest}))
"""


@pytest.fixture
def key_file(repository):
    return repository / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem"


@pytest.fixture
def body(tiny):
    mr_enclave = bytes.fromhex(tiny.values["mrenclave"])
    return body_from_manifest(
        parse_manifest(tiny.manifest), mr_enclave, date=tiny.values["sigstruct"]["date"]
    )


@pytest.fixture
def signer(tmp_path, key_file):
    """Writes a program that signs; gives the command."""

    def make(reads):
        size, digest = {
            SignerInput.DATA: (256, "hashes.SHA256()"),
            SignerInput.DIGEST: (32, "utils.Prehashed(hashes.SHA256())"),
        }[reads]
        path = tmp_path / "a signer"
        path.write_text(SIGNER.format(python=sys.executable, key=str(key_file), size=size, digest=digest))
        path.chmod(stat.S_IRWXU)
        return f"'{path}'"

    return make


@pytest.mark.parametrize("reads", SignerInput)
def test_a_program_gives_gramines_bytes(signer, signing_key, body, tiny, reads):
    signing = command_signing(signer(reads), signing_key.public_key(), reads=reads)
    assert signing.signed(body).to_bytes() == tiny.sigstruct


def test_openssl_is_such_a_program(signing_key, key_file, body, tiny):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = f"openssl dgst -sha256 -sign '{key_file}'"
    signing = command_signing(command, signing_key.public_key(), reads=SignerInput.DATA)
    assert signing.signed(body).to_bytes() == tiny.sigstruct


def test_a_key_in_a_file_gives_the_same(key_file, body, tiny):
    assert key_signing(load_private_key(key_file)).signed(body).to_bytes() == tiny.sigstruct


@pytest.mark.parametrize("reads", SignerInput)
def test_a_program_that_refuses_its_input_is_unavailable(signer, signing_key, body, reads):
    other = next(item for item in SignerInput if item is not reads)
    signing = command_signing(signer(reads), signing_key.public_key(), reads=other)
    with pytest.raises(UnavailableError) as refusal:
        signing.signed(body)
    assert refusal.value.code == "signer"


@pytest.mark.parametrize(
    "script",
    ["pass", "print('x' * 383)", "sys.stdout.write('x' * 385)", "sys.stdout.buffer.write(bytes(384))"],
)
def test_an_answer_that_is_no_signature_is_untrusted(signing_key, body, script):
    command = f'{sys.executable} -c "import sys; {script}"'
    signing = command_signing(command, signing_key.public_key(), reads=SignerInput.DATA)
    with pytest.raises(UntrustedError) as refusal:
        signing.signed(body)
    assert refusal.value.code == "bad-signature"


@pytest.mark.parametrize("command", ["/nonexistent/signer", f"{sys.executable} -c 'raise SystemExit(3)'"])
def test_a_program_that_fails_is_unavailable(signing_key, body, command):
    signing = command_signing(command, signing_key.public_key(), reads=SignerInput.DATA)
    with pytest.raises(UnavailableError) as refusal:
        signing.signed(body)
    assert refusal.value.code == "signer"


@pytest.mark.parametrize("command", ["", "  ", "sign 'open"])
def test_a_command_without_words_is_refused(signing_key, command):
    with pytest.raises(MalformedError):
        command_signing(command, signing_key.public_key(), reads=SignerInput.DATA)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("0", "1970-01-01"),
        ("1767225599", "2025-12-31"),
        ("1767225600", "2026-01-01"),
        ("253402300799", "9999-12-31"),
    ],
)
def test_the_epoch_is_a_day_in_utc_wherever_it_is_read(monkeypatch, text, date):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        monkeypatch.setenv("TZ", zone)
        assert epoch_date() == date


@pytest.mark.parametrize("text", [None, "", "-1", " 1", "1.5", "0x1", "01", "253402300800", "9" * 30])
def test_an_epoch_in_another_form_is_refused(monkeypatch, text):
    if text is None:
        monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    else:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(MalformedError):
        epoch_date()


def test_public_keys_are_read_and_other_files_are_not(tmp_path, signing_key):
    path = tmp_path / "key.pem"
    public = signing_key.public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert load_public_key(path).public_numbers() == public.public_numbers()
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    for data in (b"", b"junk", elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)):
        path.write_bytes(data)
        with pytest.raises(MalformedError):
            load_public_key(path)
