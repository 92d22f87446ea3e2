"""A stand-in for the model: a local HTTPS server that speaks the Messages API, and no model behind it.

Its certificate is issued by a CA whose private key derives from a fixed *public* seed. Whoever trusts that CA
trusts everyone, which is the point: only the stand-in recipe does, and every answer says what it is.
"""

import datetime as dt
import hashlib
import json
import re
import ssl
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from assay.attest.p256 import ORDER

HOST = "llm.standin.example"
LABEL = "[stand-in LLM, no model ran]"

_SEED = b"assay stand-in LLM: a public seed, trust nothing that it signs"
_NOT_BEFORE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER = dt.datetime(2056, 1, 1, tzinfo=dt.UTC)
_MAX_BODY = 1 << 20
_LENGTH = re.compile(r"[0-9]{1,7}")


def _key(label: str) -> ec.EllipticCurvePrivateKey:
    digest = hashlib.sha512(_SEED + b"/" + label.encode()).digest()
    return ec.derive_private_key(int.from_bytes(digest, "big") % (ORDER - 1) + 1, ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Assay stand-in, public key, trust nothing"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    serial = int.from_bytes(hashlib.sha256(_SEED + subject.encode()).digest()[:16], "big") | 1
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("Assay stand-in CA"))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_key("ca").public_key()), critical=False
        )
    )


def ca_certificate() -> x509.Certificate:
    """The CA: the same bytes wherever it is made."""
    key = _key("ca")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = _builder("Assay stand-in CA", key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)


def _server_certificate() -> x509.Certificate:
    builder = _builder(HOST, _key("server"))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    return builder.sign(_key("ca"), hashes.SHA256(), ecdsa_deterministic=True)


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = _key("server").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.pem"
        path.write_bytes(_server_certificate().public_bytes(Encoding.PEM) + key)
        context.load_cert_chain(path)
    return context


def answer_to(request: dict[str, Any]) -> str:
    """What the stand-in says: its label, and something that depends on the prompt."""
    content = request["messages"][-1]["content"]
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{LABEL} You wrote {len(text.split())} words; their SHA-256 begins {digest}."


class StandinServer(ThreadingHTTPServer):
    """The server. ``overloaded`` requests are answered 529 before one is served.

    Args:
        address: (host, port); port 0 lets the system choose.
        overloaded: how many.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], *, overloaded: int = 0) -> None:
        super().__init__(address, _Handler)
        self.overloaded = overloaded
        self.socket = _tls_context().wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that speaks no TLS, or leaves, is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: StandinServer
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """``/v1/messages``, as JSON or as server-sent events."""
        length = self.headers.get("content-length", "")
        if self.path != "/v1/messages" or not _LENGTH.fullmatch(length) or int(length) > _MAX_BODY:
            self.close_connection = True  # what else it sends was not read
            self._error(404, "not_found_error")
            return
        body = self.rfile.read(int(length))
        if self.server.overloaded > 0:
            self.server.overloaded -= 1
            self._error(529, "overloaded_error", retry_after_ms=20)
            return
        try:
            request = json.loads(body)
            text = answer_to(request)
        except (ValueError, LookupError, TypeError, RecursionError):
            self._error(400, "invalid_request_error")
            return
        message = _message(request, text)
        if request.get("stream"):
            self._stream(message, text)
        else:
            self._send(200, "application/json", json.dumps(message).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Prompts and answers are nobody's log lines."""

    def _stream(self, message: dict[str, Any], text: str) -> None:
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**message, "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]
        events += [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in _pieces(text)
        ]
        events += [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": message["usage"]},
            {"type": "message_stop"},
        ]
        body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        self._send(200, "text/event-stream", body.encode())

    def _error(self, status: int, kind: str, *, retry_after_ms: int | None = None) -> None:
        body = json.dumps({"type": "error", "error": {"type": kind, "message": LABEL}}).encode()
        headers = {} if retry_after_ms is None else {"retry-after-ms": str(retry_after_ms)}
        self._send(status, "application/json", body, headers)

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "content-type": kind,
            "content-length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _message(request: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "id": "msg_standin",
        "type": "message",
        "role": "assistant",
        "model": request.get("model", ""),
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _pieces(text: str) -> list[str]:
    return [text[at : at + 24] for at in range(0, len(text), 24)]
