"""Collateral from a provisioning service: whole, of the platforms that were asked for, or none at all."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from assay.attest.measurement import Tee
from assay.attest.quote.pck import PckCa
from assay.attest.quote.pcs_response import MAX_BODY_SIZE, assemble_collateral
from assay.attest.quote.verify import verify_sgx_quote
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.pcs_service import ROOT_CRL_PATH, SimulatedPcs
from assay.attest.simulated.platform import SimulatedPlatform, Variant
from assay.fetch.collateral import PlatformFamily
from assay.fetch.pcs import IntelPcs, PcsPlaces, Update
from assay.tlog.errors import MalformedError, UnavailableError

T = 1_760_000_000
SEED = bytes(range(32))
PLATFORM = SimulatedPlatform(SEED, epoch_s=T)
FAMILY = PlatformFamily(Tee.SGX, PLATFORM.fmspc, PckCa.PLATFORM)
TDX = replace(FAMILY, tee=Tee.TDX)
COLLATERAL = PLATFORM.collateral(issued_s=T)


def provider(pcs, fake_time, *, deadline_s=20.0, places=None, **how):
    return IntelPcs(places or PcsPlaces(pcs.url), patience=fake_time.patience(deadline_s=deadline_s), **how)


def refused(pcs, fake_time, code, *, family=FAMILY, **how):
    with pytest.raises(UnavailableError) as caught:
        provider(pcs, fake_time, **how).collateral(family, now_s=T)
    assert caught.value.code == code
    return caught.value


def test_what_comes_is_what_the_platform_has_and_verifies(pcs, fake_time):
    provided = provider(pcs, fake_time).collateral(FAMILY, now_s=T + 5)
    assert provided.collateral == COLLATERAL
    assert provided.fetched_at_s == T + 5
    report = PLATFORM.report(
        mr_enclave=bytes(32), mr_signer=bytes(32), isv_prod_id=1, isv_svn=1, report_data=bytes(64)
    )
    quote = PLATFORM.quote(report)
    verified = verify_sgx_quote(
        quote, provided.collateral, root=TrustedRoot("r", PLATFORM.root_der), now_s=T + 5
    )
    assert verified.tcb_status == "UpToDate"


def test_tdx_has_texts_of_its_own_and_the_same_crls(pcs, fake_time):
    provided = provider(pcs, fake_time).collateral(TDX, now_s=T)
    assert provided.collateral == PLATFORM.collateral(issued_s=T, tee=Tee.TDX)
    assert provided.responses.tcb_info.url == f"{pcs.url}/tdx/certification/v4/tcb?fmspc=51D000000001"
    assert [target.partition("/")[2][:3] for target in pcs.asked] == ["tdx", "tdx", "sgx", "sgx"]


def test_the_answers_come_along_as_they_were(pcs, fake_time):
    responses = provider(pcs, fake_time).collateral(FAMILY, now_s=T).responses
    assert assemble_collateral(responses) == COLLATERAL
    assert responses.tcb_info.url == f"{pcs.url}/sgx/certification/v4/tcb?fmspc=51D000000001"
    assert list(responses.tcb_info.headers) == ["tcb-info-issuer-chain"]
    assert responses.root_ca_crl.headers == {}
    assert responses.root_ca_crl.body == COLLATERAL.root_ca_crl.hex().encode()


def test_answers_of_another_hour_with_the_same_content_are_the_same(pcs, fake_time):
    def dated(answer):
        return replace(answer, headers={**answer.headers, "Request-ID": str(len(pcs.asked))})

    pcs.changes = dict.fromkeys(("tcb", "qe/identity", "pckcrl", "rootcacrl"), dated)
    first, second = (
        provider(pcs, fake_time).collateral(FAMILY, now_s=T + hour).responses for hour in (0, 3600)
    )
    assert first.archived() == second.archived()


def test_the_processor_ca_s_platforms_get_its_crl(pcs, fake_time):
    machine = SimulatedPlatform(SEED, epoch_s=T, variant=Variant(ca=PckCa.PROCESSOR))
    family = replace(FAMILY, ca=PckCa.PROCESSOR)
    assert provider(pcs, fake_time).collateral(family, now_s=T).collateral == machine.collateral(issued_s=T)


def test_the_root_s_crl_may_come_from_another_address_as_der(pcs, fake_time):
    places = PcsPlaces(pcs.url + "/", root_crl_url=pcs.url + ROOT_CRL_PATH)
    provided = provider(pcs, fake_time, places=places).collateral(FAMILY, now_s=T)
    assert provided.collateral == COLLATERAL
    assert provided.responses.root_ca_crl.body == COLLATERAL.root_ca_crl
    assert pcs.counts()["rootcacrl"] == 0


@pytest.mark.parametrize(
    ("how", "query"),
    [
        ({}, {}),
        ({"update": Update.EARLY}, {"update": ["early"]}),
        ({"update": Update.STANDARD}, {"update": ["standard"]}),
        ({"tcb_evaluation_number": 20}, {"tcbEvaluationDataNumber": ["20"]}),
    ],
)
def test_the_choice_of_tcb_data_is_asked_for_with_both_texts(pcs, fake_time, how, query):
    provider(pcs, fake_time, **how).collateral(FAMILY, now_s=T)
    queries = [
        parse_qs(urlsplit(target).query) for target in pcs.asked if "/tcb" in target or "/qe/" in target
    ]
    for each in queries:
        each.pop("fmspc", None)
    assert queries == [query, query]


def test_update_and_number_exclude_each_other(pcs, fake_time):
    with pytest.raises(ValueError, match="exclude"):
        provider(pcs, fake_time, update=Update.EARLY, tcb_evaluation_number=20)


# THIM


def test_thim_is_asked_for_pck_crls_and_never_for_tcb_data(pcs, fake_time):
    thim = type(pcs)()
    try:
        places = PcsPlaces(pcs.url, thim_url=f"{thim.url}/sgx/certification/v4/pckcrl")
        thim.changes["pckcrl"] = lambda _: SimulatedPcs(SEED, epoch_s=T).answer(
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der", issued_s=T
        )
        provided = provider(pcs, fake_time, places=places).collateral(FAMILY, now_s=T)
        assert provided.collateral == COLLATERAL
        (asked,) = thim.asked
    finally:
        thim.stop()
    assert parse_qs(urlsplit(asked).query) == {
        "ca": ["platform"],
        "encoding": ["der"],
        "clientid": ["production_client"],
        "api-version": ["2018-10-01-preview"],
    }
    assert sorted(pcs.counts()) == ["qe/identity", "rootcacrl", "tcb"]


# Refusals

KINDS = ["tcb", "qe/identity", "pckcrl", "rootcacrl"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "no-collateral"),
        (410, "collateral-withdrawn"),
        (204, "collateral-source"),
        (301, "collateral-source"),
        (400, "collateral-source"),
        (401, "collateral-source"),
    ],
)
def test_an_answer_of_another_status_ends_it_at_once(pcs, fake_time, kind, status, code):
    pcs.changes[kind] = lambda answer: replace(answer, status=status)
    refused(pcs, fake_time, code)
    assert pcs.counts()[kind] == 1
    assert fake_time.pauses == []


@pytest.mark.parametrize("family", [replace(FAMILY, fmspc=bytes(6)), replace(TDX, fmspc=bytes(6))])
def test_a_family_that_the_service_does_not_know_has_no_collateral(pcs, fake_time, family):
    refused(pcs, fake_time, "no-collateral", family=family)
    assert list(pcs.counts()) == ["tcb"]


def test_a_withdrawn_evaluation_number_is_told_apart(pcs, fake_time):
    refused(pcs, fake_time, "collateral-withdrawn", tcb_evaluation_number=19)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_service_is_asked_again(pcs, fake_time, kind, status):
    left = [status, status]
    pcs.changes[kind] = lambda answer: replace(answer, status=left.pop()) if left else answer
    assert provider(pcs, fake_time).collateral(FAMILY, now_s=T).collateral == COLLATERAL
    assert fake_time.pauses == [0.5, 1.0]


def test_all_four_share_one_deadline(pcs, fake_time):
    for kind in KINDS:
        left = [503, 503]
        pcs.changes[kind] = lambda answer, left=left: replace(answer, status=left.pop()) if left else answer
    refused(pcs, fake_time, "collateral-source", deadline_s=4.0)
    assert sum(fake_time.pauses) < 4.0
    assert "rootcacrl" not in pcs.counts()


CHAINS = {
    "tcb": "TCB-Info-Issuer-Chain",
    "qe/identity": "SGX-Enclave-Identity-Issuer-Chain",
    "pckcrl": "SGX-PCK-CRL-Issuer-Chain",
}


@pytest.mark.parametrize(("kind", "header"), CHAINS.items())
@pytest.mark.parametrize(
    "value",
    [None, "", "garbage", "%zz", "%2", "\xe4", "A" * 20_000, "-----BEGIN%20CERTIFICATE-----%0AAAAA"],
    ids=["missing", "empty", "garbage", "no escape", "half an escape", "not ASCII", "oversized", "cut off"],
)
def test_a_chain_header_that_is(pcs, fake_time, kind, header, value):
    def change(answer):
        headers = {name: text for name, text in answer.headers.items() if name != header}
        return replace(answer, headers=headers if value is None else {**headers, header: value})

    pcs.changes[kind] = change
    refused(pcs, fake_time, "bad-collateral")


@pytest.mark.parametrize("kind", CHAINS)
def test_an_endless_header_is_no_answer(pcs, fake_time, kind):
    pcs.changes[kind] = lambda answer: replace(answer, headers={**answer.headers, "X": "y" * 70_000})
    refused(pcs, fake_time, "collateral-source", deadline_s=0.4)


def test_the_older_header_of_the_tcb_info_is_read(pcs, fake_time):
    def older(answer):
        return replace(answer, headers={"SGX-TCB-Info-Issuer-Chain": answer.headers["TCB-Info-Issuer-Chain"]})

    pcs.changes["tcb"] = older
    assert provider(pcs, fake_time).collateral(FAMILY, now_s=T).collateral == COLLATERAL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"null", b"<html>login</html>", b"\x1f\x8b\x08\x00", b"x" * (MAX_BODY_SIZE + 1)],
    ids=["nothing", "an empty object", "null", "a page", "gzip", "too long"],
)
def test_a_body_that_is(pcs, fake_time, kind, body):
    pcs.changes[kind] = lambda answer: replace(answer, body=body)
    refused(pcs, fake_time, "bad-collateral")


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_with_one_byte_more_or_less(pcs, fake_time, kind):
    for change in (lambda body: body[:-1], lambda body: body + b"\x00"):
        pcs.changes[kind] = lambda answer, change=change: replace(answer, body=change(answer.body))
        refused(pcs, fake_time, "bad-collateral")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
    ],
    ids=["nothing", "no HTTP", "cut off", "a chunk cut off"],
)
def test_a_broken_answer_is_asked_for_again_and_then_given_up(pcs, fake_time, kind, raw):
    pcs.changes[kind] = lambda _: raw
    refused(pcs, fake_time, "collateral-source", deadline_s=1.0)
    assert pcs.counts()[kind] == 2


def test_a_service_that_hangs_meets_the_request_s_own_limit(pcs, fake_time):
    pcs.changes["tcb"] = lambda _: None
    patience = fake_time.patience(deadline_s=0.4, request_timeout_s=0.2)
    with pytest.raises(UnavailableError) as caught:
        IntelPcs(PcsPlaces(pcs.url), patience=patience).collateral(FAMILY, now_s=T)
    assert caught.value.code == "collateral-source"


def test_nobody_there_is_unavailable(pcs, fake_time):
    pcs.stop()
    refused(pcs, fake_time, "collateral-source", deadline_s=1.0)


# Answers to another question


def answered_with(target):
    return lambda answer: SimulatedPcs(SEED, epoch_s=T).answer(target, issued_s=T)


def renamed(answer):
    return replace(answer, body=answer.body.replace(b'"id":"QE"', b'"id":"TD_QE"'))


@pytest.mark.parametrize(
    "family",
    [replace(FAMILY, fmspc=bytes.fromhex("00906ea10000")), replace(FAMILY, tee=Tee.TDX)],
    ids=["FMSPC", "TEE"],
)
def test_tcb_info_of_other_platforms_is_refused(pcs, fake_time, family):
    identity = answered_with("/sgx/certification/v4/qe/identity")
    pcs.changes["tcb"] = answered_with("/sgx/certification/v4/tcb?fmspc=51D000000001")
    pcs.changes["qe/identity"] = lambda answer: (
        renamed(identity(answer)) if family.tee is Tee.TDX else identity(answer)
    )
    error = refused(pcs, fake_time, "bad-collateral", family=family)
    assert "TCB info" in str(error)


def test_a_qe_identity_of_another_tee_is_refused(pcs, fake_time):
    pcs.changes["qe/identity"] = renamed
    refused(pcs, fake_time, "bad-collateral")


def test_the_other_ca_s_crl_is_refused(pcs, fake_time):
    pcs.changes["pckcrl"] = answered_with("/sgx/certification/v4/pckcrl?ca=processor")
    refused(pcs, fake_time, "bad-collateral")


def test_the_root_s_crl_is_no_pck_crl(pcs, fake_time):
    headers = {"SGX-PCK-CRL-Issuer-Chain": "x"}
    pcs.changes["pckcrl"] = lambda answer: replace(
        answer, body=COLLATERAL.root_ca_crl, headers={**headers, **answer.headers}
    )
    refused(pcs, fake_time, "bad-collateral")


@pytest.mark.parametrize("fmspc", ['""', "7", "null", '"51d0"', "[]"])
def test_tcb_info_with_a_strange_fmspc_is_refused(pcs, fake_time, fmspc):
    pcs.changes["tcb"] = lambda answer: replace(
        answer, body=answer.body.replace(b'"fmspc":"51D000000001"', b'"fmspc":' + fmspc.encode())
    )
    refused(pcs, fake_time, "bad-collateral")


# Configuration


@pytest.mark.parametrize(
    "url",
    [
        "", "pcs.example", "ftp://pcs.example", "file:///etc/passwd", "https://", "https://user:word@pcs.example",
        "https://user@pcs.example", "https://pcs.example/?key=1", "https://pcs.example/#x", "https://pcs.example:x",
        "https://pcs.example:99999", "https://pcs.example/" + "x" * 600,
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["pcs_url", "root_crl_url", "thim_url"])
def test_an_address_is_refused_that_is_no_plain_one(name, url):
    with pytest.raises(MalformedError) as caught:
        PcsPlaces(**{"pcs_url": "https://pcs.example", name: url})
    assert caught.value.code == "url"


def test_the_base_has_no_version_in_it():
    with pytest.raises(MalformedError):
        PcsPlaces("https://localhost:8081/sgx/certification/v4/")


@pytest.mark.parametrize(("tee", "fmspc"), [(Tee.SNP, bytes(6)), (Tee.SGX, bytes(5)), (Tee.TDX, b"")])
def test_a_family_that_cannot_be_is_a_mistake(tee, fmspc):
    with pytest.raises(ValueError, match="FMSPC"):
        PlatformFamily(tee, fmspc, PckCa.PLATFORM)
