"""What a service signed is cut out of its answer byte for byte, and only of an answer that reads in one way."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.quote.signed_text import split_signed_text
from assay.tlog.errors import MalformedError

SIGNATURE = "ab" * 64


def split(body, *, member="tcbInfo", max_bytes=10_000):
    return split_signed_text(
        body.encode() if isinstance(body, str) else body, member=member, max_bytes=max_bytes
    )


TEXTS = [
    "{}",
    '{"a":1}',
    '{ "a" : [ 1 , { } ] }',
    '{\n\t"a"\r: "b" }',
    '{"tcbInfo":{"signature":"inner"}}',
    r'{"a":"\"tcbInfo\":{}, \"signature\":\"x\""}',
    r'{"a":"}{][,:\\","b":"{\"}"}',
    r'{"a":"\u007b\u0022\u005c"}',
    '{"a":"ä☃𝄞"}',
    '{"a":null,"b":true,"c":-7}',
    '{"\\"":"\\\\"}',
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "frame",
    [
        '{"tcbInfo":%s,"signature":"%s"}',
        ' {\t"tcbInfo" \n: %s\r,  "signature":"%s" } \n',
        '{"\\u0074cbInfo":%s,"signature":"%s"}',
    ],
)
def test_the_text_is_kept_byte_for_byte(text, frame):
    assert split(frame % (text, SIGNATURE)) == (text, bytes.fromhex(SIGNATURE))
    assert split(f'{{"signature":"{SIGNATURE}","tcbInfo":{text}}}') == (text, bytes.fromhex(SIGNATURE))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON), st.sampled_from([None, 0, 3]), st.booleans())
def test_any_object_in_any_spacing_is_kept(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    body = f'{{"signature":"{SIGNATURE}","tcbInfo":{text}}}'.encode()
    assert split(body, max_bytes=1 << 20)[0] == text


def whole(text="{}", signature=SIGNATURE):
    return f'{{"tcbInfo":{text},"signature":"{signature}"}}'


REFUSED = {
    "nothing": "",
    "no JSON": "tcbInfo",
    "a list": f'[{{"tcbInfo":{{}},"signature":"{SIGNATURE}"}}]',
    "text": '"tcbInfo"',
    "the member missing": f'{{"signature":"{SIGNATURE}"}}',
    "the member only inside a string": f'{{"a":"\\"tcbInfo\\":{{}}","signature":"{SIGNATURE}"}}',
    "the member only inside another": f'{{"a":{{"tcbInfo":{{}}}},"signature":"{SIGNATURE}"}}',
    "another member's name": f'{{"enclaveIdentity":{{}},"signature":"{SIGNATURE}"}}',
    "another case": f'{{"tcbinfo":{{}},"signature":"{SIGNATURE}"}}',
    "no signature": '{"tcbInfo":{}}',
    "something else beside": whole()[:-1] + ',"more":1}',
    "the member twice": f'{{"tcbInfo":{{}},"tcbInfo":{{}},"signature":"{SIGNATURE}"}}',
    "the member twice, once escaped": f'{{"tcbInfo":{{}},"\\u0074cbInfo":{{"a":1}},"signature":"{SIGNATURE}"}}',
    "the signature twice": f'{{"tcbInfo":{{}},"signature":"{SIGNATURE}","signature":"{SIGNATURE}"}}',
    "a key twice inside": whole('{"a":1,"a":2}'),
    "a key twice deep inside": whole('{"a":[{"b":{"c":1,"c":1}}]}'),
    "bytes after it": whole() + "x",
    "a second document after it": whole() + whole(),
    "a nul after it": whole() + "\0",
    "cut off": whole()[:-1],
    "a byte-order mark": "\ufeff" + whole(),
    "a comment": "/* */" + whole(),
    "another blank": whole().replace(",", ",\u00a0"),
    "a comma too many": whole()[:-1] + ",}",
    "the object as text": whole('"{}"'),
    "the object as a list": whole("[]"),
    "null": whole("null"),
    "not a number": whole('{"a":NaN}'),
    "a fraction": whole('{"a":1.5}'),
    "a huge integer": whole('{"a":%s}' % ("9" * 5000)),
    "a lone surrogate": whole('{"a":"\\ud800"}'),
    "a control character in a string": whole('{"a":"\n"}'),
    "deep nesting": whole('{"a":' + "[" * 100 + "]" * 100 + "}"),
    "endless nesting": whole("{" * 4000),
    "a short signature": whole(signature="ab" * 63),
    "a long signature": whole(signature="ab" * 65),
    "a signature in upper case": whole(signature="AB" * 64),
    "a signature with a space": whole(signature=" " + "ab" * 64),
    "a signature that is no hex": whole(signature="xy" * 64),
    "a signature that is a number": f'{{"tcbInfo":{{}},"signature":{"1" * 10}}}',
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_an_answer_is_refused_for(body):
    with pytest.raises(MalformedError):
        split(body)


@pytest.mark.parametrize(
    "body", [b"\xff", b"\x80" + whole().encode(), whole('{"a":"Z"}').encode().replace(b"Z", b"\xc3")]
)
def test_what_is_not_utf_8_is_refused(body):
    with pytest.raises(MalformedError):
        split(body)


def test_every_head_of_an_answer_is_refused():
    body = whole(r'{"a":"\"}","b":[1,{"c":{}}]}')
    assert split(body)
    for size in range(len(body)):
        with pytest.raises(MalformedError):
            split(body[:size])


def test_the_bound_comes_before_any_parsing():
    body = whole()
    assert split(body, max_bytes=len(body))
    with pytest.raises(MalformedError) as refused:
        split(body, max_bytes=len(body) - 1)
    assert refused.value.code == "too-large"
