"""The channel: frames are bounded and known, an ask opens in one place only, replies in one order only."""

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest import channel, jcs
from assay.attest.channel import (
    MAX_FRAME_SIZE,
    MESSAGES,
    ReplyStream,
    format_frame,
    frame_length,
    open_ask,
    parse_answer,
    parse_ask,
    parse_frame,
    parse_request,
    seal_ask,
)
from assay.tlog.errors import LogError, MalformedError, UntrustedError


def message(kind: str, *, optional: bool = False):
    required, others = MESSAGES[kind]
    return {"type": kind, **dict.fromkeys(required + (others if optional else ()), "x")}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("optional", [False, True])
def test_every_message_travels_in_a_frame(kind, optional):
    frame = format_frame(message(kind, optional=optional))
    head, body = frame[:4], frame[4:]
    assert frame_length(head) == len(body) == int.from_bytes(head, "big")
    fields = parse_frame(body)
    assert fields.text("type") == kind
    for name, value in message(kind, optional=optional).items():
        assert fields.value(name) == value


@pytest.mark.parametrize("kind", MESSAGES)
def test_members_of_a_message_are_its_own(kind):
    good = message(kind)
    for name in good:
        with pytest.raises(MalformedError):
            parse_frame(jcs.canonical({key: value for key, value in good.items() if key != name}))
    with pytest.raises(MalformedError):
        parse_frame(jcs.canonical({**good, "unknown": 1}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"hello"',
        b"{}",
        b'{"type":null}',
        b'{"type":1}',
        b'{"type":[]}',
        b'{"type":{}}',
        b'{"type":["hello"]}',
        b'{"type":""}',
        b'{"type":"Hello"}',
        b'{"type":"goodbye"}',
        b'{"type": "hello"}',
        b'{"type":"hello"} ',
        b'{"type":"hello","type":"hello"}',
        b'{"type":"hello"',
        b'\xef\xbb\xbf{"type":"hello"}',
    ],
)
def test_other_bodies_are_no_frames(body):
    with pytest.raises(MalformedError):
        parse_frame(body)


