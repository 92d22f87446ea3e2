"""A provisioning service on loopback, genuine or misbehaving, and time that passes at once."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from assay.attest.simulated.pcs_service import Answer, SimulatedPcs
from assay.fetch.patient import Patience

T = 1_760_000_000
SEED = bytes(range(32))


@dataclass
class FakeTime:
    """Pauses last no time, but count."""

    now_s: float = 1000.0
    pauses: list = field(default_factory=list)

    def clock_s(self):
        return self.now_s

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now_s += seconds

    def patience(self, **how):
        return Patience(**{"clock_s": self.clock_s, "pause": self.pause, **how})


class PcsDouble(ThreadingHTTPServer):
    """The simulated service over HTTP.

    ``changes``: kind of request -> function of the genuine answer, which gives another one or raw bytes. Kinds:
    tcb, qe/identity, pckcrl, rootcacrl, IntelSGXRootCA.der.
    """

    daemon_threads = True

    def __init__(self, service=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.service = service or SimulatedPcs(SEED, epoch_s=T)
        self.issued_s = T
        self.changes = {}
        self.asked = []
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def counts(self):
        return Counter(kind_of(target) for target in self.asked)

    def handle_error(self, request, client_address):
        pass

    def stop(self):
        self.released.set()
        self.shutdown()
        self.server_close()


def kind_of(target):
    return target.partition("?")[0].rpartition("/v4/")[2].removeprefix("/")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.service.answer(self.path, issued_s=self.server.issued_s)
        change = self.server.changes.get(kind_of(self.path))
        answer = answer if change is None else change(answer)
        if isinstance(answer, Answer):
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
        elif isinstance(answer, bytes):
            self.wfile.write(answer)
        else:
            self.server.released.wait(10)

    def log_message(self, *args):
        pass


@pytest.fixture
def pcs():
    server = PcsDouble()
    yield server
    server.stop()


@pytest.fixture
def fake_time():
    return FakeTime()
