"""A log fetches collateral itself: configured, archived answer by answer, warned of, and never from a stranger."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from werkzeug.serving import make_server

from assay import cli
from assay.attest import claims, entry, p256
from assay.attest.claims import Claims
from assay.attest.entry import EnclaveSubmission
from assay.attest.measurement import Tee
from assay.attest.quote.collateral import format_collateral, parse_collateral
from assay.attest.quote.pck import PckCa
from assay.attest.quote.verify import verify_sgx_quote
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.pcs import FMSPC, TcbLevel
from assay.attest.simulated.pcs_service import Answer, SimulatedPcs
from assay.attest.simulated.platform import SimulatedPlatform, Variant
from assay.fetch.blobs import blob_path
from assay.fetch.collateral import CollateralWarning, PlatformFamily, ProvidedCollateral
from assay.fetch.collateral_archive import CollateralArchive
from assay.log_server import config as configuration
from assay.log_server import models
from assay.log_server.app import create_app
from assay.log_server.collateral import WarningProvider
from assay.log_server.evidence import referred_blobs
from assay.tlog.errors import MalformedError

NOW_S = int(time.time())
SEED = bytes([3]) * 32
PLATFORM = SimulatedPlatform(SEED, epoch_s=NOW_S)
STRANGER = SimulatedPlatform(bytes([4]) * 32, epoch_s=NOW_S)
FAMILY = PlatformFamily(Tee.SGX, FMSPC, PckCa.PLATFORM)
KEY = ec.derive_private_key(31, ec.SECP256R1())
ROOT = '[[admission.roots]]\nname = "simulated"\ncertificate = "root.der"\n'


class Pcs(ThreadingHTTPServer):
    """The simulated service; ``issued_s`` and ``status`` can be set."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        early = Variant(tcb_levels=(TcbLevel(bytes(16), 5, NOW_S, "OutOfDate"),))
        self.service = SimulatedPcs(SEED, epoch_s=NOW_S, early=early)
        self.issued_s = NOW_S - 60
        self.status = None
        self.asked = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.service.answer(self.path, issued_s=self.server.issued_s)
        if self.server.status is not None:
            answer = Answer(self.server.status)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def pcs():
    server = Pcs()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_log(make_log, pcs):
    def make(extra=""):
        log = make_log(extra=f'{ROOT}[admission.roots.pcs]\nurl = "{pcs.url}"\ntimeout_s = 1\n{extra}')
        (log.folder / "root.der").write_bytes(PLATFORM.root_der)
        log.open()
        return log

    return make


def evidence(*, boot=1, platform=PLATFORM):
    said = Claims(
        kem=claims.KEM_X25519,
        kdf=claims.KDF_HKDF_SHA256,
        aead=claims.AEAD_CHACHA20_POLY1305,
        hpke_public_key=X25519PrivateKey.from_private_bytes(bytes([5]) * 32).public_key().public_bytes_raw(),
        nonce=None,
        boot_id=bytes([boot]) * 16,
        log_origin="log.test.example",
        log_policy_sha256=bytes(32),
        config_sha256=bytes(32),
        last_receipt=None,
    )
    report = platform.report(
        mr_enclave=bytes([7]) * 32,
        mr_signer=bytes(32),
        isv_prod_id=1,
        isv_svn=1,
        report_data=claims.report_data(p256.spki(KEY.public_key()), said),
    )
    return claims.sign_evidence(KEY, platform.quote(report), said)


def submit(log, **how):
    return log.client().post("/api/v1/entries", data=entry.format_entry(EnclaveSubmission(evidence(**how))))


def registration(log, index):
    return entry.parse_entry(log.service.store.entry(index))


NAMES = ["dcap", "pck_crl", "qe_identity", "root_ca_crl", "tcb_info"]


def test_an_enclave_registers_and_a_verifier_needs_the_log_s_archive_only(open_log, pcs):
    log = open_log()
    assert submit(log).status_code == 201
    logged = registration(log, 0)
    assert sorted(logged.appraisal.collateral) == NAMES
    client = log.client()

    def read(sha256):
        answer = client.get(f"/{blob_path(sha256)}")
        return answer.data if answer.status_code == 200 else None

    appraised_s = logged.appraisal.appraised_at_ms // 1000
    archived = CollateralArchive(read).collateral(logged.appraisal.collateral, appraised_at_s=appraised_s)
    assert archived.responses is not None
    verified = verify_sgx_quote(
        logged.evidence.quote,
        archived.collateral,
        root=TrustedRoot("mine", PLATFORM.root_der),
        now_s=appraised_s,
    )
    assert (verified.tcb_status, verified.mr_enclave) == (logged.appraisal.tcb_status, bytes([7]) * 32)


