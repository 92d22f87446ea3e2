"""Unmodified Sigstore clients write to the log, and their own verifiers accept what comes of it.

``sigstore`` for Python is a test dependency. The npm packages are looked for in the folder that ASSAY_NPM names
(see README.md beside this file); without it those tests are skipped.
"""

import base64
import importlib.util
import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore._internal.rekor import RekorClientError
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore._utils import sha256_digest
from sigstore.dsse import StatementBuilder, Subject
from sigstore.errors import VerificationError
from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity, UnsafeNoOp
from werkzeug.serving import make_server

from assay.attest.transparency_entry import log_id
from assay.log_server.app import create_app

pytestmark = pytest.mark.slow

if shutil.which("openssl") is None:
    pytest.skip("openssl is not installed: no timestamps", allow_module_level=True)


def load(name):
    """A module in the folder above."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sigstore_instance = load("sigstore_instance")
ARTIFACT = b"an artifact"
POLICY = Identity(identity=sigstore_instance.IDENTITY, issuer=sigstore_instance.ISSUER)


@pytest.fixture
def instance(tmp_path):
    folder = tmp_path / "sigstore"
    folder.mkdir()
    made = sigstore_instance.Instance(folder)
    yield made
    made.close()


class Served:
    """A witnessed log behind a socket, as clients know it."""

    def __init__(self, log):
        service = log.open()
        self.origin = service.config.origin
        (self.key,) = (key for key in service.log_keys if key.type == 1)
        self.log_id = log_id(service.log_keys)
        self._server = make_server("127.0.0.1", 0, create_app(service), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def trusted_root(self, instance):
        return instance.trusted_root(instance.tlog(self.origin, self.key.public_key, self.log_id))

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def served(make_log):
    log = Served(make_log(witnesses=2))
    yield log
    log.close()


@pytest.fixture
def signer(instance, served):
    config = instance.client_trust_config(served.trusted_root(instance), served.url)
    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(json.dumps(config)))
    with context.signer(IdentityToken(sigstore_instance.identity_token())) as made:
        yield made


@pytest.fixture
def verifier_of(tmp_path):
    """Makes the client's own verifier under a trusted root, pinned in a file."""

    def make(trusted_root):
        path = tmp_path / "trusted_root.json"
        path.write_text(json.dumps(trusted_root))
        return Verifier(trusted_root=TrustedRoot.from_file(str(path)))

    return make


@pytest.fixture
def verifier(instance, served, verifier_of):
    return verifier_of(served.trusted_root(instance))


def statement():
    subject = Subject(name="a", digest={"sha256": "00" * 32})
    return StatementBuilder([subject], "https://example.com/x", {"k": 1}).build()


# sigstore for Python


def test_python_signs_an_artifact_and_verifies_it(signer, verifier):
    bundle = Bundle.from_json(signer.sign_artifact(ARTIFACT).to_json())
    verifier.verify_artifact(ARTIFACT, bundle, POLICY)
    entry = json.loads(bundle.to_json())["verificationMaterial"]["tlogEntries"][0]
    assert "witness-1.test.example" in entry["inclusionProof"]["checkpoint"]["envelope"]
    with pytest.raises(VerificationError):
        verifier.verify_artifact(ARTIFACT + b"!", bundle, POLICY)


def test_python_signs_a_statement_and_verifies_it(signer, verifier):
    bundle = Bundle.from_json(signer.sign_dsse(statement()).to_json())
    kind, payload = verifier.verify_dsse(bundle, POLICY)
    assert kind == "application/vnd.in-toto+json"
    assert json.loads(payload)["predicate"] == {"k": 1}


def test_python_gets_proofs_in_a_log_that_has_grown(signer, verifier):
    for number in range(5):
        artifact = b"%d" % number
        bundle = signer.sign_artifact(artifact)
        verifier.verify_artifact(artifact, bundle, POLICY)
        assert (
            int(json.loads(bundle.to_json())["verificationMaterial"]["tlogEntries"][0]["logIndex"]) == number
        )