@pytest.mark.parametrize("length", [0, MAX_FRAME_SIZE + 1, 2**31, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_the_body(length):
    with pytest.raises(MalformedError) as caught:
        frame_length(length.to_bytes(4, "big"))
    assert caught.value.code == "too-large"


@pytest.mark.parametrize("head", [b"", b"\x01", bytes(3), b"\x00\x00\x00\x00\x01"])
def test_a_head_has_four_bytes(head):
    with pytest.raises(MalformedError):
        frame_length(head)


def test_bounds_of_a_frame_are_inclusive():
    assert frame_length((1).to_bytes(4, "big")) == 1
    assert frame_length(MAX_FRAME_SIZE.to_bytes(4, "big")) == MAX_FRAME_SIZE
    filling = MAX_FRAME_SIZE - len(jcs.canonical({"sealed": "", "type": "ask"}))
    frame = format_frame({"sealed": "x" * filling, "type": "ask"})
    assert parse_frame(frame[4:])
    with pytest.raises(MalformedError) as caught:
        format_frame({"sealed": "x" * (filling + 1), "type": "ask"})
    assert caught.value.code == "too-large"


def seal(make, **changes) -> bytes:
    return seal_ask(make.ask(**changes), enclave_id=make.enclave_id(), boot_claims=make.claims())


def open_(make, sealed: bytes, **changes):
    arguments = {
        "key": make.hpke_key(),
        "enclave_id": make.enclave_id(),
        "boot_claims": make.claims(),
        **changes,
    }
    return open_ask(sealed, **arguments)


def test_an_ask_opens_where_it_was_sealed_to(make):
    for ask in (make.ask(), make.ask(auth="token")):
        sealed = seal_ask(ask, enclave_id=make.enclave_id(), boot_claims=make.claims())
        assert open_(make, sealed) == ask
        assert make.RESULT.encode() not in sealed
        assert b"countable" not in sealed


def test_two_asks_are_never_sealed_alike(make):
    assert seal(make) != seal(make)


def test_the_info_is_that_of_the_layout(make):
    said = make.claims()
    info = channel.ask_info(enclave_id=make.enclave_id(), boot_claims=said)
    digest = hashlib.sha256(jcs.canonical(said.to_json())).digest()
    assert info == b"assay-ask-v1" + hashlib.sha256(make.spki()).digest() + make.BOOT_ID + digest


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": b"\x01" * 16},
        {"nonce": b"\x02" * 32},
        {"log_origin": "other.example"},
        {"log_policy_sha256": bytes(32)},
        {"config_sha256": bytes(32)},
        {"last_receipt": bytes(32)},
        {"hpke_public_key": bytes(32)},
        {"kem": 0x10},
        {"kdf": 2},
        {"aead": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_ask_does_not_open_under_other_claims(make, change):
    with pytest.raises(UntrustedError) as caught:
        open_(make, seal(make), boot_claims=make.claims(**change))
    assert caught.value.code == "unsealable"


def test_an_ask_does_not_open_in_another_enclave_or_with_another_key(make):
    sealed = seal(make)
    other_key = X25519PrivateKey.from_private_bytes(b"\x01" * 32)
    for change in ({"enclave_id": bytes(32)}, {"key": other_key}):
        with pytest.raises(UntrustedError) as caught:
            open_(make, sealed, **change)
        assert caught.value.code == "unsealable"


def test_every_changed_byte_and_every_truncation_of_an_ask_is_refused_alike(make):
    sealed = seal(make)
    texts = set()
    for changed in (
        *(sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))),
        *(sealed[:end] for end in range(len(sealed))),
        sealed + b"\x00",
        bytes(32) + sealed[32:],
        b"\x01" + bytes(31) + sealed[32:],
    ):
        with pytest.raises(UntrustedError) as caught:
            open_(make, changed)
        texts.add((caught.value.code, str(caught.value)))
    assert len(texts) == 1


@pytest.mark.parametrize(
    "change", [{"kem": 0x647A}, {"kem": 0x10}, {"kdf": 2}, {"kdf": 3}, {"aead": 1}, {"aead": 0xFFFF}]
)
def test_a_client_seals_to_its_own_suite_only(make, change):
    with pytest.raises(UntrustedError) as caught:
        seal_ask(make.ask(), enclave_id=make.enclave_id(), boot_claims=make.claims(**change))
    assert caught.value.code == "hpke-suite"


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize(
    "key", [b"", bytes(31), bytes(33), bytes(65), *LOW_ORDER], ids=lambda key: key.hex()[:8]
)
def test_unusable_keys_are_not_sealed_to(make, key):
    with pytest.raises(MalformedError):
        seal_ask(make.ask(), enclave_id=make.enclave_id(), boot_claims=make.claims(hpke_public_key=key))


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": None},
        {"request_id": ""},
        {"request_id": "AAAA"},
        {"reply_secret": None},
        {"reply_secret": "AAAA"},
        {"auth": ""},
        {"auth": 1},
        {"auth": "a\n"},
        {"request": None},
        {"request": {}},
        {"extra": 1},
    ],
    ids=repr,
)
def test_other_plaintexts_are_no_asks(make, change):
    good = jcs.parse_canonical(make.ask().plaintext(), what="x", max_bytes=9999)
    assert parse_ask(make.ask().plaintext()) == make.ask()
    with pytest.raises(MalformedError):
        parse_ask(jcs.canonical({**good, **change}))
    for member in good:
        with pytest.raises(MalformedError):
            parse_ask(jcs.canonical({key: value for key, value in good.items() if key != member}))


@pytest.mark.parametrize(
    "change",
    [
        {"model": ""},
        {"model": None},
        {"model": "a" * 129},
        {"max_tokens": None},
        {"max_tokens": -1},
        {"max_tokens": 1_000_001},
        {"max_tokens": True},
        {"messages": []},
        {"messages": None},
        {"messages": [None]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"content": "x"}]},
        {"messages": [{"content": "x", "role": "system"}]},
        {"messages": [{"content": "x", "role": "user", "name": "x"}]},
        {"messages": [{"content": "x", "role": "user"}] * 1001},
        {"stream": True},
        {"tools": []},
        {"api_key": "x"},
        {"betas": []},
    ],
    ids=lambda change: ascii(change)[:40],
)
def test_other_requests_are_refused(make, change):
    parse_request(make.REQUEST)
    with pytest.raises(MalformedError):
        parse_request({**make.REQUEST, **change})
    with pytest.raises(MalformedError):
        open_(make, seal(make, request={**make.REQUEST, **change}))


def test_prompt_model_and_parameters_are_the_whole_request(make):
    request = {**make.REQUEST, "stop_sequences": ["x"], "metadata": {"user_id": "u"}}
    assert parse_request(request) == request
    parameters = channel.parameters_of(request)
    assert parameters == {"max_tokens": 100, "metadata": {"user_id": "u"}, "stop_sequences": ["x"]}
    assert set(parameters) | {"messages", "model", "system"} == set(request)


SECRET, ASK = b"\x02" * 32, b"sealed ask"