def test_every_blob_of_an_entry_is_referred_to_and_kept(open_log):
    log = open_log()
    submit(log)
    leaf = log.service.store.entry(0)
    assert sorted(referred_blobs(leaf)) == sorted(registration(log, 0).appraisal.collateral.values())
    for sha256 in referred_blobs(leaf):
        assert hashlib.sha256(log.service.store.blob(sha256)).digest() == sha256


def test_entries_of_a_day_share_their_blobs_and_one_fetch(open_log, pcs):
    log = open_log()
    for boot in (1, 2, 3):
        assert submit(log, boot=boot).status_code == 201
    first, *others = (registration(log, index).appraisal.collateral for index in range(3))
    assert all(other == first for other in others)
    assert len(pcs.asked) == 4


def test_another_process_that_fetches_the_same_keeps_nothing_twice(open_log, pcs):
    log = open_log()
    submit(log, boot=1)
    log.close()
    log.open()
    submit(log, boot=2)
    assert len(pcs.asked) == 8
    assert registration(log, 0).appraisal.collateral == registration(log, 1).appraisal.collateral


def test_a_part_that_did_not_change_is_the_same_blob(open_log, pcs):
    log = open_log()
    submit(log, boot=1)
    log.close()
    pcs.service = _WithOldRootCrl(pcs.service, issued_s=pcs.issued_s)
    pcs.issued_s += 30
    log.open()
    submit(log, boot=2)
    first, second = (registration(log, index).appraisal.collateral for index in range(2))
    assert {name for name in NAMES if first[name] == second[name]} == {"root_ca_crl"}


class _WithOldRootCrl:
    def __init__(self, service, *, issued_s):
        self._service, self._issued_s = service, issued_s

    def answer(self, target, *, issued_s):
        return self._service.answer(target, issued_s=self._issued_s if "rootcacrl" in target else issued_s)


def test_pages_show_every_hash(open_log):
    log = open_log()
    submit(log)
    page = log.client().get("/entry/0", headers={"Accept": "text/html"}).data.decode()
    for sha256 in registration(log, 0).appraisal.collateral.values():
        assert sha256.hex() in page


# Refusals


def test_a_stranger_s_quote_makes_nobody_ask_for_collateral(open_log, pcs):
    log = open_log()
    answer = submit(log, platform=STRANGER)
    assert (answer.status_code, answer.json["code"]) == (403, "untrusted-chain")
    assert pcs.asked == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "no-collateral"),
        (410, "collateral-withdrawn"),
        (500, "collateral-source"),
        (400, "collateral-source"),
    ],
)
def test_without_collateral_nobody_registers_and_may_come_again(open_log, pcs, status, code):
    log = open_log()
    pcs.status = status
    answer = submit(log)
    assert (answer.status_code, answer.json["code"]) == (503, code)
    assert answer.headers["Retry-After"]
    assert log.client().get("/api/v1/log").json["size"] == 0


def test_a_strange_service_is_the_log_s_trouble_and_not_the_submitter_s(open_log, pcs):
    pcs.service = SimulatedPcs(bytes([4]) * 32, epoch_s=NOW_S)
    answer = submit(open_log())
    assert (answer.status_code, answer.json["code"]) == (503, "bad-collateral")


def test_expired_collateral_admits_nobody(open_log, pcs):
    pcs.issued_s = NOW_S - 31 * 86_400
    answer = submit(open_log())
    assert (answer.status_code, answer.json["code"]) == (503, "collateral-expired")


def test_collateral_of_the_future_admits_nobody(open_log, pcs):
    pcs.issued_s = NOW_S + 3600
    answer = submit(open_log())
    assert (answer.status_code, answer.json["code"]) == (403, "collateral-not-yet-valid")


def test_a_withdrawn_evaluation_number_admits_nobody(open_log):
    answer = submit(open_log("tcb_evaluation_number = 19\n"))
    assert (answer.status_code, answer.json["code"]) == (503, "collateral-withdrawn")


