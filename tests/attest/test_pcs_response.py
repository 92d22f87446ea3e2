"""A service's answers as they came: one spelling in the archive, and collateral that can be put together again."""

from dataclasses import fields, replace

import pytest

from assay.attest import entry
from assay.attest.quote import pcs_response
from assay.attest.quote.collateral import parse_collateral
from assay.attest.quote.pcs_response import (
    MAX_BODY_SIZE,
    MAX_CHAIN_SIZE,
    OLD_TCB_INFO_CHAIN,
    PCK_CRL_CHAIN,
    QE_IDENTITY_CHAIN,
    TCB_INFO_CHAIN,
    PcsResponse,
    PcsResponses,
    assemble_collateral,
    format_response,
    parse_response,
    parse_responses,
    percent_decoded,
    verify_responses,
)
from assay.attest.simulated.pcs_service import percent_encoded
from assay.attest.simulated.platform import SimulatedPlatform
from assay.tlog.errors import MalformedError, UntrustedError

T = 1_760_000_000
PLATFORM = SimulatedPlatform(bytes(range(32)), epoch_s=T)
COLLATERAL = PLATFORM.collateral(issued_s=T)


def answers(collateral, *, hex_root=False):
    """The answers of which a service would make this collateral."""
    tcb_info = f'{{"tcbInfo":{collateral.tcb_info},"signature":"{collateral.tcb_info_signature.hex()}"}}'
    identity = f'{{"enclaveIdentity":{collateral.qe_identity},"signature":"{collateral.qe_identity_signature.hex()}"}}'
    root_crl = collateral.root_ca_crl
    return PcsResponses(
        pck_crl=PcsResponse(
            "https://pcs/pckcrl",
            {PCK_CRL_CHAIN: percent_encoded(collateral.pck_crl_issuer_chain)},
            collateral.pck_crl,
        ),
        qe_identity=PcsResponse(
            "https://pcs/qe",
            {QE_IDENTITY_CHAIN: percent_encoded(collateral.qe_identity_issuer_chain)},
            identity.encode(),
        ),
        root_ca_crl=PcsResponse("https://pcs/root", {}, root_crl.hex().encode() if hex_root else root_crl),
        tcb_info=PcsResponse(
            "https://pcs/tcb",
            {TCB_INFO_CHAIN: percent_encoded(collateral.tcb_info_issuer_chain)},
            tcb_info.encode(),
        ),
    )


GOOD = answers(COLLATERAL)


def changed(name, **how):
    return replace(GOOD, **{name: replace(getattr(GOOD, name), **how)})


def refused(responses):
    with pytest.raises(MalformedError) as caught:
        assemble_collateral(responses)
    assert caught.value.code == "malformed-collateral"


def test_collateral_is_put_together_again():
    assert assemble_collateral(GOOD) == COLLATERAL
    assert verify_responses(COLLATERAL, GOOD) is GOOD


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_crl_in_hex_is_the_same_crl(upper, end):
    text = COLLATERAL.root_ca_crl.hex()
    body = (text.upper() if upper else text).encode() + end
    assert assemble_collateral(changed("root_ca_crl", body=body)) == COLLATERAL


def test_the_older_name_of_the_tcb_info_s_chain_is_read_and_the_newer_one_first():
    chain = GOOD.tcb_info.headers[TCB_INFO_CHAIN]
    assert assemble_collateral(changed("tcb_info", headers={OLD_TCB_INFO_CHAIN: chain})) == COLLATERAL
    both = {OLD_TCB_INFO_CHAIN: "rubbish", TCB_INFO_CHAIN: chain}
    assert assemble_collateral(changed("tcb_info", headers=both)) == COLLATERAL


def test_a_chain_may_leave_unreserved_and_base64_characters_as_they_are():
    lazy = COLLATERAL.tcb_info_issuer_chain.replace("\n", "%0a").replace(" ", "%20")
    assert "+" in lazy
    assert assemble_collateral(changed("tcb_info", headers={TCB_INFO_CHAIN: lazy})) == COLLATERAL


@pytest.mark.parametrize(
    "name", ["sgx/debug_enclave", "sgx/oasis_v3", "sgx/phala_v3", "tdx/phala_v4", "tdx/gotdx_v5"]
)
def test_real_collateral_survives_its_answers(vectors, name):
    real = parse_collateral((vectors / "quotes" / name / "collateral.json").read_bytes())
    assert assemble_collateral(answers(real)) == real
    assert assemble_collateral(answers(real, hex_root=True)) == real


