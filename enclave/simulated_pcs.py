"""A simulated device's provisioning service over HTTP: what a log fetches its collateral from, as from Intel's."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from assay.attest.simulated.pcs_service import SimulatedPcs

_DAY_S = 86_400


class PcsServer(ThreadingHTTPServer):
    """The server. As Intel's, it issues everything once a day, so that the answers of one day are the same.

    Args:
        address: (host, port); port 0 lets the system choose.
        service: what it serves.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: SimulatedPcs) -> None:
        super().__init__(address, _Handler)
        self.service = service

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: PcsServer
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Whatever the service answers."""
        now_s = int(time.time())
        answer = self.server.service.answer(self.path, issued_s=now_s - now_s % _DAY_S)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing."""