def test_another_update_is_judged_on(open_log):
    log = open_log('update = "early"\n')
    assert submit(log).status_code == 201
    assert registration(log, 0).appraisal.tcb_status == "OutOfDate"


# Entries as they were


def test_an_entry_that_names_the_collateral_alone_is_still_read(make_log):
    log = make_log(extra=ROOT + 'collateral = "collateral"\n')
    (log.folder / "root.der").write_bytes(PLATFORM.root_der)
    (log.folder / "collateral").mkdir()
    data = format_collateral(PLATFORM.collateral(issued_s=NOW_S - 60))
    (log.folder / "collateral" / f"{FMSPC.hex()}.json").write_bytes(data)
    log.open()
    assert submit(log).status_code == 201
    collateral = registration(log, 0).appraisal.collateral
    assert collateral == {"dcap": hashlib.sha256(data).digest()}
    archived = CollateralArchive(log.service.store.blob).collateral(collateral, appraised_at_s=NOW_S)
    assert archived.collateral == parse_collateral(data)


# Warnings


def test_early_tcb_data_are_watched_and_judged_on_are_the_others(open_log):
    with structlog.testing.capture_logs() as logged:
        log = open_log("watch_early = true\n")
        for boot in (1, 2):
            assert submit(log, boot=boot).status_code == 201
    early = [each for each in logged if each["event"] == "tcb-early"]
    assert {each["root"] for each in early} == {"simulated"}
    assert any("OutOfDate" in each["detail"] for each in early)
    assert len({each["detail"] for each in early}) == len(early)
    assert registration(log, 0).appraisal.tcb_status == "UpToDate"


def test_collateral_that_expires_soon_is_said_to(open_log, pcs):
    pcs.issued_s = NOW_S - 25 * 86_400
    with structlog.testing.capture_logs() as logged:
        assert submit(open_log()).status_code == 201
    assert {each["event"] for each in logged if each.get("root")} == {"collateral-expires"}


class Warning_:
    def __init__(self, *warnings):
        self.warnings = warnings

    def collateral(self, family, *, now_s):
        return ProvidedCollateral(
            PLATFORM.collateral(issued_s=NOW_S), None, fetched_at_s=now_s, warnings=self.warnings
        )


def told(provider, *times_s, family=FAMILY):
    with structlog.testing.capture_logs() as logged:
        for now_s in times_s:
            provider.collateral(family, now_s=now_s)
    return len(logged)


def test_the_same_warning_comes_again_after_six_hours(open_log):
    provider = WarningProvider(Warning_(CollateralWarning("a", "b", "c")), root_name="r")
    assert told(provider, NOW_S, NOW_S, NOW_S + 21_599) == 1
    assert told(provider, NOW_S + 21_600) == 1
    assert told(provider, NOW_S + 21_600, family=PlatformFamily(Tee.TDX, FMSPC, PckCa.PLATFORM)) == 1
    assert told(provider, NOW_S) == 1, "a clock that was set back"


def test_when_collateral_expires_is_a_metric(open_log, pcs):
    log = open_log()
    submit(log)
    text = log.client().get("/metrics").text
    name = f'assay_collateral_expires_seconds{{fmspc="{FMSPC.hex()}",root="simulated",tee="sgx"}} '
    (line,) = [each for each in text.splitlines() if each.startswith(name)]
    assert float(line.removeprefix(name)) == pcs.issued_s + 30 * 86_400


# Configuration


def load(tmp_path, root):
    path = tmp_path / "log.toml"
    head = 'origin = "o"\nkey = "k"\ndatabase = "d"\nanchor = "a"\n'
    path.write_text(f'{head}[[admission.roots]]\nname = "r"\ncertificate = "c"\n{root}')
    return configuration.load(path).admission.roots[0]


PCS = '[admission.roots.pcs]\nurl = "https://pcs.example"\n'


def test_the_defaults_ask_once_a_day_and_name_no_address_of_their_own(tmp_path):
    section = load(tmp_path, PCS).pcs
    assert (section.max_age_s, section.warn_before_s) == (86_400, 7 * 86_400)
    assert (section.root_crl, section.thim, section.update, section.tcb_evaluation_number) == (None,) * 4


