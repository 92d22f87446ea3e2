"""A Sigstore instance for tests, but for its log: a CA that issues certificates with an SCT, and a timestamp authority.

All of it is in one hand, so that it shows that formats and rules fit, and gives NO INDEPENDENCE: whoever runs it can
make a certificate of any name, say that a CT log has seen it, and stamp it with any time.

Fulcio's and the TSA's HTTP interfaces, as far as ``sigstore`` for Python and ``@sigstore/sign`` use them. Timestamps are
made by ``openssl ts``.
"""

import base64
import hashlib
import json
import struct
import subprocess
import threading
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

IDENTITY = "someone@example.com"
ISSUER = "https://issuer.example"

_SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER_V1 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")

_OPENSSL_TS = """\
[tsa]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
clock_precision_digits = 0
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def identity_token() -> str:
    """A token that a client forwards unread; whoever issues certificates would check it."""
    now = datetime.now(UTC)
    said = {"aud": "sigstore", "sub": IDENTITY, "iss": ISSUER, "iat": now, "exp": now + timedelta(minutes=10)}
    return jwt.encode(said, "k" * 32, algorithm="HS256")


class Authority:
    """A CA and a CT key, and the certificates that they give. Both are one person's: this gives NO INDEPENDENCE."""

    def __init__(self) -> None:
        self.since = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        self._ca_key, self.ca = self._root("ca")
        self.ct_key = ec.generate_private_key(ec.SECP256R1())

    def trusted_root(self, *tlogs: dict) -> dict:
        """A TrustedRoot with this CA and CT key."""
        ct = spki(self.ct_key.public_key())
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": list(tlogs),
            "certificateAuthorities": [self._authority("https://ca.example", self.ca)],
            "ctlogs": [
                _tlog(
                    "https://ct.example",
                    ct,
                    "PKIX_ECDSA_P256_SHA_256",
                    hashlib.sha256(ct).digest(),
                    self._start,
                )
            ],
            "timestampAuthorities": [],
        }

    def pem(self) -> bytes:
        """The CA's certificate alone."""
        return self.ca.public_bytes(Encoding.PEM)

    @property
    def _start(self) -> dict:
        return {"start": self.since.isoformat().replace("+00:00", "Z")}

    def _authority(self, uri: str, *chain: x509.Certificate) -> dict:
        return {
            "subject": {"organization": "test", "commonName": "test"},
            "uri": uri,
            "certChain": {
                "certificates": [{"rawBytes": b64(each.public_bytes(Encoding.DER))} for each in chain]
            },
            "validFor": self._start,
        }

    def issue(
        self,
        key: ec.EllipticCurvePublicKey,
        *,
        identity: x509.GeneralName | None = None,
        issuer: str | None = ISSUER,
        legacy_issuer: str | None = ISSUER,
        not_before: datetime | None = None,
        minutes: int = 10,
        ct_keys: Sequence[ec.EllipticCurvePrivateKey] | None = None,
        omit: Collection[type[x509.ExtensionType]] = (),
        extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
        signed_by: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        """A certificate for ten minutes, with an SCT by the CT key over all the rest of it; or one with a fault."""
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        start = not_before or now - timedelta(minutes=1)
        san = x509.SubjectAlternativeName([identity or x509.RFC822Name(IDENTITY)])
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), False),
            (san, True),
        ]
        if legacy_issuer is not None:
            extensions.append((x509.UnrecognizedExtension(ISSUER_V1, legacy_issuer.encode()), False))
        if issuer is not None:
            value = bytes([0x0C, len(issuer)]) + issuer.encode()
            extensions.append((x509.UnrecognizedExtension(ISSUER_V2, value), False))
        extensions = [each for each in extensions if type(each[0]) not in omit] + list(extra)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(minutes=minutes))
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical=critical)
        ca_key = signed_by or self._ca_key
        ct_keys = [self.ct_key] if ct_keys is None else ct_keys
        if ct_keys:
            tbs = builder.sign(ca_key, hashes.SHA256()).tbs_certificate_bytes
            scts = [self._sct(tbs, each) for each in ct_keys]
            listed = b"".join(struct.pack(">H", len(sct)) + sct for sct in scts)
            listed = struct.pack(">H", len(listed)) + listed
            extension = x509.UnrecognizedExtension(_SCT_LIST, b"\x04" + _der_length(len(listed)) + listed)
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    def _sct(self, tbs: bytes, ct_key: ec.EllipticCurvePrivateKey) -> bytes:
        """RFC 6962 §3.2 over a precertificate."""
        time = struct.pack(">Q", int(datetime.now(UTC).timestamp() * 1000))
        issuer = hashlib.sha256(spki(self._ca_key.public_key())).digest()
        signed = b"\0\0" + time + b"\0\x01" + issuer + struct.pack(">I", len(tbs))[1:] + tbs + b"\0\0"
        signature = ct_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        log_id = hashlib.sha256(spki(ct_key.public_key())).digest()
        return b"\0" + log_id + time + b"\0\0" + b"\x04\x03" + struct.pack(">H", len(signature)) + signature

    def _root(self, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._authority_builder(name, key.public_key(), name)
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        return key, builder.sign(key, hashes.SHA256())

    def _authority_builder(
        self, subject: str, key: ec.EllipticCurvePublicKey, issuer: str
    ) -> x509.CertificateBuilder:
        def name(text: str) -> x509.Name:
            return x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test"),
                    x509.NameAttribute(NameOID.COMMON_NAME, text),
                ]
            )

        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.since)
            .not_valid_after(self.since + timedelta(days=1))
        )