def streams() -> tuple[ReplyStream, ReplyStream]:
    return ReplyStream(SECRET, sealed_ask=ASK), ReplyStream(SECRET, sealed_ask=ASK)


def replies(*plaintexts: bytes) -> list[bytes]:
    stream = ReplyStream(SECRET, sealed_ask=ASK)
    last = len(plaintexts) - 1
    return [stream.seal(text, last=index == last) for index, text in enumerate(plaintexts)]


def opened(sealed: list[bytes], *, lasts: list[bool] | None = None) -> list[bytes]:
    stream = ReplyStream(SECRET, sealed_ask=ASK)
    flags = lasts or [index == len(sealed) - 1 for index in range(len(sealed))]
    return [stream.open(reply, last=last) for reply, last in zip(sealed, flags, strict=True)]


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_replies_open_in_order(texts):
    assert opened(replies(*texts)) == texts


@settings(max_examples=60)
@given(st.data())
def test_no_other_sequence_of_frames_opens(data):
    good = replies(b"a", b"b", b"c", b"d")
    order = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    if order == [0, 1, 2, 3]:
        return
    with pytest.raises(UntrustedError) as caught:
        opened([good[index] for index in order])
    assert caught.value.code == "unsealable"


@pytest.mark.parametrize("flags", [[False, False], [True, True], [True, False]])
def test_the_last_flag_is_authenticated(flags):
    with pytest.raises(UntrustedError):
        opened(replies(b"a", b"b"), lasts=flags)


def test_a_cut_off_answer_does_not_pass_for_a_whole_one():
    good = replies(b"a", b"b", b"c")
    for end in (1, 2):
        with pytest.raises(UntrustedError):
            opened(good[:end])


def test_nothing_opens_after_the_last_reply_or_after_a_bad_one():
    good = replies(b"a", b"b")
    sealing, opening = streams()
    sealing.seal(b"a", last=True)
    opening.open(replies(b"a")[0], last=True)
    with pytest.raises(UntrustedError):
        opening.open(good[1], last=True)
    with pytest.raises(AssertionError):
        sealing.seal(b"b", last=True)
    _, opening = streams()
    with pytest.raises(UntrustedError):
        opening.open(b"junk", last=False)
    with pytest.raises(UntrustedError):  # the next one by its number
        opening.open(good[1], last=True)


def test_every_changed_byte_and_every_truncation_of_a_reply_is_refused():
    (good,) = replies(b"an answer")
    for changed in (
        *(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good))),
        *(good[:end] for end in range(len(good))),
        good + b"\x00",
    ):
        with pytest.raises(UntrustedError):
            ReplyStream(SECRET, sealed_ask=ASK).open(changed, last=True)


def test_replies_belong_to_one_ask_and_one_secret():
    (good,) = replies(b"a")
    for secret, ask in ((b"\x03" * 32, ASK), (SECRET, ASK + b"\x00")):
        with pytest.raises(UntrustedError):
            ReplyStream(secret, sealed_ask=ask).open(good, last=True)


def test_equal_replies_are_not_sealed_alike():
    assert len(set(replies(b"a", b"a", b"a"))) == 3


def test_parse_answer_inverts_plaintext(make):
    assert parse_answer(make.answer().plaintext()) == make.answer()
    assert parse_answer(make.answer(result="").plaintext()).result == ""


@pytest.mark.parametrize(
    "change",
    [
        {"result": None},
        {"result": 1},
        {"timestamp": None},
        {"timestamp": -1},
        {"timestamp": 2**53 - 1 + 0.0},
        {"signature": None},
        {"signature": "AAAA"},
        {"cose": None},
        {"cose": "!"},
        {"cose": "A" * 5464},
        {"salts": None},
        {"salts": {}},
        {"salts": {"prompt": "AAAA"}},
        {"extra": 1},
    ],
    ids=lambda change: ascii(change)[:40],
)
def test_other_plaintexts_are_no_answers(make, change):
    good = jcs.parse_canonical(make.answer().plaintext(), what="x", max_bytes=9999)
    with pytest.raises(LogError):
        parse_answer(jcs.canonical({**good, **change}))
    for member in good:
        with pytest.raises(MalformedError):
            parse_answer(jcs.canonical({key: value for key, value in good.items() if key != member}))


def test_an_answer_has_the_salt_of_every_field_and_no_other(make):
    salts = make.salts()
    for name in salts:
        without = {key: value for key, value in salts.items() if key != name}
        for wrong in (without, {**salts, name: bytes(31)}, {**salts, "unknown": bytes(32)}):
            with pytest.raises(MalformedError):
                parse_answer(replace(make.answer(), salts=wrong).plaintext())
