"""Publishing in the name of an identity, end to end: a private Sigstore instance, a real log with witnesses, the client.

The CA, the CT key and the timestamp authority are the test's own (tests/sigstore_instance.py): that shows that formats
and rules fit together, and gives NO INDEPENDENCE. The log and the witnesses are ours as well.
"""

import base64
import importlib.util
import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from werkzeug.serving import make_server

from assay.attest import bundle as bundles
from assay.attest import entry, p256, signers
from assay.attest.entry import Attestation, CertificateVerifier
from assay.attest.simulated.platform import SimulatedPlatform
from assay.builder import publish as publishing
from assay.builder.keyless import KeylessSigner, client_trust_config
from assay.cli import main
from assay.client.collect import collect_release
from assay.client.log import LogClient
from assay.client.trust import load_policy
from assay.client.verify import verify_bundle
from assay.log_server.app import create_app
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

pytestmark = pytest.mark.slow

if shutil.which("openssl") is None:
    pytest.skip("openssl is not installed: no timestamps", allow_module_level=True)
if importlib.util.find_spec("sigstore") is None:
    pytest.skip("the package sigstore is not installed", allow_module_level=True)

PRODUCT = "tiny-product"
SOMEONE = '{ identity = "someone@example.com", issuer = "https://issuer.example" }'
OTHER_NAME = '{ identity = "other@example.com", issuer = "https://issuer.example" }'
OTHER_ISSUER = '{ identity = "someone@example.com", issuer = "https://other.example" }'