class Instance(Authority):
    """CA, CT key and TSA behind one loopback server."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._tsa_root_key, self.tsa_root = self._root("tsa root")
        self.tsa = self._prepare_tsa()
        self._server = self._serve()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What clients are told

    def trusted_root(self, *tlogs: dict) -> dict:
        """A TrustedRoot with this instance's keys and addresses."""
        return super().trusted_root(*tlogs) | {
            "certificateAuthorities": [self._authority(self.url, self.ca)],
            "timestampAuthorities": [
                self._authority(f"{self.url}/api/v1/timestamp", self.tsa, self.tsa_root)
            ],
        }

    def tlog(self, origin: str, log_key: bytes, log_id: bytes) -> dict:
        """A log as a TrustedRoot has it: its raw Ed25519 key and 32-byte id."""
        ed25519 = bytes.fromhex("302a300506032b6570032100") + log_key
        return _tlog(f"https://{origin}", ed25519, "PKIX_ED25519", log_id, self._start)

    def client_trust_config(self, trusted_root: dict, log_url: str) -> dict:
        """What sigstore for Python signs with."""
        start = self._start

        def service(url: str, version: int) -> dict:
            return {"url": url, "majorApiVersion": version, "operator": "test", "validFor": start}

        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": trusted_root,
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service(self.url, 1)],
                "oidcUrls": [],
                "rekorTlogUrls": [service(log_url, 2)],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [service(f"{self.url}/api/v1/timestamp", 1)],
                "tsaConfig": {"selector": "ANY"},
            },
        }

    # Timestamps

    def _prepare_tsa(self) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._authority_builder("tsa", key.public_key(), "tsa root")
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        )
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        certificate = builder.sign(self._tsa_root_key, hashes.SHA256())
        (self.folder / "tsa.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (self.folder / "tsa.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (self.folder / "serial").write_text("01")
        (self.folder / "ts.cnf").write_text(_OPENSSL_TS.format(folder=self.folder))
        self._tsa_lock = threading.Lock()
        return certificate

    def timestamp(self, query: bytes) -> bytes:
        """An RFC 3161 response to a query, or to the JSON that ``@sigstore/sign`` sends instead of one."""
        with self._tsa_lock:
            if query.startswith(b"{"):
                self._write_query(json.loads(query))
            else:
                (self.folder / "query").write_bytes(query)
            command = [
                "openssl",
                "ts",
                "-reply",
                "-config",
                "ts.cnf",
                "-section",
                "tsa",
                "-queryfile",
                "query",
            ]
            command += ["-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "response"]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
            return (self.folder / "response").read_bytes()

    def _write_query(self, request: dict) -> None:
        assert request["hashAlgorithm"] == "sha256"
        digest = base64.b64decode(request["artifactHash"]).hex()
        command = ["openssl", "ts", "-query", "-digest", digest, "-sha256", "-cert", "-out", "query"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    # HTTP

    def certificates(self, request: dict) -> dict:
        """Fulcio's answer to either of the requests that its clients send."""
        if "certificateSigningRequest" in request:
            pem = base64.b64decode(request["certificateSigningRequest"])
            key = x509.load_pem_x509_csr(pem).public_key()
        else:
            key = load_pem_public_key(request["publicKeyRequest"]["publicKey"]["content"].encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        chain = [each.public_bytes(Encoding.PEM).decode() for each in (self.issue(key), self.ca)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _serve(self) -> ThreadingHTTPServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/api/v2/signingCert":
                    answer, kind = (
                        json.dumps(outer.certificates(json.loads(body))).encode(),
                        "application/json",
                    )
                else:
                    assert self.path == "/api/v1/timestamp"
                    answer, kind = outer.timestamp(body), "application/timestamp-reply"
                self.send_response(201)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server


def _usage(**how: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | how))


def _der_length(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    return bytes([0x81, length]) if length < 256 else b"\x82" + struct.pack(">H", length)


def _tlog(url: str, key: bytes, details: str, log_id: bytes, start: dict) -> dict:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": b64(key), "keyDetails": details, "validFor": start},
        "logId": {"keyId": b64(log_id)},
    }
