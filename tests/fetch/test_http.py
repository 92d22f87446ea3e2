"""One bounded request: servers that lie about lengths, drip, redirect or hang cannot hurt its caller."""

import socket
import threading
import time

import pytest

from assay.fetch import http
from assay.tlog.errors import LogError, MalformedError, UnavailableError


class Raw:
    """A server that answers one connection with given bytes."""

    def __init__(self, answer, *, drip_s=0.0, close=True):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/x"
        self.asked = b""
        self._answer, self._drip_s, self._close = answer, drip_s, close
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        with connection:
            self.asked = connection.recv(65536)
            try:
                if self._drip_s:
                    for at in range(len(self._answer)):
                        connection.sendall(self._answer[at : at + 1])
                        if self._done.wait(self._drip_s):
                            return
                else:
                    connection.sendall(self._answer)
            except OSError:
                return
            if not self._close:
                self._done.wait(10)

    def stop(self):
        self._done.set()
        self.listener.close()
        self._thread.join()


@pytest.fixture
def serve():
    servers = []

    def start(answer, **how):
        servers.append(Raw(answer, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def get(url, **how):
    return http.request("GET", url, **{"timeout_s": 2.0, "max_bytes": 100, **how})


def test_a_response_is_read_whole(serve):
    server = serve(b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc")
    response = get(server.url)
    assert (response.status, response.headers["x-a"], response.body) == (201, "b", b"abc")
    assert b"Connection: close" in server.asked


def test_a_body_up_to_the_limit_is_taken_and_one_byte_more_is_not(serve):
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert len(get(serve(head + b"x" * 100).url).body) == 100
    with pytest.raises(MalformedError) as refused:
        get(serve(head + b"x" * 101).url)
    assert refused.value.code == "too-large"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "no http", "cut off", "chunk cut off", "too many headers", "endless header"],
)
def test_a_broken_answer_is_unavailable(serve, answer):
    with pytest.raises(UnavailableError):
        get(serve(answer).url)


def test_a_redirect_is_an_answer_and_is_not_followed(serve):
    server = serve(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    assert get(server.url).status == 302


@pytest.mark.parametrize("how", [{"drip_s": 0.2}, {"close": False}], ids=["drips", "hangs"])
def test_a_slow_server_meets_the_deadline(serve, how):
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + b"x" * 80, **how)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        get(server.url, timeout_s=0.6)
    assert time.monotonic() - began < 3


def test_a_body_without_a_length_that_is_cut_off_at_the_deadline_is_no_answer(serve):
    server = serve(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 80, close=False)
    with pytest.raises(UnavailableError):
        get(server.url, timeout_s=0.5)


def test_nobody_listening_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError):
        get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://127.0.0.1/",
        "http://",
        "http://127.0.0.1:99999/",
        "http://u:p@127.0.0.1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1/#f",
        "file:///etc/passwd",
        "http://[::1/",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_sent(url):
    with pytest.raises(LogError) as refused:
        get(url)
    assert isinstance(refused.value, MalformedError)


def test_the_environment_s_proxy_has_no_say(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert get(serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").url).status == 200