def load_conftest():
    """The log's fixtures, which stand beside the log's tests."""
    path = Path(__file__).parents[1] / "log_server" / "conftest.py"
    spec = importlib.util.spec_from_file_location("log_server_conftest", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["log_server_conftest"] = module
    spec.loader.exec_module(module)
    return module


make_log = load_conftest().make_log


@pytest.fixture(scope="module")
def instance(sigstore_instance, tmp_path_factory):
    made = sigstore_instance.Instance(tmp_path_factory.mktemp("sigstore"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory, workshop_maker, log_policy, ca_pem):
    root = tmp_path_factory.mktemp("build")
    workshop = workshop_maker(root / "workshop")
    (root / "log-policy").write_bytes(log_policy)
    (root / "ca").write_bytes(ca_pem)
    command = ["build", str(workshop.recipe), "--out", str(root / "out"), "--source", str(workshop.source)]
    command += ["--wheels", str(workshop.wheels)]
    assert main([*command, "--log-policy", str(root / "log-policy"), "--ca", str(root / "ca")]) == 0
    return root / "out"


class World:
    """A served log, a relying party's policy, and what a publisher has."""

    def __init__(self, folder, make_log, instance, token):
        self.folder, self.instance, self._make_log = folder, instance, make_log
        self.keys = {
            name: ec.generate_private_key(ec.SECP256R1()) for name in ("first", "second", "rebuilder")
        }
        for name, key in self.keys.items():
            (folder / name).write_bytes(p256.private_pem(key))
            (folder / f"{name}.pub").write_bytes(p256.public_pem(key.public_key()))
        (folder / "root.json").write_text(json.dumps(instance.trusted_root()))
        (folder / "token").write_text(token)
        (folder / "sgx-root.der").write_bytes(SimulatedPlatform(bytes(32), epoch_s=0).root_der)

    def path(self, name):
        return str(self.folder / name)

    def serve(self, *, rule="", roots=True, kinds=""):
        extra = kinds and f"[admission]\nkinds = {kinds}\n"
        if rule:
            extra += f'[admission.publishers."{PRODUCT}"]\n{rule}\n'
        if roots:
            extra += f'[sigstore]\nroots = "{self.path("root.json")}"\n'
        self.log = self._make_log(witnesses=2, extra=extra)
        self._server = make_server("127.0.0.1", 0, create_app(self.log.open()), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def close(self):
        if hasattr(self, "url"):
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def policy(self, rule, *, roots="root.json"):
        text = POLICY.format(
            witnesses=self.log.folder / "witnesses.txt",
            product=PRODUCT,
            rule=rule.replace("KEYS", '["first.pub", "second.pub"]'),
            sigstore=f'[sigstore]\nroots = "{roots}"\n' if roots else "",
        )
        (self.folder / "policy.toml").write_text(text)
        return self.path("policy.toml")

    def publish(self, built, *more, rule=f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]", keyless=True):
        command = ["publish", str(built), "--log", self.url, "--policy", self.policy(rule)]
        command += ["--out", self.path("x.release.json")]
        if keyless:
            command += ["--keyless", "--identity-token", self.path("token")]
            command += ["--sigstore-root", self.path("root.json")]
        return main([*command, *more])

    def release(self):
        return (self.folder / "x.release.json").read_bytes()

    def attestation(self):
        parsed = entry.parse_entry(bundles.parse_bundle(self.release()).subject.leaf)
        assert isinstance(parsed, Attestation)
        return parsed

    def judged(self, rule, **how):
        """The checks of the release under a policy with another rule."""
        policy = load_policy(Path(self.policy(rule, **how)))
        return self.checks(self.release(), policy)

    @staticmethod
    def checks(data, policy):
        import time

        verdict = verify_bundle(data, policy=policy, now_ms=int(time.time() * 1000))
        return {check.name: (str(check.result), check.detail) for check in verdict.checks}


POLICY = """\
[log]
policy = "{witnesses}"
[publishers."{product}"]
{rule}
{sigstore}[rebuilders]
threshold = 1
keys = ["rebuilder.pub"]
[revokers]
keys = []
[quotes]
root = "sgx-root.der"
tcb_status = ["UpToDate"]
min_evaluation_number = 1
[quotes.advisories]
[freshness]
registration_max_age_s = 86400
collateral_max_age_s = 2592000
checkpoint_max_age_s = 300
nonce_required = true
announcement_delay_s = 0
"""


@pytest.fixture
def world(tmp_path, make_log, instance, sigstore_instance):
    made = World(tmp_path, make_log, instance, sigstore_instance.identity_token())
    yield made
    made.close()


def error_of(capsys):
    return capsys.readouterr().err


# What works


def test_an_identity_publishes_and_the_client_and_sigstores_own_verifier_accept_it(world, built, capsys):
    world.serve(rule=f"threshold = 1\nidentities = [{SOMEONE}]")
    outs = ("--bundle-out", world.path("b.json"), "--trusted-root-out", world.path("r.json"), "--json")
    assert world.publish(built, *outs) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["release"] == "tiny-product@1.2.3"
    (certificate,) = signers.certificates(world.attestation())
    assert certificate.identity.identity == "someone@example.com"
    checks = world.judged(f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]")
    assert checks["release-signature"][0] == checks["release-publishers"][0] == "pass"
    assert "someone@example.com (by https://issuer.example)" in checks["release-publishers"][1]
    found = world.log.client().get("/api/v1/entries?kind=attestation&identity=someone@example.com").json
    assert [each["index"] for each in found["entries"]] == [said["provenance_index"], said["index"]]
    page = world.log.client().get(f"/entry/{said['index']}.json").json
    assert "someone@example.com" in json.dumps(page)
    verify_by_sigstore(world)


def verify_by_sigstore(world):
    from sigstore.errors import VerificationError
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity

    data = Path(world.path("b.json")).read_text()
    assert json.loads(data)["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    verifier = Verifier(trusted_root=TrustedRoot.from_file(world.path("r.json")))
    policy = Identity(identity="someone@example.com", issuer="https://issuer.example")
    kind, payload = verifier.verify_dsse(Bundle.from_json(data), policy)
    envelope = world.attestation().envelope
    assert (kind, payload) == (envelope.payload_type, envelope.payload)
    other = Identity(identity="other@example.com", issuer="https://issuer.example")
    with pytest.raises(VerificationError):
        verifier.verify_dsse(Bundle.from_json(data), other)
    value = json.loads(data)
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"1.2.3", b"1.2.4")).decode()
    with pytest.raises(VerificationError):
        verifier.verify_dsse(Bundle.from_json(json.dumps(value)), policy)


def test_npm_accepts_the_bundle_of_an_identity(npm, world, built):
    world.serve()
    assert (
        world.publish(built, "--bundle-out", world.path("b.json"), "--trusted-root-out", world.path("r.json"))
        == 0
    )
    values = {
        name: json.loads(Path(world.path(f"{name[0]}.json")).read_text()) for name in ("bundle", "root")
    }
    status, _, errors = npm("verify", **values)
    assert status == 0, errors
    values["bundle"]["dsseEnvelope"]["payload"] = base64.b64encode(b"{}").decode()
    assert npm("verify", **values)[0] == 1


def test_npm_accepts_the_bundle_of_a_key(npm, world, built):
    world.serve()
    rule = "threshold = 1\nkeys = KEYS"
    more = ("--key", world.path("first"), "--bundle-out", world.path("b.json"))
    assert world.publish(built, *more, rule=rule, keyless=False) == 0
    root = {**world.instance.trusted_root(), "tlogs": [tlog_of(world)]}
    values = {"root": root, "bundle": json.loads(Path(world.path("b.json")).read_text())}
    key = (world.folder / "first.pub").read_text()
    status, _, errors = npm("verify", key=key, **values)
    assert status == 0, errors
    assert npm("verify", key=(world.folder / "second.pub").read_text(), **values)[0] == 1


def tlog_of(world):
    from assay.builder.sigstore_bundle import tlog_instance

    policy = load_policy(Path(world.policy("threshold = 1\nkeys = KEYS"))).log
    return tlog_instance("log.test.example", policy)


def test_keys_and_an_identity_sign_in_their_order_and_meet_a_threshold_together(world, built):
    rule = f"threshold = 3\nkeys = KEYS\nidentities = [{SOMEONE}]"
    world.serve(rule=rule.replace("KEYS", json.dumps([world.path("first.pub"), world.path("second.pub")])))
    keys = ("--key", world.path("second"), "--key", world.path("first"))
    assert world.publish(built, *keys, rule=rule) == 0
    *plain, certified = world.attestation().verifiers
    expected = [p256.spki(world.keys[name].public_key()) for name in ("second", "first")]
    assert plain == expected
    assert isinstance(certified, CertificateVerifier)
    assert world.judged(rule)["release-publishers"][0] == "pass"
    for other in (OTHER_NAME, OTHER_ISSUER):
        assert world.judged(rule.replace(SOMEONE, other))["release-publishers"][0] == "fail"


@pytest.mark.parametrize("position", [1, 2])
def test_a_signature_by_a_key_is_exported_afterwards(world, built, position, capsys):
    world.serve()
    rule = "threshold = 2\nkeys = KEYS"
    keys = ("--key", world.path("first"), "--key", world.path("second"))
    assert world.publish(built, *keys, rule=rule, keyless=False) == 0
    command = [
        "export-bundle",
        world.path("x.release.json"),
        "--log",
        world.url,
        "--policy",
        world.policy(rule),
    ]
    command += ["--out", world.path("b.json"), "--signature", str(position)]
    assert main(command) == 0
    value = json.loads(Path(world.path("b.json")).read_text())
    key = world.keys[("first", "second")[position - 1]].public_key()
    material, envelope = value["verificationMaterial"], value["dsseEnvelope"]
    assert material["publicKey"] == {"hint": p256.signer_id(p256.spki(key))}
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    (logged,) = material["tlogEntries"]
    spec = json.loads(base64.b64decode(logged["canonicalizedBody"]))["spec"]["hashedRekordV002"]
    assert spec["signature"]["content"] == envelope["signatures"][0]["sig"]
    capsys.readouterr()
    assert main([*command[:-1], "3"]) == 2


def test_the_log_shows_the_release_of_an_identity_to_whoever_collects(world, built):
    world.serve()
    assert world.publish(built) == 0
    policy = load_policy(Path(world.policy(f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]")))
    log = LogClient(world.url, policy=policy.log)
    mr_enclave = bytes.fromhex(json.loads((built / "build.json").read_bytes())["mr_enclave"])
    found = collect_release(log, mr_enclave=mr_enclave, policy=policy)
    assert found.release is not None
    data = bundles.format_bundle(bundles.Bundle(found.release, None, None, None, ()))
    assert world.checks(data, policy)["release-publishers"][0] == "pass"
    strangers = load_policy(Path(world.policy(f"threshold = 1\nkeys = []\nidentities = [{OTHER_NAME}]")))
    assert collect_release(log, mr_enclave=mr_enclave, policy=strangers).release is None


def test_a_release_of_an_identity_is_rebuilt(world, built, workshop, capsys):
    world.serve()
    assert world.publish(built) == 0
    capsys.readouterr()
    shutil.copytree(workshop.recipe, workshop.source / "reproducible" / "tiny")
    command = ["rebuild", world.path("x.release.json"), "--source", str(workshop.source)]
    command += [
        "--key",
        world.path("rebuilder"),
        "--log",
        world.url,
        "--wheels",
        str(workshop.wheels),
        "--json",
    ]
    rule = f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]"
    code = main([*command, "--policy", world.policy(rule)])
    assert (code, json.loads(capsys.readouterr().out.splitlines()[-1])["verdict"]) == (0, "REPRODUCED")
    assert main([*command, "--policy", world.policy(rule.replace(SOMEONE, OTHER_NAME))]) == 1
    assert "error[publisher]" in error_of(capsys)


# What the log refuses


def test_a_log_that_lists_another_identity_refuses(world, built, capsys):
    for other in (OTHER_NAME, OTHER_ISSUER):
        world.serve(rule=f"threshold = 1\nidentities = [{other}]")
        assert world.publish(built) == 1
        assert "error[publisher]" in error_of(capsys)
        assert not (world.folder / "x.release.json").exists()
        (world.folder / "x.release.json.pending").unlink()
        world.close()


def test_a_threshold_of_an_identity_and_a_key_is_not_met_by_one(world, built, capsys):
    rule = f'threshold = 2\nkeys = ["{world.path("first.pub")}"]\nidentities = [{SOMEONE}]'
    world.serve(rule=rule)
    assert world.publish(built) == 1
    assert "error[publisher]" in error_of(capsys)
    (world.folder / "x.release.json.pending").unlink()
    assert world.publish(built, "--key", world.path("first")) == 0


def test_a_log_without_roots_refuses_certificates(world, built, capsys):
    world.serve(roots=False)
    assert world.publish(built) == 1
    assert "error[no-sigstore-roots]" in error_of(capsys)


def test_a_log_with_other_roots_refuses(world, built, sigstore_instance, capsys):
    good = (world.folder / "root.json").read_text()
    (world.folder / "root.json").write_text(json.dumps(sigstore_instance.Authority().trusted_root()))
    world.serve()
    (world.folder / "root.json").write_text(good)
    assert world.publish(built) == 1
    assert "error[certificate-chain]" in error_of(capsys)


def test_a_certificate_of_an_enclaves_key_is_refused(world, built, monkeypatch, capsys):
    world.serve()
    monkeypatch.setattr("assay.log_server.admission.EnclaveKeys.has", lambda self, signer, now_ms: True)
    assert world.publish(built, keyless=True) == 1
    assert "keyless" in error_of(capsys)  # refused as a hashedrekord already


def test_a_certified_enclave_key_signs_no_statement(world, built, sigstore_instance, monkeypatch):
    from cryptography.hazmat.primitives.serialization import Encoding

    from assay.attest.sigstore_roots import parse_roots
    from assay.log_server.admission import Admission, EnclaveKeys

    key = world.keys["first"]
    certificate = world.instance.issue(key.public_key()).public_bytes(Encoding.DER)
    plain = publishing.attest(statement_of(built), [key])
    certified = Attestation(plain.envelope, (CertificateVerifier(certificate),))
    roots = parse_roots(json.dumps(world.instance.trusted_root()).encode())
    state = SimpleNamespace(find_terms=lambda terms, limit=None: [], entry=lambda index: None)
    admission = Admission(
        origin="x", kinds=frozenset(["attestation"]), roots=(), publishers=None, state=state, sigstore=roots
    )
    now_ms = int(certified_time(certificate) * 1000)
    leaf = entry.format_entry(certified)
    assert admission.admit(leaf, now_ms=now_ms)
    monkeypatch.setattr(EnclaveKeys, "has", lambda self, signer, now_ms: True)
    with pytest.raises(UntrustedError) as caught:
        admission.admit(leaf, now_ms=now_ms)
    assert caught.value.code == "enclave-key"


def certified_time(der):
    from assay.attest.sigstore_certificate import parse_signing_certificate

    return parse_signing_certificate(der).not_before.timestamp() + 1


def statement_of(built):
    from assay.attest import statement
    from assay.attest.statement import Statement
    from assay.builder.output import load_build
    from assay.builder.publish import ReleaseTerms, release_of

    said = release_of(load_build(built), ReleaseTerms((), 1, None, 1, None, None))
    return Statement(statement.release_subjects(said), said)


def test_a_log_that_takes_no_hashedrekord_takes_no_keyless_release(world, built, capsys):
    world.serve(kinds='["attestation"]')
    assert world.publish(built) == 1
    assert "error[keyless]" in error_of(capsys)


@pytest.mark.parametrize(
    "extra",
    [
        f'[admission.publishers."x"]\nthreshold = 1\nidentities = [{SOMEONE}]\n',
        f'[admission.publishers."x"]\nthreshold = 1\nidentities = [{SOMEONE}, {SOMEONE}]\n[sigstore]\nroots = "ROOTS"\n',
        f'[admission.publishers."x"]\nthreshold = 2\nidentities = [{SOMEONE}]\n[sigstore]\nroots = "ROOTS"\n',
        '[admission.publishers."x"]\nthreshold = 1\n[sigstore]\nroots = "ROOTS"\n',
        '[admission.publishers."x"]\nthreshold = 1\nidentities = [{ identity = "a" }]\n[sigstore]\nroots = "ROOTS"\n',
        '[sigstore]\nroots = "TOKEN"\n',
        '[sigstore]\nnonsense = "ROOTS"\n',
    ],
    ids=["no roots", "twice", "threshold", "nobody", "no issuer", "no roots in the file", "unknown"],
)
def test_a_log_does_not_start_with(world, make_log, extra):
    extra = extra.replace("ROOTS", world.path("root.json")).replace("TOKEN", world.path("token"))
    with pytest.raises(MalformedError):
        make_log(extra=extra).open()


# What a relying party refuses


def test_a_relying_party_counts_no_identity_that_does_not_verify(world, built, sigstore_instance):
    world.serve()
    assert world.publish(built) == 0
    good = f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]"
    (world.folder / "other.json").write_text(json.dumps(sigstore_instance.Authority().trusted_root()))
    result, detail = world.judged(good, roots="other.json")["release-publishers"]
    assert result == "fail"
    assert "certificate-chain" in detail
    for rule in (
        good.replace(SOMEONE, OTHER_NAME),
        good.replace(SOMEONE, OTHER_ISSUER),
        f"threshold = 2\nkeys = []\nidentities = [{SOMEONE}, {OTHER_NAME}]",
        "threshold = 1\nkeys = KEYS",
    ):
        assert world.judged(rule)["release-publishers"][0] == "fail"
    result, detail = world.judged("threshold = 1\nkeys = KEYS", roots=None)["release-publishers"]
    assert result == "fail"
    assert "no Sigstore roots" in detail
    certificate_key = signers.certificates(world.attestation())[0].spki
    (world.folder / "first.pub").write_bytes(
        serialization.load_der_public_key(certificate_key).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    assert world.judged("threshold = 1\nkeys = KEYS")["release-publishers"][0] == "fail"


@pytest.mark.parametrize(
    ("rule", "roots"),
    [
        (f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]", None),
        (f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]", "token"),
        (f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}, {SOMEONE}]", "root.json"),
        (f"threshold = 2\nkeys = []\nidentities = [{SOMEONE}]", "root.json"),
        ("threshold = 1\nkeys = []\nidentities = []", "root.json"),
        ("threshold = 1\nkeys = []", "root.json"),
        ('threshold = 1\nkeys = []\nidentities = [{ identity = "a" }]', "root.json"),
        ('threshold = 1\nkeys = []\nidentities = [{ identity = "a", issuer = "" }]', "root.json"),
        ('threshold = 1\nkeys = []\nidentities = [{ identity = "a b", issuer = "c" }]', "root.json"),
        (
            'threshold = 1\nkeys = []\nidentities = [{ identity = "a", issuer = "c", more = "d" }]',
            "root.json",
        ),
        ('threshold = 1\nkeys = []\nidentities = ["a"]', "root.json"),
        (f"threshold = 1\nidentities = [{SOMEONE}]", "root.json"),
    ],
)
def test_a_policy_is_refused_with(world, rule, roots):
    world.serve()
    with pytest.raises(MalformedError) as caught:
        load_policy(Path(world.policy(rule, roots=roots)))
    assert caught.value.code == "policy"


# What the publisher's side refuses


def test_an_interrupted_publication_goes_on_with_the_same_certificate(
    world, built, monkeypatch, sigstore_instance
):
    world.serve()
    known = LogClient.submit

    def fail_second(self, data):
        if len(calls) == 1:
            raise UnavailableError("gone")
        calls.append(data)
        return known(self, data)

    calls = []
    monkeypatch.setattr(LogClient, "submit", fail_second)
    assert world.publish(built) == 3
    monkeypatch.setattr(LogClient, "submit", known)
    (world.folder / "token").write_text("no token any more")
    # a new signer is opened before the pending entries are looked at, and the token is wrong now
    assert world.publish(built) == 1
    (world.folder / "token").write_text(sigstore_instance.identity_token())
    assert world.publish(built, "--bundle-out", world.path("b.json")) == 0
    assert bundles.parse_bundle(world.release()).subject.leaf == calls[0]


def test_a_certificate_that_ran_out_after_the_log_had_the_entries_finishes_the_publication(
    world, built, monkeypatch, capsys
):
    world.serve()
    pending, submit, seen = world.folder / "x.release.json.pending", LogClient.submit, []

    def watch(self, data):
        seen.append(pending.read_bytes())
        return submit(self, data)

    monkeypatch.setattr(LogClient, "submit", watch)
    assert world.publish(built) == 0
    first = bundles.parse_bundle(world.release()).subject.leaf

    def expired(self, data):
        raise UntrustedError("not any more", code="certificate-time")

    monkeypatch.setattr(LogClient, "submit", expired)
    (world.folder / "x.release.json").unlink()
    pending.write_bytes(seen[0])
    assert world.publish(built) == 0
    assert bundles.parse_bundle(world.release()).subject.leaf == first
    (world.folder / "x.release.json").unlink()
    world.close()
    world.serve()  # another log, which has none of it
    capsys.readouterr()
    pending.write_bytes(seen[0])
    assert world.publish(built) == 1
    assert "error[certificate-time]" in error_of(capsys)
    pending.write_bytes(b"{}")
    assert world.publish(built) == 1
    assert "error[pending]" in error_of(capsys)


@pytest.mark.parametrize("token", [b"", b"  \n", b"x" * 70_000, b"\xff", b"not.a.token"])
def test_an_unusable_token_is_refused_and_never_shown(world, built, capsys, token):
    world.serve()
    (world.folder / "token").write_bytes(token)
    assert world.publish(built) == 1
    printed = error_of(capsys)
    assert "error[identity-token]" in printed or "error[keyless]" in printed
    assert "not.a.token" not in printed


def test_a_ca_that_does_not_answer_is_unavailable(world, built, capsys):
    world.serve()
    value = world.instance.trusted_root()
    value["certificateAuthorities"][0]["uri"] = "http://127.0.0.1:1"
    (world.folder / "root.json").write_text(json.dumps(value))
    assert world.publish(built) == 3
    assert "error[keyless]" in error_of(capsys)


def test_a_certificate_that_the_pinned_file_does_not_vouch_for_is_not_used(
    world, built, sigstore_instance, capsys
):
    """The CA behind the address is another one than the pinned."""
    world.serve()
    value = sigstore_instance.Authority().trusted_root()
    value["certificateAuthorities"][0]["uri"] = world.instance.url
    (world.folder / "root.json").write_text(json.dumps(value))
    assert world.publish(built) == 1
    assert "error[" in error_of(capsys)
    assert world.log.client().get("/api/v1/log").json["size"] == 0


def test_a_certificates_signature_is_not_exported_afterwards(world, built, capsys):
    world.serve()
    assert world.publish(built) == 0
    rule = f"threshold = 1\nkeys = []\nidentities = [{SOMEONE}]"
    command = [
        "export-bundle",
        world.path("x.release.json"),
        "--log",
        world.url,
        "--policy",
        world.policy(rule),
    ]
    assert main([*command, "--out", world.path("b.json")]) == 1
    assert "error[no-timestamp]" in error_of(capsys)


@pytest.mark.parametrize("kind", ["pem", "no address", "ended", "no timestamps"])
def test_signing_needs_roots_that_name_a_ca_in_force(world, kind):
    value = world.instance.trusted_root()
    if kind == "no address":
        del value["certificateAuthorities"][0]["uri"]
    if kind == "no timestamps":
        value["timestampAuthorities"] = []
    if kind == "ended":
        value["certificateAuthorities"][0]["validFor"]["end"] = "2001-01-01T00:00:00Z"
    data = world.instance.pem() if kind == "pem" else json.dumps(value).encode()
    with pytest.raises(MalformedError):
        client_trust_config(data, log_url="http://127.0.0.1:1", now_s=2_000_000_000)


def test_keyless_signing_without_a_ci_system_needs_a_token(world, built, monkeypatch, capsys):
    world.serve()
    for name in ("GITHUB_ACTIONS", "BUILDKITE", "GITLAB_CI", "CIRCLECI", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    command = [
        "publish",
        str(built),
        "--keyless",
        "--sigstore-root",
        world.path("root.json"),
        "--log",
        world.url,
    ]
    assert (
        main([*command, "--policy", world.policy("threshold = 1\nkeys = KEYS"), "--out", world.path("x")])
        == 1
    )
    assert "error[identity-token]" in error_of(capsys)


def test_the_keyless_path_says_which_extra_it_needs(world, built, monkeypatch, capsys):
    world.serve()
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "sigstore" else found(name, *more)
    )
    assert world.publish(built) == 2
    assert "[sigstore]" in error_of(capsys)


def test_a_signer_is_refused_by_name(world, sigstore_instance):
    with pytest.raises(UntrustedError) as caught:
        KeylessSigner(
            "x.y.z",
            trusted_root=json.dumps(world.instance.trusted_root()).encode(),
            log_url="http://127.0.0.1:1",
            now_s=lambda: 2_000_000_000,
        )
    assert caught.value.code == "keyless"
    assert "x.y.z" not in str(caught.value)