@pytest.mark.parametrize("name", ["pck_crl", "qe_identity", "tcb_info"])
@pytest.mark.parametrize(
    "chain",
    [
        None,
        "",
        "garbage",
        "%",
        "%4",
        "%zz",
        "%C3%A4",
        "ä",
        percent_encoded("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        percent_encoded(COLLATERAL.tcb_info_issuer_chain)[:400],
        percent_encoded(COLLATERAL.tcb_info_issuer_chain + " " * MAX_CHAIN_SIZE),
    ],
    ids=[
        "missing", "empty", "garbage", "per cent", "half an escape", "no escape", "not ASCII", "raw not ASCII",
        "no certificate", "cut off", "oversized",
    ],
)  # fmt: skip
def test_an_issuer_chain_is_refused_that_is(name, chain):
    header = next(iter(getattr(GOOD, name).headers))
    with pytest.raises(MalformedError):
        assemble_collateral(changed(name, headers={} if chain is None else {header: chain}))


@pytest.mark.parametrize("name", ["pck_crl", "root_ca_crl"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"00",
        COLLATERAL.pck_crl[:-1],
        COLLATERAL.pck_crl + b"\0",
        COLLATERAL.pck_crl * 2,
        COLLATERAL.pck_crl.hex().encode()[:-1],
        b"0x" + COLLATERAL.pck_crl.hex().encode(),
        COLLATERAL.pck_crl.hex(" ").encode(),
        PLATFORM.root_der,
        PLATFORM.ca.pem.encode(),
    ],
    ids=[
        "nothing", "garbage", "hex of nothing", "cut off", "longer", "twice", "half a byte", "prefixed hex",
        "spaced hex", "a certificate", "PEM",
    ],
)  # fmt: skip
def test_a_crl_is_refused_that_is(name, body):
    refused(changed(name, body=body))


@pytest.mark.parametrize("name", ["qe_identity", "tcb_info"])
@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", GOOD.pck_crl.body, b'{"tcbInfo":{},"signature":""}'])
def test_a_text_is_refused_that_is_no_signed_object(name, body):
    refused(changed(name, body=body))


def test_tcb_info_is_no_qe_identity():
    refused(changed("qe_identity", body=GOOD.tcb_info.body))
    refused(changed("tcb_info", body=GOOD.qe_identity.body))


def test_a_long_text_is_kept():
    text = '{"a":"' + "\\u0041" * (MAX_BODY_SIZE // 6 - 100) + '"}'
    long = f'{{"tcbInfo":{text},"signature":"{"00" * 64}"}}'.encode()
    assert len(long) < MAX_BODY_SIZE
    assert assemble_collateral(changed("tcb_info", body=long)).tcb_info == text


def test_other_answers_are_told_apart():
    later = answers(PLATFORM.collateral(issued_s=T + 1))
    for name in (each.name for each in fields(PcsResponses)):
        with pytest.raises(UntrustedError) as caught:
            verify_responses(COLLATERAL, replace(GOOD, **{name: getattr(later, name)}))
        assert caught.value.code == "other-responses"


# The archive


@pytest.mark.parametrize("name", [each.name for each in fields(PcsResponses)])
def test_an_archived_answer_is_read_back(name):
    blob = GOOD.archived()[name]
    assert parse_response(blob) == getattr(GOOD, name)
    assert format_response(parse_response(blob)) == blob


def test_golden_bytes():
    answer = PcsResponse("https://pcs.example/x", {PCK_CRL_CHAIN: "%0A"}, b"\x30\x00")
    assert format_response(answer) == (
        b'{"body":"MAA=","headers":{"sgx-pck-crl-issuer-chain":"%0A"},"url":"https://pcs.example/x"}'
    )


def test_the_archive_s_names_are_the_appraisal_s():
    assert tuple(sorted(GOOD.archived())) == entry.COLLATERAL_RESPONSES
    assert parse_responses(GOOD.archived()) == GOOD


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{}",
        b'{"body":"MAA=","headers":{}}',
        b'{"body":"MAA=","headers":{},"more":1,"url":"u"}',
        b'{"body":"MAA=","headers":{"date":"today"},"url":"u"}',
        b'{"body":"MAA=","headers":{"sgx-pck-crl-issuer-chain":7},"url":"u"}',
        b'{"body":"MAA=","headers":[],"url":"u"}',
        b'{"body":"MAA","headers":{},"url":"u"}',
        b'{"body":7,"headers":{},"url":"u"}',
        b'{"body":"MAA=","headers":{},"url":""}',
        b'{"body":"MAA=", "headers":{},"url":"u"}',
        b'{"headers":{},"body":"MAA=","url":"u"}',
        b'{"body":"MAA=","headers":{},"url":"u"}\n',
        b" " * (pcs_response.MAX_ARCHIVED_SIZE + 1),
    ],
)
def test_a_blob_is_refused_that_is_no_answer(blob):
    with pytest.raises(MalformedError):
        parse_response(blob)


@pytest.mark.parametrize(
    ("url", "headers", "body"),
    [
        ("u\n", {}, b""),
        ("ü", {}, b""),
        ("u" * 1025, {}, b""),
        ("u", {"date": "today"}, b""),
        ("u", {"TCB-Info-Issuer-Chain": "x"}, b""),
        ("u", {TCB_INFO_CHAIN: "a\r\n b"}, b""),
        ("u", {OLD_TCB_INFO_CHAIN: "\u2028"}, b""),
        ("u", {TCB_INFO_CHAIN: "x" * (3 * MAX_CHAIN_SIZE + 1)}, b""),
        ("u", {}, bytes(MAX_BODY_SIZE + 1)),
    ],
)
def test_nothing_is_archived_that_could_not_be_read_again(url, headers, body):
    with pytest.raises(MalformedError):
        PcsResponse(url, headers, body)


def test_the_largest_answer_is_archived_and_read_again():
    headers = {TCB_INFO_CHAIN: "~" * (3 * MAX_CHAIN_SIZE), OLD_TCB_INFO_CHAIN: ""}
    answer = PcsResponse("u" * 1024, headers, bytes(MAX_BODY_SIZE))
    assert parse_response(format_response(answer)) == answer


@pytest.mark.parametrize("name", entry.COLLATERAL_RESPONSES)
def test_all_four_answers_are_needed_and_no_other(name):
    blobs = GOOD.archived()
    with pytest.raises(MalformedError):
        parse_responses({key: blob for key, blob in blobs.items() if key != name})
    with pytest.raises(MalformedError):
        parse_responses({**blobs, "more": blobs[name]})


@pytest.mark.parametrize("text", ["", "a+b", "%41%2b%2B", "%25%30"])
def test_percent_encoding_is_undone_once_and_plus_stays(text):
    assert percent_decoded(text, what="x") == {"": "", "a+b": "a+b", "%41%2b%2B": "A++", "%25%30": "%0"}[text]
