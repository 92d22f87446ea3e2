"""DSSE: lengths in bytes, one signature per verifier in order, and nothing that would log an envelope twice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import dsse
from assay.tlog.errors import MalformedError, UntrustedError

TYPE = "application/vnd.in-toto+json"


@pytest.mark.parametrize(
    ("payload_type", "payload", "expected"),
    [
        # The example of the DSSE protocol
        ("http://example.com/HelloWorld", b"hello world", b"29 http://example.com/HelloWorld 11 hello world"),
        ("", b"", b"0  0 "),
        ("a", b"\x00 \n", b"1 a 3 \x00 \n"),
        # Five characters and eight bytes; three characters and nine bytes
        ("tüpé☃", b"x", b"9 t\xc3\xbcp\xc3\xa9\xe2\x98\x83 1 x"),
        ("t", "日本語".encode(), b"1 t 9 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e"),
    ],
)
def test_pae_counts_bytes(payload_type, payload, expected):
    assert dsse.pae(payload_type, payload) == b"DSSEv1 " + expected


@given(st.text("a 1é", max_size=6), st.binary(max_size=6), st.text("a 1é", max_size=6), st.binary(max_size=6))
def test_pae_is_injective(kind, payload, other_kind, other_payload):
    same = (kind, payload) == (other_kind, other_payload)
    assert (dsse.pae(kind, payload) == dsse.pae(other_kind, other_payload)) is same


def signed(make, *numbers: int) -> tuple[dsse.Envelope, list[bytes]]:
    keys = [make.key(number) for number in numbers]
    return dsse.sign(TYPE, b"payload", keys), [make.spki(number) for number in numbers]


@pytest.mark.parametrize("numbers", [(1,), (1, 2), (3, 2, 1), tuple(range(1, 17))], ids=len)
def test_every_signature_verifies_and_the_envelope_round_trips(make, numbers):
    envelope, verifiers = signed(make, *numbers)
    assert dsse.parse_envelope(envelope.to_json(), what="x") == envelope
    assert dsse.verify(envelope, verifiers=verifiers, payload_type=TYPE) == b"payload"


@pytest.mark.parametrize(
    ("select", "error"),
    [
        (lambda a, b, c: [], MalformedError),
        (lambda a, b, c: [a], MalformedError),
        (lambda a, b, c: [a, b, c], MalformedError),
        (lambda a, b, c: [a, a], MalformedError),
        (lambda a, b, c: [b, a], UntrustedError),
        (lambda a, b, c: [a, c], UntrustedError),
        (lambda a, b, c: [c, b], UntrustedError),
        (lambda a, b, c: [a, b + b"\x00"], MalformedError),
        (lambda a, b, c: [a, b""], MalformedError),
    ],
)
def test_verifiers_are_as_many_as_signatures_and_in_their_order(make, select, error):
    envelope, (a, b) = signed(make, 1, 2)
    with pytest.raises(error):
        dsse.verify(envelope, verifiers=select(a, b, make.spki(3)), payload_type=TYPE)


def test_one_bad_signature_among_good_ones_is_refused(make, high_s):
    envelope, verifiers = signed(make, 1, 2, 3)
    for index in range(3):
        for bad, error in (
            (bytes(64), UntrustedError),
            (envelope.signatures[index - 1], UntrustedError),
            (high_s(envelope.signatures[index]), MalformedError),
        ):
            signatures = list(envelope.signatures)
            signatures[index] = bad
            with pytest.raises(error):
                dsse.verify(
                    replace(envelope, signatures=tuple(signatures)), verifiers=verifiers, payload_type=TYPE
                )


def test_signatures_cover_payload_and_type(make):
    envelope, verifiers = signed(make, 1)
    with pytest.raises(UntrustedError) as caught:
        dsse.verify(replace(envelope, payload=b"Payload"), verifiers=verifiers, payload_type=TYPE)
    assert caught.value.code == "signature"
    with pytest.raises(UntrustedError) as caught:
        dsse.verify(replace(envelope, payload_type="text/plain"), verifiers=verifiers, payload_type=TYPE)
    assert caught.value.code == "payload-type"
    with pytest.raises(UntrustedError) as caught:
        dsse.verify(
            replace(envelope, payload_type="text/plain"), verifiers=verifiers, payload_type="text/plain"
        )
    assert caught.value.code == "signature"


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "cGF5bG9hZA"},
        {"payload": "cGF5bG9hZB=="},
        {"payload": None},
        {"payload": 1},
        {"payloadType": ""},
        {"payloadType": None},
        {"payloadType": "a\nb"},
        {"signatures": []},
        {"signatures": None},
        {"signatures": {}},
        {"signatures": [None]},
        {"signatures": [{}]},
        {"signatures": [{"sig": None}]},
        {"signatures": [{"sig": ""}]},
        {"signatures": [{"sig": "AAAA"}]},
        {"extra": 1},
    ],
    ids=repr,
)
def test_other_envelopes_do_not_parse(make, change):
    good = signed(make, 1)[0].to_json()
    with pytest.raises(MalformedError):
        dsse.parse_envelope({**good, **change}, what="x")
    for member in good:
        with pytest.raises(MalformedError):
            dsse.parse_envelope({key: value for key, value in good.items() if key != member}, what="x")


def test_key_ids_and_too_many_signatures_do_not_parse(make):
    good = signed(make, 1)[0].to_json()
    (signature,) = good["signatures"]
    for signatures in ([{**signature, "keyid": ""}], [signature] * 17):
        with pytest.raises(MalformedError):
            dsse.parse_envelope({**good, "signatures": signatures}, what="x")