CONFIGURATIONS = {
    "no source": "",
    "both sources": 'collateral = "x"\n' + PCS,
    "an address for the section": 'pcs = "https://pcs.example"\n',
    "no address": "[admission.roots.pcs]\n",
    "an unknown key": PCS + "updates = 1\n",
    "another update": PCS + 'update = "late"\n',
    "update and number": PCS + 'update = "early"\ntcb_evaluation_number = 20\n',
    "early watched by itself": PCS + 'update = "early"\nwatch_early = true\n',
    "number zero": PCS + "tcb_evaluation_number = 0\n",
    "a number as text": PCS + 'tcb_evaluation_number = "20"\n',
    "an age of nothing": PCS + "max_age_s = 0\n",
    "an age beyond every expiry": PCS + "max_age_s = 2592000\n",
    "no time": PCS + "timeout_s = 0\n",
}


@pytest.mark.parametrize("root", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_is_refused_with(tmp_path, root):
    with pytest.raises(MalformedError) as caught:
        load(tmp_path, root)
    assert caught.value.code == "config"


@pytest.mark.parametrize(
    "url", ["pcs.example", "https://user:word@pcs.example", "https://pcs.example/sgx/certification/v4"]
)
def test_an_unusable_address_stops_the_start(make_log, url):
    log = make_log(extra=f"{ROOT}[admission.roots.pcs]\nurl = {json.dumps(url)}\n")
    (log.folder / "root.der").write_bytes(PLATFORM.root_der)
    with pytest.raises(MalformedError) as caught:
        log.open()
    assert caught.value.code == "url"


@pytest.fixture
def served():
    """Serves a log over HTTP, as a reader meets it."""
    servers = []

    def serve(log):
        server = make_server("127.0.0.1", 0, create_app(log.service), threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()


def verify_logged(log, tmp_path, url, capsys, *more):
    (tmp_path / "leaf").write_bytes(log.service.store.entry(0))
    (tmp_path / "root.der").write_bytes(PLATFORM.root_der)
    capsys.readouterr()
    arguments = [
        "verify-quote",
        str(tmp_path / "leaf"),
        "--archive",
        url,
        "--root",
        str(tmp_path / "root.der"),
    ]
    code = cli.main([*arguments, "--json", *more])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else captured.err


def test_a_logged_quote_is_judged_again_years_later_as_of_its_logged_time(open_log, served, tmp_path, capsys):
    log = open_log()
    submit(log)
    url = served(log)
    code, told = verify_logged(log, tmp_path, url, capsys)
    assert (code, told["verified"], told["platform"]) == (0, True, "simulated")
    assert told["at_s"] == registration(log, 0).appraisal.appraised_at_ms // 1000
    # The same evidence, judged when its collateral has long expired.
    code, told = verify_logged(log, tmp_path, url, capsys, "--at", str(NOW_S + 3 * 365 * 86_400))
    assert (code, told["verified"]) == (1, False)
    # And with collateral of that later day it is well again; this command takes that as a second verdict.
    (tmp_path / "today").write_bytes(format_collateral(PLATFORM.collateral(issued_s=NOW_S - 60)))
    code, told = verify_logged(log, tmp_path, url, capsys, "--today", str(tmp_path / "today"))
    assert (code, told["today"]["verified"]) == (0, True)


def test_an_archive_that_lost_or_changed_a_blob_is_noticed(open_log, served, tmp_path, capsys):
    log = open_log()
    submit(log)
    url = served(log)
    sha256 = registration(log, 0).appraisal.collateral["tcb_info"]
    blobs = models.blob
    with log.service.store.database.writing() as connection:
        connection.execute(blobs.update().where(blobs.c.sha256 == sha256).values(data=b"another"))
    assert verify_logged(log, tmp_path, url, capsys)[0] == 1
    with log.service.store.database.writing() as connection:
        connection.execute(blobs.delete().where(blobs.c.sha256 == sha256))
    code, message = verify_logged(log, tmp_path, url, capsys)
    assert (code, "error[absent]" in message) == (3, True)


def test_only_a_registration_is_judged_from_an_archive(make_log, entry_maker, served, tmp_path, capsys):
    log = make_log()
    log.open()
    log.client().post("/api/v1/entries", data=entry_maker(0))
    code, message = verify_logged(log, tmp_path, served(log), capsys)
    assert (code, "error[other-entry]" in message) == (1, True)
