"""Signing without a key of one's own: Sigstore's Fulcio certifies a key that lives for minutes, for an identity token.

The `sigstore` package (the extra of that name) does it, and is imported only here and only when asked for. What it may
trust and whom it talks to comes from one pinned file, a TrustedRoot: its CAs and timestamp authorities by their
addresses there; never from a TUF repository or cache. What comes back is judged by our own rules before it is used.

Sigstore's client logs each signature itself, as a ``hashedrekord`` over the message's hash. For the message we give it
the pre-authentication encoding of an envelope: then that entry is the one by which its clients find the envelope.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from assay.attest import jcs, p256
from assay.attest.entry import CertificateVerifier
from assay.attest.sigstore_certificate import parse_signing_certificate
from assay.attest.sigstore_identity import IdentityJudgement, verify_identity
from assay.attest.sigstore_roots import MAX_ROOTS_SIZE, parse_roots
from assay.builder.signing import Signature
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

if TYPE_CHECKING:
    from sigstore.sign import Signer as SigstoreSigner

_START = "1970-01-01T00:00:00Z"


class KeylessSigner:
    """Signs with a key that was made for this run, certified for the token's identity.

    Args:
        token: an OpenID Connect identity token for the audience ``sigstore``; nothing here keeps or shows it.
        trusted_root: the pinned file.
        log_url: of the log that takes Sigstore's own entries: ours.
        now_s: the clock, Unix seconds.

    Raises:
        MalformedError: no TrustedRoot that names the addresses to ask (code ``sigstore-roots``).
        UntrustedError: the token is not one that Sigstore takes, or is refused (code ``keyless``).
        UnavailableError: the CA does not answer (code ``keyless``).
    """

    def __init__(self, token: str, *, trusted_root: bytes, log_url: str, now_s: Callable[[], int]) -> None:
        self._roots = parse_roots(trusted_root)
        self._now_s = now_s
        config = client_trust_config(trusted_root, log_url=log_url, now_s=now_s())
        self._signer = _call(lambda: _open(token, config))

    def sign(self, message: bytes) -> Signature:
        """Sign a message, have the signature timestamped, and log it.

        Raises:
            UntrustedError: refused (code ``keyless``), or a certificate that the pinned file does not vouch for.
            UnavailableError: somebody does not answer (code ``keyless``).
        """
        bundle = json.loads(_call(lambda: self._signer.sign_artifact(message).to_json()))
        material = bundle["verificationMaterial"]
        certificate = _base64(material["certificate"]["rawBytes"])
        parsed = parse_signing_certificate(certificate)
        verify_identity(parsed, IdentityJudgement(self._roots, self._now_s()))
        der = _base64(bundle["messageSignature"]["signature"])
        raw = p256.signature_from_der(der)
        p256.verify(p256.parse_spki(parsed.spki), raw, message)
        stamps = (material.get("timestampVerificationData") or {}).get("rfc3161Timestamps") or []
        timestamps = tuple(_base64(each["signedTimestamp"]) for each in stamps)
        return Signature(raw, der, CertificateVerifier(certificate), timestamps)


def ambient_token() -> str:
    """The identity token that a CI system offers its jobs (GitHub Actions, GitLab, Google Cloud and others).

    Raises:
        UntrustedError: there is none (code ``identity-token``).
    """
    from sigstore.oidc import detect_credential  # an optional package

    token: str | None = _call(detect_credential)
    if token is None:
        raise UntrustedError(
            "no identity token: give --identity-token, or run where the CI system offers one",
            code="identity-token",
        )
    return token


def client_trust_config(trusted_root: bytes, *, log_url: str, now_s: int) -> dict[str, jcs.Json]:
    """What Sigstore's client is told: the pinned file, and the services that it names at this time.

    Raises:
        MalformedError: no CA or no timestamp authority with an address is in force (code ``sigstore-roots``).
    """
    root = _json(trusted_root)
    authorities = _addresses(root, "certificateAuthorities", now_s)
    timestampers = _addresses(root, "timestampAuthorities", now_s)
    if not authorities or not timestampers:
        raise MalformedError(
            "Sigstore roots: signing needs the addresses of a CA and of a timestamp authority in force",
            code="sigstore-roots",
        )
    return {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": root,
        "signingConfig": {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [_service(authorities[-1], version=1)],
            "oidcUrls": [],
            "rekorTlogUrls": [_service(log_url, version=2)],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [_service(timestampers[-1], version=1)],
            "tsaConfig": {"selector": "ANY"},
        },
    }


def _json(trusted_root: bytes) -> dict[str, Any]:
    value = jcs.parse_json(trusted_root, what="trusted root", max_bytes=MAX_ROOTS_SIZE)
    if not isinstance(value, dict):
        raise MalformedError("Sigstore roots: not an object", code="sigstore-roots")
    return value


def _addresses(root: Mapping[str, Any], kind: str, now_s: int) -> list[str]:
    """The addresses of the authorities that are in force, the one that began last at the end."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))
    authorities = root.get(kind)
    in_force: list[tuple[str, str]] = []
    for each in authorities if isinstance(authorities, list) else ():
        match each:
            case {"uri": str(uri), "validFor": {"start": str(start), **rest}}:
                if uri and start[:19] <= now <= str(rest.get("end", "9999")):
                    in_force.append((start, uri))
    return [uri for _, uri in sorted(in_force)]


def _service(url: str, *, version: int) -> dict[str, jcs.Json]:
    return {"url": url, "majorApiVersion": version, "operator": "pinned", "validFor": {"start": _START}}


def _open(token: str, config: dict[str, jcs.Json]) -> "SigstoreSigner":
    from sigstore.models import ClientTrustConfig  # an optional package
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(json.dumps(config)))
    with context.signer(IdentityToken(token)) as signer:
        return signer


def _call(work: Callable[[], Any]) -> Any:  # whatever the work gives
    """Do something with the package, and turn its errors into ours; it has no common base for them."""
    from id import IdentityError as AmbientError  # comes with sigstore
    from requests import RequestException
    from sigstore._internal.fulcio import ExpiredCertificate
    from sigstore._internal.fulcio.client import FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error, NetworkError
    from sigstore.oidc import ExpiredIdentity

    refusals = (Error, AmbientError, ExpiredCertificate, ExpiredIdentity, FulcioClientError, RekorClientError)
    try:
        return work()
    except (RequestException, NetworkError) as error:
        raise UnavailableError(f"Sigstore: {_said(error)}", code="keyless") from error
    except (*refusals, ValueError) as error:
        raise UntrustedError(f"Sigstore: {_said(error)}", code="keyless") from error


def _said(error: Exception) -> str:
    return strict.shown(f"{type(error).__name__}: {error}", 300)


def _base64(text: str) -> bytes:
    return strict.base64_bytes(text, what="Sigstore's bundle")
