"""What the agent is told: measured files that it trusts, and one line from its host that it does not.

The measured configuration is TOML with exactly these members::

    product = "assay-agent-standin"
    platform = "simulated"            # or "sgx"
    llm_host = "llm.standin.example"  # the name that the model's TLS certificate must bear
    models = ["stand-in-1"]           # what a caller may ask for
    max_tokens = 4096                 # the most that a caller may ask for
    connections = 8                   # served at the same time
    request_memory = 65536            # request ids remembered for a boot; when full, asks are refused
    registration_wait_s = 30          # how long a boot waits for its log

Nothing in the host's line can change what is trusted: it says where things are, not whom to believe.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from assay.attest import jcs
from assay.tlog.errors import MalformedError
from assay.tlog.policy import Policy, parse_policy

MAX_FILE_SIZE = 1 << 20
MAX_LINE_SIZE = 16_384

_MEMBERS = {
    "product": str,
    "platform": str,
    "llm_host": str,
    "models": list,
    "max_tokens": int,
    "connections": int,
    "request_memory": int,
    "registration_wait_s": int,
}
_PLATFORMS = ("sgx", "simulated")
_HOST_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured files, parsed once; the digests are over their exact bytes and stand in the claims."""

    product: str
    platform: str
    llm_host: str
    models: tuple[str, ...]
    max_tokens: int
    connections: int
    request_memory: int
    registration_wait_s: int
    config_sha256: bytes
    log_policy: Policy
    log_policy_sha256: bytes
    llm_ca_pem: str

    @property
    def log_origin(self) -> str:
        """The one log that receipts go to."""
        return self.log_policy.origins[0]


@dataclass(frozen=True, slots=True)
class HostInputs:
    """The host's line: where to listen, where things are. Untrusted, and not measured.

    Attributes:
        listen: ``HOST:PORT``; port 0 lets the system choose.
        log_url: the log's address.
        llm_address: ``HOST:PORT`` to connect to instead of the measured host name's port 443, or None.
        api_key: the model's API key; known to the host until keys are released to enclaves only.
        region: what the host says of its place; nobody relies on it.
        state_dir: where sealed state lies.
        device: the simulated device's socket, or None.
        packages: the stand-in's only: where the host's native packages are; its ``main.py`` has used it before.
    """

    listen: str
    log_url: str
    llm_address: str | None
    api_key: str = field(repr=False)
    region: str
    state_dir: Path
    device: str | None
    packages: str | None

    def line(self) -> bytes:
        """The line as the launcher writes it."""
        value = {
            "api_key": self.api_key,
            "device": self.device,
            "listen": self.listen,
            "llm_address": self.llm_address,
            "log_url": self.log_url,
            "packages": self.packages,
            "region": self.region,
            "state_dir": str(self.state_dir),
        }
        return jcs.canonical(value) + b"\n"


def read_measured(folder: Path) -> Measured:
    """Read ``config.toml``, ``log-policy.txt`` and ``llm-ca.pem`` of the image.

    Raises:
        MalformedError: a file that is too long or not what it should be (code ``measured-config``).
        OSError: one that is missing; under Gramine a host can hide a trusted file, and it must not be missed.
    """
    config, policy, ca_pem = (
        _read(folder / name) for name in ("config.toml", "log-policy.txt", "llm-ca.pem")
    )
    log_policy = parse_policy(policy)
    if len(log_policy.origins) != 1:
        raise _malformed("the log policy names no log, or several")
    values = _members(config)
    return Measured(
        **values,
        config_sha256=hashlib.sha256(config).digest(),
        log_policy=log_policy,
        log_policy_sha256=hashlib.sha256(policy).digest(),
        llm_ca_pem=_certificates(ca_pem),
    )


def parse_host_line(line: bytes) -> HostInputs:
    """Read the host's line.

    Raises:
        MalformedError: longer than 16 KiB, not canonical JSON, other members, or an API key that is not ASCII.
    """
    names = ("api_key", "device", "listen", "llm_address", "log_url", "packages", "region", "state_dir")
    value = jcs.parse_canonical(line.removesuffix(b"\n"), what="host line", max_bytes=MAX_LINE_SIZE)
    fields = jcs.Fields(value, what="host line", required=names)
    api_key = fields.text("api_key", empty=True)
    if not api_key.isascii():
        raise MalformedError("host line.api_key: no header can carry it")
    return HostInputs(
        listen=fields.text("listen"),
        log_url=fields.text("log_url"),
        llm_address=fields.nullable("llm_address", fields.text),
        api_key=api_key,
        region=fields.text("region", empty=True),
        state_dir=Path(fields.text("state_dir")),
        device=fields.nullable("device", fields.text),
        packages=fields.nullable("packages", fields.text),
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise _malformed(f"{path.name}: too long")
    return data


def _certificates(pem: bytes) -> str:
    """The CA file as text. TLS would fail on a bad one too, but only when somebody asks."""
    try:
        x509.load_pem_x509_certificates(pem)
        return pem.decode("ascii")
    except ValueError as error:
        raise _malformed("llm-ca.pem: no certificates in PEM") from error


def _members(data: bytes) -> dict[str, Any]:
    try:
        values: Mapping[str, Any] = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _malformed(f"config.toml: not TOML: {error}") from error
    if set(values) != set(_MEMBERS):
        raise _malformed("config.toml: not exactly the members that it must have")
    for name, kind in _MEMBERS.items():
        if type(values[name]) is not kind or (kind is int and values[name] < 1):
            raise _malformed(f"config.toml: {name} has a wrong value")
    models = values["models"]
    if not models or any(not isinstance(model, str) or not model for model in models):
        raise _malformed("config.toml: models is no list of names")
    if not values["product"] or not _HOST_NAME.fullmatch(values["llm_host"]):
        raise _malformed("config.toml: product or llm_host is no name")
    if values["platform"] not in _PLATFORMS:
        raise _malformed(f"config.toml: platform is none of {_PLATFORMS}")
    return {**values, "models": tuple(models)}


def _malformed(message: str) -> MalformedError:
    return MalformedError(message, code="measured-config")
