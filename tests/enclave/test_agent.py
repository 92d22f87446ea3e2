"""The agent's frame: places, refusals with one line, and a place for whoever waits."""

import socket
import threading
import time
from pathlib import Path

import pytest

from assay.enclave import agent
from assay.enclave.agent import _Places
from assay.enclave.config import HostInputs
from assay.tlog.errors import MalformedError, UnavailableError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serving(enclave):
    """The accept loop with two places."""
    listener = socket.create_server(("127.0.0.1", 0))
    places = _Places(2)
    thread = threading.Thread(target=agent._accept, args=(listener, enclave.agent, places), daemon=True)
    thread.start()
    yield listener.getsockname(), places
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    assert not thread.is_alive()


def test_places_are_bounded_and_come_back():
    places = _Places(2)
    assert [places.take() for _ in range(3)] == [True, True, False]
    places.leave()
    assert [places.take() for _ in range(2)] == [True, False]


def test_more_connections_than_places_are_turned_away_until_one_leaves(serving, peer_at):
    (host, port), places = serving
    address = f"{host}:{port}"
    first, second = peer_at(address), peer_at(address)
    for peer in (first, second):
        peer.hello()
    third = peer_at(address)
    assert third.refused() == "full"
    assert third.receive() is None
    first.socket.close()
    deadline = time.monotonic() + 5
    while places.taken == 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    peer_at(address).hello()
    second.hello()


def test_a_thread_that_cannot_be_had_costs_no_place(serving, peer_at, monkeypatch):
    (host, port), places = serving

    class NoThread:
        def __init__(self, **options):
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(agent.threading, "Thread", NoThread)
        assert peer_at(f"{host}:{port}").refused() == "full"
    assert places.taken == 0
    peer_at(f"{host}:{port}").hello()


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"{}", b"nonsense\n", b'{"api_key":"sk-secret"}\n', b"\xff\n", b"x" * 20_000]
)
def test_a_line_that_is_none_ends_with_one_line_and_no_secret(tmp_path, capfd, line):
    assert agent.main(tmp_path, line) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("agent: error[")
    assert shown.err.count("\n") == 1
    assert "sk-secret" not in shown.err


@pytest.mark.parametrize(
    "text", ["", ":", "127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:x", "127.0.0.1:-1", "h:65536", "h:\u0661"]
)
def test_addresses_have_one_spelling(text):
    with pytest.raises(MalformedError):
        agent._address(text)


def test_an_address_that_is_taken_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError) as caught:
        agent._listen(f"127.0.0.1:{taken.getsockname()[1]}")
    assert caught.value.code == "address"


def test_a_broken_thread_shows_its_type_only(capfd):
    failure = threading.ExceptHookArgs((ValueError, ValueError("the prompt"), None, None))
    agent._note_failure(failure)
    assert capfd.readouterr().err == "agent: a thread ended by ValueError\n"


def test_on_sgx_the_host_does_not_choose_where_state_lies(
    tmp_path, monkeypatch, standin_ca, log_policy_text, capfd
):
    """Only the manifest's mount seals there: any other folder would hold the key in plain."""
    config = (ROOT / "reproducible" / "agent-standin" / "agent.toml").read_text()
    (tmp_path / "config.toml").write_text(config.replace('platform = "simulated"', 'platform = "sgx"'))
    (tmp_path / "log-policy.txt").write_text(log_policy_text)
    (tmp_path / "llm-ca.pem").write_text(standin_ca)
    monkeypatch.setattr(agent, "_SGX_STATE", tmp_path / "mount")
    host = HostInputs("127.0.0.1:0", "http://127.0.0.1:1", None, "", "", tmp_path / "host", None, None)
    assert agent.main(tmp_path, host.line()) == 3
    assert "error[no-quote]" in capfd.readouterr().err
    assert (tmp_path / "mount" / "agent.sealed").exists()
    assert not (tmp_path / "host").exists()
