"""The client against the real log server: that both mean the same interface."""

import hashlib
import threading
import time
from types import SimpleNamespace

import pytest
from werkzeug.serving import make_server

from assay.attest import bundle as bundles
from assay.attest import entry
from assay.attest.entry import EnclaveSubmission
from assay.attest.quote.collateral import format_collateral
from assay.attest.simulated.platform import SimulatedPlatform
from assay.client import collect, host
from assay.client.host import Surroundings
from assay.client.log import LogClient
from assay.client.verify import verify_bundle
from assay.log_server import config as configuration
from assay.log_server import migrations
from assay.log_server.anchor import AnchorFile
from assay.log_server.app import create_app
from assay.log_server.sequencer import initialise
from assay.log_server.service import LogService
from assay.log_server.wiring import open_store
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.cosignature import cosign
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import format_key_file
from assay.tlog.merkle import leaf_hash
from assay.tlog.witness_protocol import parse_add_checkpoint

pytestmark = pytest.mark.slow


class serving:
    """A WSGI application on a loopback port."""

    def __init__(self, app):
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def credulous_witness(signer):
    """Cosigns whatever it is shown; the real one is tested elsewhere."""

    def app(environ, start_response):
        if environ["REQUEST_METHOD"] == "GET":
            start_response("404 Not Found", [])
            return [b""]
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        head = parse_signed_checkpoint(parse_add_checkpoint(body).checkpoint).checkpoint
        start_response("200 OK", [])
        return [cosign(head, signer, time_s=int(time.time())).line.encode()]

    return app


@pytest.fixture
def run(world, tmp_path):
    now_s = int(time.time())
    machine = SimulatedPlatform(hashlib.sha256(b"machine").digest(), epoch_s=now_s)
    (tmp_path / "root.der").write_bytes(machine.root_der)
    (tmp_path / "collateral").mkdir()
    collateral = format_collateral(machine.collateral(issued_s=now_s - 60))
    (tmp_path / "collateral" / f"{machine.fmspc.hex()}.json").write_bytes(collateral)
    (tmp_path / "log.key").write_text(format_key_file(world.LOG_KEYS))
    with (
        serving(credulous_witness(world.WITNESSES[0])) as w1,
        serving(credulous_witness(world.WITNESSES[1])) as w2,
    ):
        text = world.log_policy_text()
        for row, witness in zip(text.split("\n")[2:4], (w1, w2), strict=True):
            text = text.replace(row, f"{row} {witness.url}")
        (tmp_path / "policy.txt").write_text(text)
        (tmp_path / "log.toml").write_text(CONFIG)
        config = configuration.load(tmp_path / "log.toml")
        store = open_store(config, folder=tmp_path)
        migrations.upgrade(store.engine)
        anchor = AnchorFile(tmp_path / config.anchor)
        initialise(store, anchor, signers=world.LOG_KEYS, now_ms=now_s * 1000, published=False)
        store.close()
        service = LogService(config, folder=tmp_path)
        service.start()
        try:
            with serving(create_app(service)) as log:
                policy = world.parse_policy(
                    world.policy_text(text).encode(),
                    resolve=lambda name: machine.root_der if name == "root.der" else world.resolve(name),
                    intel_root=b"",
                )
                client = LogClient(log.url, policy=policy.log)
                yield SimpleNamespace(client=client, policy=policy, machine=machine, now_s=now_s, url=log.url)
        finally:
            service.stop()


CONFIG = """
origin = "log.example"
key = "log.key"
database = "log.db"
anchor = "anchor"
[witnesses]
policy = "policy.txt"
[[admission.roots]]
name = "simulated"
certificate = "root.der"
collateral = "collateral"
"""


def publish(world, run):
    said = world.release(valid_from_ms=run.now_s * 1000, effective_after_ms=run.now_s * 1000)
    released = run.client.submit(world.signed_statement(said, said.digests, ["publisher"]))
    made = world.rebuild(released.logged.leaf, said)
    run.client.submit(world.signed_statement(made, made.expected, ["rebuilder"]))
    return released.logged


def test_whole_story_through_the_real_log(world, run):
    released = publish(world, run)
    story = world.Story(machine=run.machine, answered_ms=0)
    registered = run.client.submit(entry.format_entry(EnclaveSubmission(story.evidence()))).logged
    story = world.Story(machine=run.machine, answered_ms=int(time.time() * 1000))
    seen = parse_signed_checkpoint(run.client.checkpoint()).checkpoint
    head = world.LogHead(seen.size, seen.root, int(time.time()))
    made = story.answer(registered.leaf, head)
    receipt = run.client.submit(made.leaf).logged
    bundle = collect.collect_bundle(run.client, receipt, answer=made.held, policy=run.policy)
    assert bundle.release.leaf == released.leaf
    assert run.client.submit(released.leaf).logged.leaf == released.leaf
    now_ms = int(time.time() * 1000)
    verdict = verify_bundle(bundles.format_bundle(bundle), policy=run.policy, now_ms=now_ms)
    assert verdict.verified, verdict.first_problem()


def test_asking_by_the_real_log(world, run):
    publish(world, run)
    story = world.Story(machine=run.machine, answered_ms=int(time.time() * 1000))
    registered = run.client.submit(entry.format_entry(EnclaveSubmission(story.evidence()))).logged
    told = SimpleNamespace(bundle=SimpleNamespace(enclave=SimpleNamespace(logged=registered)))

    def answer_only(enclave, ask, stream):
        seen = parse_signed_checkpoint(run.client.checkpoint()).checkpoint
        head = world.LogHead(seen.size, seen.root, int(time.time()))
        enclave.story = world.Story(machine=run.machine, answered_ms=int(time.time() * 1000))
        made = enclave.story.answer(registered.leaf, head, request=ask.request, nonce=ask.request_id)
        yield enclave.last(stream, enclave.answer(made))

    with world.FakeEnclave(story, told, None, replies=answer_only) as served:
        asked = host.ask(
            host.messages_request("How tall?", model="a-model", max_tokens=9),
            address=served.address,
            policy=run.policy,
            log=run.client,
            surroundings=Surroundings(
                now_ms=lambda: int(time.time() * 1000),
                random_bytes=bytes,
                on_text=lambda text: None,
            ),
        )
    assert asked.result == world.RESULT
    assert asked.verdict.verified, asked.verdict.first_problem()


def test_refusals_of_the_real_log_have_its_codes(world, run):
    with pytest.raises(MalformedError) as caught:
        run.client.submit(b'{"apiVersion":"0.1.0","kind":"x","spec":{}}')
    assert caught.value.code == "unknown-kind"
    told = world.Story().tell()
    with pytest.raises(UntrustedError) as caught:
        run.client.submit(told.made.leaf)
    assert caught.value.code
    released = publish(world, run)
    assert run.client.first_published_size(0) in (1, 2)
    assert run.client.leaf(leaf_hash(released.leaf)).index == 0