TAMPERED = {
    "another body": lambda e: {**e, "canonicalizedBody": base64.b64encode(b"{}").decode()},
    "another root": lambda e: {**e, "inclusionProof": {**e["inclusionProof"], "rootHash": base64.b64encode(bytes(32)).decode()}},
    "no checkpoint": lambda e: {**e, "inclusionProof": {k: v for k, v in e["inclusionProof"].items() if k != "checkpoint"}},
    "another checkpoint": lambda e: {
        **e,
        "inclusionProof": {
            **e["inclusionProof"],
            "checkpoint": {"envelope": e["inclusionProof"]["checkpoint"]["envelope"].replace("example\n", "example\n1", 1)},
        },
    },
    "another kind": lambda e: {**e, "kindVersion": {"kind": "dsse", "version": "0.0.2"}},
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_python_refuses_a_bundle_with(signer, verifier, name):
    value = json.loads(signer.sign_artifact(ARTIFACT).to_json())
    entries = value["verificationMaterial"]["tlogEntries"]
    entries[0] = TAMPERED[name](entries[0])
    with pytest.raises(Exception) as caught:  # of several kinds, all of them the client's
        verifier.verify_artifact(ARTIFACT, Bundle.from_json(json.dumps(value)), POLICY)
    assert type(caught.value).__module__.startswith(("sigstore", "pydantic"))


def test_python_refuses_the_entry_of_another_log(signer, instance, served, verifier_of):
    bundle = signer.sign_artifact(ARTIFACT)
    other = served.trusted_root(instance)
    other["tlogs"][0]["publicKey"]["rawBytes"] = base64.b64encode(
        bytes.fromhex("302a300506032b6570032100") + bytes(range(32))
    ).decode()
    with pytest.raises(VerificationError):
        verifier_of(other).verify_artifact(ARTIFACT, bundle, POLICY)


def test_python_tells_a_refusal_from_an_entry(served, instance):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = instance.issue(key.public_key())
    client = RekorV2Client(served.url)
    signature = key.sign(b"something else", ec.ECDSA(hashes.SHA256()))
    request = client._build_hashed_rekord_request(sha256_digest(ARTIFACT), signature, certificate)
    with pytest.raises(RekorClientError, match="does not verify"):
        client.create_entry(request)


@pytest.mark.parametrize("name", ["happy_path", "dsse_happy_path"])
def test_a_bundle_of_sigstores_own_instance_can_be_logged_here_without_signing_again(
    vectors, served, verifier_of, name
):
    """Public CA, CT and TSA with our log: the bundle's tlog entry is exchanged, all else stays."""
    folder = vectors / "rekor" / name
    value = json.loads((folder / "bundle.sigstore.json").read_bytes())
    (original,) = value["verificationMaterial"]["tlogEntries"]
    body = json.loads(base64.b64decode(original["canonicalizedBody"]))["spec"]["hashedRekordV002"]
    request = {"digest": body["data"]["digest"], "signature": body["signature"]}
    answer = requests.post(
        f"{served.url}/api/v2/log/entries", json={"hashedRekordRequestV002": request}, timeout=10
    )
    assert answer.status_code == 201
    assert answer.json()["canonicalizedBody"] == original["canonicalizedBody"]
    value["verificationMaterial"]["tlogEntries"] = [answer.json()]
    root = json.loads((folder / "trusted_root.json").read_bytes())
    root["tlogs"] = [
        {
            "baseUrl": f"https://{served.origin}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": base64.b64encode(
                    bytes.fromhex("302a300506032b6570032100") + served.key.public_key
                ).decode(),
                "keyDetails": "PKIX_ED25519",
                "validFor": {"start": "2025-01-01T00:00:00Z"},
            },
            "logId": {"keyId": base64.b64encode(served.log_id).decode()},
        }
    ]
    bundle = Bundle.from_json(json.dumps(value))
    if name == "happy_path":
        artifact = (vectors / "rekor" / "a.txt").read_bytes()
        verifier_of(root).verify_artifact(artifact, bundle, UnsafeNoOp())
    else:
        verifier_of(root).verify_dsse(bundle, UnsafeNoOp())


# npm


def npm_sign(npm, instance, served, what):
    """A bundle; not of the log's first entry, of which npm leaves out the index, as it is zero."""
    key = ec.generate_private_key(ec.SECP256R1())
    client = RekorV2Client(served.url)
    signature = key.sign(ARTIFACT, ec.ECDSA(hashes.SHA256()))
    certificate = instance.issue(key.public_key())
    client.create_entry(client._build_hashed_rekord_request(sha256_digest(ARTIFACT), signature, certificate))
    values = {
        "fulcio": instance.url,
        "tsa": instance.url,
        "rekor": served.url,
        "token": sigstore_instance.identity_token(),
        "data": base64.b64encode(ARTIFACT).decode(),
    }
    status, output, errors = npm("sign", what, **values)
    assert status == 0, errors
    return json.loads(output)


@pytest.mark.parametrize("what", ["message", "dsse"])
def test_npm_signs_and_verifies(npm, instance, served, what):
    bundle = npm_sign(npm, instance, served, what)
    (entry,) = bundle["verificationMaterial"]["tlogEntries"]
    assert entry["kindVersion"] == {"kind": "hashedrekord", "version": "0.0.2"}
    values = {
        "root": served.trusted_root(instance),
        "bundle": bundle,
        "data": base64.b64encode(ARTIFACT).decode(),
    }
    status, _, errors = npm("verify", **values)
    assert status == 0, errors
    other = json.loads(json.dumps(values))
    body = other["bundle"]["verificationMaterial"]["tlogEntries"][0]
    body["canonicalizedBody"] = base64.b64encode(b"{}").decode()
    assert npm("verify", **other)[0] == 1


def test_npm_submits_an_envelope_as_it_does_and_python_verifies_it(npm, instance, served, verifier):
    bundle = npm_sign(npm, instance, served, "dsse")
    kind, payload = verifier.verify_dsse(Bundle.from_json(json.dumps(bundle)), POLICY)
    assert (kind, payload) == ("text/plain", ARTIFACT)


def test_npm_verifies_what_python_signed(npm, signer, instance, served):
    for bundle in (signer.sign_artifact(ARTIFACT), signer.sign_dsse(statement())):
        values = {
            "root": served.trusted_root(instance),
            "bundle": json.loads(bundle.to_json()),
            "data": base64.b64encode(ARTIFACT).decode(),
        }
        status, _, errors = npm("verify", **values)
        assert status == 0, errors


def test_a_certificate_of_the_instance_is_one_that_clients_accept(instance):
    """The stand-in itself: one SCT, and the identity as Fulcio writes it."""
    certificate = instance.issue(ec.generate_private_key(ec.SECP256R1()).public_key())
    scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    assert len(list(scts.value)) == 1
