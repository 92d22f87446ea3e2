"""What the agent is told: measured files and the host's line, in one spelling, bounded."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from assay.attest import jcs
from assay.enclave import config
from assay.enclave.config import HostInputs, parse_host_line, read_measured
from assay.tlog.errors import LogError, MalformedError

TOML = """\
product = "a-product"
platform = "simulated"
llm_host = "llm.standin.example"
models = ["a-model"]
max_tokens = 100
connections = 3
request_memory = 10
registration_wait_s = 30
"""
MEMBERS = [line.partition(" = ")[0] for line in TOML.splitlines()]
KEY = "log log.example+c9d9a1bd+Ab0ZcUPwWbL6dnBW0gnhKSk1KDGSPZ2VCgKW4AgXBEfY"

INPUTS = HostInputs(
    listen="127.0.0.1:0",
    log_url="http://127.0.0.1:1",
    llm_address=None,
    api_key="sk-secret",
    region="",
    state_dir=Path("/state"),
    device=None,
    packages=None,
)


@pytest.fixture
def app(tmp_path, standin_ca, policy):
    from assay.tlog.policy import format_policy

    (tmp_path / "config.toml").write_text(TOML)
    (tmp_path / "log-policy.txt").write_text(format_policy(policy))
    (tmp_path / "llm-ca.pem").write_text(standin_ca)
    return tmp_path


def test_the_measured_files_are_read_and_their_exact_bytes_hashed(app):
    measured = read_measured(app)
    assert measured.models == ("a-model",)
    assert measured.log_origin == "log.example"
    assert measured.config_sha256 == hashlib.sha256((app / "config.toml").read_bytes()).digest()
    assert measured.log_policy_sha256 == hashlib.sha256((app / "log-policy.txt").read_bytes()).digest()


@pytest.mark.parametrize("name", ["config.toml", "log-policy.txt"])
def test_a_comment_more_is_another_digest(app, name):
    before = read_measured(app)
    (app / name).write_bytes((app / name).read_bytes() + b"# more\n")
    after = read_measured(app)
    changed = [
        before.config_sha256 != after.config_sha256,
        before.log_policy_sha256 != after.log_policy_sha256,
    ]
    assert changed == [name == "config.toml", name == "log-policy.txt"]
    assert before.log_policy == after.log_policy


def refused(app, text):
    (app / "config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MalformedError) as caught:
        read_measured(app)
    return caught.value.code == "measured-config"


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_must_be_there(app, name):
    assert refused(app, "".join(f"{line}\n" for line in TOML.splitlines() if not line.startswith(name)))


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize(
    "value", ['""', "0", "-1", "true", "1.5", "[]", "[1]", '[""]', "{}", "1979-05-27", "[['a']]"]
)
def test_every_member_has_one_type_and_is_not_empty(app, name, value):
    (old,) = [line for line in TOML.splitlines() if line.startswith(f"{name} ")]
    assert refused(app, TOML.replace(old, f"{name} = {value}"))


@pytest.mark.parametrize(
    "text",
    [
        TOML + "more = 1\n",
        TOML + "[table]\n",
        TOML.replace("simulated", "direct"),
        TOML.replace("simulated", "Simulated"),
        TOML.replace("llm.standin", "LLM.standin"),
        TOML.replace("llm.standin.example", "llm.example:443"),
        TOML.replace("llm.standin.example", "-llm.example"),
        TOML.replace("llm.standin.example", "llm example"),
        TOML.replace("llm.standin.example", "llm.ex\\nample"),
        TOML.replace("llm.standin.example", "l" * 254),
        TOML + TOML,
        "",
        "no toml",
        b"\xff",
        TOML.encode() + b"#" * (1 << 20),
    ],
)
def test_other_configurations_are_refused(app, text):
    assert refused(app, text)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n",
    ],
)
def test_a_ca_file_without_certificates_is_refused(app, pem):
    (app / "llm-ca.pem").write_bytes(pem)
    with pytest.raises(MalformedError) as caught:
        read_measured(app)
    assert caught.value.code == "measured-config"


def test_a_cut_off_ca_file_is_refused(app, standin_ca):
    for length in range(0, len(standin_ca) - 1, 10):
        (app / "llm-ca.pem").write_text(standin_ca[:length])
        with pytest.raises(MalformedError):
            read_measured(app)


@pytest.mark.parametrize("text", ["", "quorum none\n", "log x\nquorum none\n", "\xff"])
def test_a_policy_without_a_log_is_refused(app, text):
    (app / "log-policy.txt").write_text(text, "latin-1")
    with pytest.raises(MalformedError):
        read_measured(app)


def test_a_policy_of_several_logs_is_refused(app):
    from assay.tlog.keys import KeyType, SignerKey

    keys = [
        SignerKey(name, KeyType.ED25519, bytes([n]) * 32) for n, name in enumerate(("a.example", "b.example"))
    ]
    (app / "log-policy.txt").write_text(
        "".join(f"log {key.verifier} http://log.invalid\n" for key in keys) + "quorum none\n"
    )
    with pytest.raises(MalformedError) as caught:
        read_measured(app)
    assert caught.value.code == "measured-config"


@pytest.mark.parametrize("name", ["config.toml", "log-policy.txt", "llm-ca.pem"])
def test_a_missing_file_stops_the_agent(app, name, capfd):
    from assay.enclave.agent import main

    (app / name).unlink()
    with pytest.raises(FileNotFoundError):
        read_measured(app)
    assert main(app, INPUTS.line()) == 3
    error = capfd.readouterr().err
    assert error.startswith("agent: error[io]: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "inputs",
    [
        INPUTS,
        replace(INPUTS, llm_address="127.0.0.1:1", device="/d", packages="/p", region="eu", api_key=""),
    ],
)
def test_the_launchers_line_reads_back(inputs):
    assert parse_host_line(inputs.line()) == inputs


def members():
    return jcs.parse_canonical(INPUTS.line()[:-1], what="line", max_bytes=10_000)


@pytest.mark.parametrize("name", sorted(members()))
def test_a_line_with_a_member_missing_renamed_or_of_another_type_is_refused(name):
    usual = members()
    without = {key: value for key, value in usual.items() if key != name}
    for value in (without, {**without, name + "x": usual[name]}, {**usual, name: 7}, {**usual, name: ["a"]}):
        with pytest.raises(MalformedError):
            parse_host_line(jcs.canonical(value) + b"\n")


@pytest.mark.parametrize("name", ["listen", "log_url", "state_dir", "device", "packages", "llm_address"])
@pytest.mark.parametrize("value", ["", "a\nb", "a\0b", "\x7f", "x" * 1025])
def test_texts_of_the_line_are_printable_and_bounded(name, value):
    with pytest.raises(MalformedError):
        parse_host_line(jcs.canonical({**members(), name: value}))


@pytest.mark.parametrize("key", ["sk-\u20ac", "sk-\xe9", "sk\r\nx-more: 1", "sk\n", "x" * 1025])
def test_an_api_key_that_no_header_carries_is_refused_and_not_shown(key):
    with pytest.raises(MalformedError) as caught:
        parse_host_line(jcs.canonical({**members(), "api_key": key}))
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}",
        b"[]",
        b"null\n",
        INPUTS.line() + b"\n",
        b" " + INPUTS.line(),
        INPUTS.line().replace(b":null", b": null"),
        INPUTS.line().replace(b'"api_key"', b'"region":"x","api_key"'),
        INPUTS.line()[:-2] + b',"zz":1}\n',
        INPUTS.line().replace(b"sk-secret", b"\xff"),
        jcs.canonical({**members(), "region": "x" * config.MAX_LINE_SIZE}),
    ],
)
def test_other_lines_are_refused(line):
    with pytest.raises(MalformedError):
        parse_host_line(line)


def test_every_truncation_of_the_line_is_refused():
    line = INPUTS.line().rstrip(b"\n")
    for length in range(len(line)):
        with pytest.raises(LogError):
            parse_host_line(line[:length])


def test_the_api_key_is_in_no_repr():
    assert "sk-secret" not in repr(INPUTS)
