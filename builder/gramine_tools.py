"""Gramine's own tools as a second opinion: where they are installed, a build must agree with them byte for byte.

``gramine-manifest`` and ``gramine-sgx-sign`` are given the canonical manifest and must return it unchanged; what they
sign must be the MRENCLAVE that was computed here. They are never trusted with anything: a build does not need them, and
where they say something else it fails.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from assay.attest.gramine.attributes import verify_signed_for
from assay.attest.gramine.options import parse_manifest
from assay.attest.gramine.sigstruct import NO_DATE, SigStruct, verify_sigstruct
from assay.attest.gramine.sigstruct_view import parse_view, verify_view
from assay.builder.sigstruct_signing import Signing
from assay.tlog.errors import LogError, UnavailableError, UntrustedError

Runner = Callable[[Sequence[str], Path], bytes]
"""Runs a command in a folder and gives its standard output; UnavailableError if it fails."""

_TIMEOUT_S = 600
_REASON_SIZE = 500


@dataclass(frozen=True, slots=True)
class Tools:
    """Gramine's tools; ``view`` may be missing in a partial installation."""

    manifest: str
    sign: str
    view: str | None


def find_tools(which: Callable[[str], str | None] = shutil.which) -> Tools | None:
    """The tools that are installed, or None if the two that write are not both there."""
    manifest, sign = which("gramine-manifest"), which("gramine-sgx-sign")
    if manifest is None or sign is None:
        return None
    return Tools(manifest, sign, which("gramine-sgx-sigstruct-view"))


def run_tool(command: Sequence[str], folder: Path) -> bytes:
    """Run one of the tools.

    Raises:
        UnavailableError: it cannot be started, failed or took too long (code ``tool-failed``).
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{name}: {error}", code="tool-failed") from error
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip()[-_REASON_SIZE:]
        raise UnavailableError(f"{name}: exit {done.returncode}: {reason}", code="tool-failed")
    return done.stdout


def compare(
    tools: Tools,
    manifest: bytes,
    libpal: bytes,
    *,
    mr_enclave: bytes,
    sigstruct: bytes | None,
    signing: Signing | None,
    run: Runner = run_tool,
) -> None:
    """Let Gramine's tools repeat what was computed here.

    Args:
        tools: which to run.
        manifest: the canonical manifest.
        libpal: what is measured beside it.
        mr_enclave: what was computed.
        sigstruct: what was signed here, or None.
        signing: how. Where its key is not in memory, or there is none, a key is made for the comparison and thrown
            away, and the SIGSTRUCTs are not compared.
        run: runs a command.

    Raises:
        UntrustedError: a tool returns another manifest, measurement or SIGSTRUCT (code ``tools-differ``).
        UnavailableError: a tool fails (code ``tool-failed``).
    """
    key = None if signing is None else signing.private_key
    date = NO_DATE if signing is None else signing.date
    with tempfile.TemporaryDirectory(prefix="assay-gramine-") as scratch:
        folder = Path(scratch)
        _write_inputs(folder, manifest, libpal, key)
        run([tools.manifest, "app.manifest.template", "app.manifest"], folder)
        _require_same(folder / "app.manifest", manifest, what="gramine-manifest")
        run([tools.sign, *_sign_arguments(date)], folder)
        _require_same(folder / "app.manifest.sgx", manifest, what="gramine-sgx-sign")
        signed = _output(folder / "app.sig", what="gramine-sgx-sign")
        parsed = _check_signed(signed, manifest, mr_enclave)
        if key is not None and sigstruct is not None and signed != sigstruct:
            raise UntrustedError("gramine-sgx-sign: signs another SIGSTRUCT", code="tools-differ")
        if tools.view is not None:
            said = run([tools.view, "-v", "--output-format", "json", "app.sig"], folder)
            _check_view(said, parsed)


def _check_view(said: bytes, signed: SigStruct) -> None:
    try:
        verify_view(parse_view(said), signed.body, mr_signer=signed.mr_signer)
    except LogError as error:
        raise UntrustedError(f"gramine-sgx-sigstruct-view: {error}", code="tools-differ") from error


def _write_inputs(folder: Path, manifest: bytes, libpal: bytes, key: RSAPrivateKey | None) -> None:
    (folder / "app.manifest.template").write_bytes(manifest)
    (folder / "libpal.so").write_bytes(libpal)
    signing = key or rsa.generate_private_key(public_exponent=3, key_size=3072)
    path = folder / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(signing.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def _sign_arguments(date: str) -> list[str]:
    files = {"--manifest": "app.manifest", "--output": "app.manifest.sgx", "--sigfile": "app.sig"}
    files |= {"--key": "key.pem", "--libpal": "libpal.so", "--date": date}
    return [word for pair in files.items() for word in pair]


def _output(path: Path, *, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnavailableError(f"{what}: wrote no {path.name}", code="tool-failed") from error


def _require_same(path: Path, manifest: bytes, *, what: str) -> None:
    if _output(path, what=what) != manifest:
        raise UntrustedError(
            f"{what}: returns another manifest; is it of the version that the recipe names?",
            code="tools-differ",
        )


def _check_signed(data: bytes, manifest: bytes, mr_enclave: bytes) -> SigStruct:
    try:
        return verify_signed_for(verify_sigstruct(data), parse_manifest(manifest), mr_enclave)
    except LogError as error:
        raise UntrustedError(f"gramine-sgx-sign: {error}", code="tools-differ") from error
