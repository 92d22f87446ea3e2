"""The output signature: every field is covered, and no byte can move from one field to the next."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest import output, p256
from assay.attest.output import Output, prompt_bytes, sign_output, verify_output
from assay.tlog.errors import LogError, MalformedError, UntrustedError


def reference(prompt: bytes, result: bytes, timestamp_ms: int, mr_enclave: bytes) -> bytes:
    message = b"\x00\x00\x00\x00\x00\x00\x00\x0fassay-output-v1"
    for part in (prompt, result, timestamp_ms.to_bytes(8, "big"), mr_enclave):
        message += len(part).to_bytes(8, "big") + part
    return message


def test_the_message_is_that_of_the_layout(make):
    said = make.output()
    assert said.message() == reference(said.prompt, make.RESULT.encode(), make.T * 1000, make.MR_ENCLAVE)
    assert said.prompt == (
        '{"messages":[{"content":"Is ℵ₀ countable?","role":"user"}],"system":"Be brief."}'.encode()
    )


PARTS = st.tuples(st.binary(max_size=20), st.text("ab é", max_size=20), st.integers(0, 2**64 - 1))


@given(PARTS, PARTS)
def test_two_outputs_never_have_one_message(one, other):
    messages = [Output(*parts, bytes(32)).message() for parts in (one, other)]
    assert (messages[0] == messages[1]) is (one == other)


@given(st.text("abé", min_size=1, max_size=20), st.data())
def test_moving_a_byte_between_fields_changes_the_message(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True)))
    messages = {Output(text[:cut].encode(), text[cut:], 0, bytes(32)).message() for cut in cuts}
    assert len(messages) == 2


def test_a_signature_verifies_and_covers_every_field(make):
    said = make.output()
    signature = sign_output(make.key(), said)
    assert len(signature) == 64
    assert verify_output(make.key().public_key(), signature, said) == said
    for changed in (
        replace(said, prompt=said.prompt + b" "),
        replace(said, prompt=said.prompt[:-1]),
        replace(said, prompt=b""),
        replace(said, result=said.result + " "),
        replace(said, result=""),
        replace(said, timestamp_ms=said.timestamp_ms + 1),
        replace(said, timestamp_ms=0),
        replace(said, mr_enclave=bytes(32)),
        replace(said, mr_enclave=said.mr_enclave[:-1]),
        Output(said.result.encode(), said.prompt.decode(), said.timestamp_ms, said.mr_enclave),
    ):
        with pytest.raises(UntrustedError) as caught:
            verify_output(make.key().public_key(), signature, changed)
        assert caught.value.code == "output-signature"


def test_other_signatures_are_refused(make, high_s):
    said, key = make.output(), make.key().public_key()
    good = sign_output(make.key(), said)
    for signature in (
        b"",
        bytes(64),
        good[:-1],
        good + b"\x00",
        high_s(good),
        sign_output(make.key(2), said),
        p256.sign(make.key(), hashlib.sha256(said.message()).digest()),
    ):
        with pytest.raises(LogError):
            verify_output(key, signature, said)


def test_normalization_forms_are_different_results(make):
    one, other = (make.output(result=text).message() for text in ("é", "e\u0301"))
    assert one != other


def test_the_prompt_is_system_and_messages_and_nothing_else(make):
    request = make.REQUEST
    assert prompt_bytes({**request, "model": "other", "max_tokens": 1}) == prompt_bytes(request)
    assert prompt_bytes(dict(reversed(request.items()))) == prompt_bytes(request)
    assert prompt_bytes({**request, "system": "Other."}) != prompt_bytes(request)
    without = {key: value for key, value in request.items() if key != "system"}
    assert prompt_bytes(without) == prompt_bytes({**request, "system": None})
    assert output.prompt_value(without) == {"messages": request["messages"], "system": None}


def test_a_prompt_without_canonical_form_is_refused(make):
    with pytest.raises(MalformedError):
        prompt_bytes({"messages": [{"content": 0.5, "role": "user"}]})
