"""What a relying party trusts: its policy, from one TOML file. There is no default for any of it.

::

    [log]
    policy = "log-policy.txt"            # a C2SP tlog-policy by path, or: inline = '''...'''
    [publishers."product"]               # k of n keys and identities must sign this product's releases
    threshold = 1
    keys = ["publisher.pem.pub"]         # files, or PEM text
    identities = [{ identity = "a@b.example", issuer = "https://issuer.example" }]   # may be left out
    [sigstore]                           # only if identities are named: by what their certificates are judged
    roots = "trusted_root.json"          # a pinned file: Sigstore's TrustedRoot, or PEM
    [rebuilders]                         # k of n keys must have reproduced a release
    threshold = 1
    keys = ["rebuilder.pem.pub"]
    [revokers]                           # who besides a product's publishers may revoke
    keys = []
    [quotes]
    root = "intel"                       # or a certificate's file, PEM or DER
    tcb_status = ["UpToDate"]
    min_evaluation_number = 17
    [quotes.advisories]                  # what is acceptable for one measurement
    "<mr_enclave or mr_td, hex>" = ["INTEL-SA-00615"]
    [quotes.identity]                    # may be left out, and so may each member: which enclaves are meant
    measurements = ["<hex>"]
    mr_signers = ["<hex>"]
    isv_prod_id = 1
    min_isv_svn = 1
    [freshness]
    registration_max_age_s = 86400
    collateral_max_age_s = 2592000
    checkpoint_max_age_s = 300
    nonce_required = true
    announcement_delay_s = 0

Every section and member but ``quotes.identity``, ``identities`` and ``sigstore`` must be there, and no other. Paths
are relative to the file.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest import jcs, p256
from assay.attest.admission import Publishers
from assay.attest.measurement import MEASUREMENT_SIZE, Measurement, Tee
from assay.attest.quote.policy import IdentityPolicy, TcbPolicy
from assay.attest.quote.snp import SnpProduct, SnpTcb
from assay.attest.quote.snp_policy import SnpPolicy, SnpRules
from assay.attest.quote.tcb import TcbStatus
from assay.attest.roots import TrustedRoot, intel_sgx_root
from assay.attest.roots.pinned import SnpRoot, amd_root
from assay.attest.sigstore_certificate import Identity
from assay.attest.sigstore_roots import SigstoreRoots, parse_roots
from assay.tlog import policy as tlog_policy
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError

MAX_POLICY_SIZE = 1 << 20
"""Bytes of the TOML file, and of each file that it names."""

MAX_KEYS = 64

Resolver = Callable[[str], bytes]
"""Gives the bytes of a file that a policy names."""

_Item = TypeVar("_Item")

_ADVISORY = re.compile(r"INTEL-SA-[0-9]{5}")


@dataclass(frozen=True, slots=True)
class Rebuilders:
    """``threshold`` of ``signers`` (hex signer ids) must have reproduced a release."""

    threshold: int
    signers: frozenset[str]


@dataclass(frozen=True, slots=True)
class QuoteRules:
    """Which quotes are good enough. Debug enclaves never are; that is no setting.

    Attributes:
        root: the only anchor; what platform it stands for derives from the certificate.
        tcb: which platforms.
        identity: which enclaves.
    """

    root: TrustedRoot
    tcb: TcbPolicy
    identity: IdentityPolicy


@dataclass(frozen=True, slots=True)
class EvidenceRules:
    """The rules for evidence of each vendor; None where there are none."""

    quotes: QuoteRules | None
    snp: SnpRules | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old things may be, in seconds.

    Attributes:
        registration_max_age_s: from an enclave's appraisal to the answer.
        collateral_max_age_s: from the newest part of the collateral to its use.
        checkpoint_max_age_s: of the log's newest checkpoint, when online.
        nonce_required: whether a quote must carry the asking client's own nonce.
        announcement_delay_s: how long a release must have been in the log before it is used.
    """

    registration_max_age_s: int
    collateral_max_age_s: int
    checkpoint_max_age_s: int
    nonce_required: bool
    announcement_delay_s: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything a verifier trusts.

    Attributes:
        log: logs, witnesses and quorum; a quorum of none is refused, for then nothing would hold the log to
            one history, nor its entries to a time.
        publishers: product -> who may publish it.
        rebuilders: none of them publishes any product.
        revokers: hex signer ids.
        sigstore: under which roots a certificate's identity counts; None if the policy names no identity.
    """

    log: tlog_policy.Policy
    publishers: Mapping[str, Publishers]
    rebuilders: Rebuilders
    revokers: frozenset[str]
    quotes: QuoteRules
    freshness: Freshness
    sigstore: SigstoreRoots | None = None


def load_policy(path: Path) -> Policy:
    """Read a policy file and the files it names.

    Raises:
        MalformedError: not a policy (code ``policy``); see :func:`parse_policy`.
        OSError: a file cannot be read.
    """
    return parse_policy(_read(path), resolve=_beside(path), intel_root=read_intel_root())


def load_evidence_rules(path: Path) -> EvidenceRules:
    """Read the rules for evidence: a policy's ``[quotes]``, or a file of ``[quotes]`` and ``[snp]`` alone.

    ::

        [snp]
        vmpls = [0]
        allow_migration_agent = false
        require_revocation = false
        measurements = ["<hex>"]             # may be left out
        [snp.minimum_tcb.Milan]              # Milan, Genoa, Turin; a product that is not here is refused
        bootloader = 3
        tee = 0
        snp = 8
        microcode = 115

    Raises:
        MalformedError: neither (code ``policy``).
        OSError: a file cannot be read.
    """
    data = _read(path)
    try:
        document = _document(data)
        if document and set(document) <= {"quotes", "snp"}:
            quotes, snp = document.get("quotes"), document.get("snp")
            return EvidenceRules(
                None if quotes is None else _quotes(quotes, _beside(path), read_intel_root()),
                None if snp is None else _snp(snp),
            )
    except LogError as error:
        raise MalformedError(f"policy: {error}", code="policy") from error
    return EvidenceRules(parse_policy(data, resolve=_beside(path), intel_root=read_intel_root()).quotes, None)


def read_intel_root() -> bytes:
    """The DER of Intel's SGX root, which comes with the package."""
    return resources.files("assay.attest.roots").joinpath("intel_sgx_root_ca.der").read_bytes()


def load_root(text: str) -> TrustedRoot | SnpRoot:
    """The root that a person names: ``intel``, ``amd-milan``, ``amd-genoa``, ``amd-turin``, or a certificate's file.

    A file whose certificate has an ARK's name (``ARK-Milan`` and so on) is a root of SEV-SNP reports.

    Raises:
        MalformedError: not one certificate (codes ``policy`` and ``malformed-root``).
        OSError: the file cannot be read.
    """
    for product in SnpProduct:
        if text == f"amd-{product.lower()}":
            return amd_root(product)
    root = _root(text, lambda name: _read(Path(name)), read_intel_root())
    names = root.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    for product in SnpProduct:
        if any(str(name.value).endswith(f"ARK-{product}") for name in names):
            spki = root.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return SnpRoot(text, hashlib.sha256(spki).hexdigest(), product)
    return root


def _beside(path: Path) -> Resolver:
    return lambda name: _read(path.parent / name)


def parse_policy(data: bytes, *, resolve: Resolver, intel_root: bytes) -> Policy:
    """Parse a policy; pure but for ``resolve``.

    Args:
        data: the TOML text.
        resolve: gives the bytes of a file that the policy names.
        intel_root: DER of Intel's SGX root, used if the policy's root is ``"intel"``.

    Raises:
        MalformedError: a section or member is missing, unknown, or of another type; a threshold below 1 or above
            the number of keys and identities; one of them twice; an identity without Sigstore roots; a rebuilder
            that is a publisher; no witness quorum (always with code ``policy``).
    """
    try:
        return _parse(data, resolve, intel_root)
    except LogError as error:
        raise MalformedError(f"policy: {error}", code="policy") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_POLICY_SIZE + 1)
    if len(data) > MAX_POLICY_SIZE:
        raise MalformedError(f"policy: {path.name} is larger than {MAX_POLICY_SIZE} bytes", code="policy")
    return data


_SECTIONS = ("freshness", "log", "publishers", "quotes", "rebuilders", "revokers")


def _parse(data: bytes, resolve: Resolver, intel_root: bytes) -> Policy:
    fields = jcs.Fields(_document(data), what="file", required=_SECTIONS, optional=("sigstore",))
    publishers = _publishers(fields.value("publishers"), resolve)
    sigstore = _sigstore(fields, resolve)
    if sigstore is None and any(rule.identities for rule in publishers.values()):
        raise MalformedError("publishers: an identity needs sigstore.roots to judge it by")
    rebuilders = Rebuilders(*_quorum(fields.value("rebuilders"), resolve, what="rebuilders"))
    _refuse_self_rebuilding(publishers, rebuilders)
    revokers = fields.fields("revokers", required=("keys",))
    return Policy(
        log=_log(fields.fields("log", required=(), optional=("inline", "policy")), resolve),
        publishers=publishers,
        rebuilders=rebuilders,
        revokers=_signers(revokers, resolve),
        quotes=_quotes(fields.value("quotes"), resolve, intel_root),
        freshness=_freshness(fields.value("freshness")),
        sigstore=sigstore,
    )


def _document(data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(strict.utf8_text(data, what="file"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MalformedError(f"not TOML: {error}") from error


def _log(fields: jcs.Fields, resolve: Resolver) -> tlog_policy.Policy:
    if fields.has("inline") == fields.has("policy"):
        raise MalformedError("log: exactly one of policy (a path) and inline (the text)")
    if fields.has("policy"):
        text = strict.utf8_text(resolve(fields.text("policy")), what="log.policy")
    elif not isinstance(text := fields.value("inline"), str):
        raise MalformedError("log.inline: not text")
    policy = tlog_policy.parse_policy(text)
    if not policy.logs or policy.quorum is None:
        raise MalformedError("log: names no log, or asks for no quorum of witnesses")
    tlog_policy.require_one_vote_per_witness(policy)
    return policy


def _publishers(value: jcs.Json, resolve: Resolver) -> dict[str, Publishers]:
    if not isinstance(value, dict) or not value:
        raise MalformedError("publishers: no product")
    return {
        product: _product(rule, resolve, what=f"publishers.{strict.shown(product)}")
        for product, rule in value.items()
    }


def _product(value: jcs.Json, resolve: Resolver, *, what: str) -> Publishers:
    fields = jcs.Fields(value, what=what, required=("keys", "threshold"), optional=("identities",))
    identities = _identities(fields) if fields.has("identities") else frozenset[Identity]()
    threshold, signers = fields.integer("threshold"), _signers(fields, resolve)
    _require_threshold(threshold, of=len(signers) + len(identities), what=what)
    return Publishers(threshold, signers, identities)


def _identities(product: jcs.Fields) -> frozenset[Identity]:
    what = product.name("identities")
    items = [
        jcs.Fields(item, what=what, required=("identity", "issuer"))
        for item in product.array("identities", max_items=MAX_KEYS)
    ]
    identities = [Identity(item.text("identity"), item.text("issuer")) for item in items]
    if len(set(identities)) != len(identities):
        raise MalformedError(f"{what}: one identity stands twice")
    return frozenset(identities)


def _sigstore(policy: jcs.Fields, resolve: Resolver) -> SigstoreRoots | None:
    if not policy.has("sigstore"):
        return None
    return parse_roots(resolve(policy.fields("sigstore", required=("roots",)).text("roots")))


def _quorum(value: jcs.Json, resolve: Resolver, *, what: str) -> tuple[int, frozenset[str]]:
    fields = jcs.Fields(value, what=what, required=("keys", "threshold"))
    threshold, signers = fields.integer("threshold"), _signers(fields, resolve)
    _require_threshold(threshold, of=len(signers), what=what)
    return threshold, signers


def _require_threshold(threshold: int, *, of: int, what: str) -> None:
    if not 1 <= threshold <= of:
        raise MalformedError(f"{what}.threshold: {threshold} of {of}")


def _signers(fields: jcs.Fields, resolve: Resolver) -> frozenset[str]:
    keys = fields.array("keys", max_items=MAX_KEYS)
    signers = [_signer(item, resolve, what=fields.name("keys")) for item in keys]
    if len(set(signers)) != len(signers):
        raise MalformedError(f"{fields.name('keys')}: one key stands twice")
    return frozenset(signers)


def _signer(item: jcs.Json, resolve: Resolver, *, what: str) -> str:
    if not isinstance(item, str) or not item:
        raise MalformedError(f"{what}: not the PEM text or the path of a public key")
    pem = item.encode() if item.startswith("-----BEGIN") else resolve(item)
    return p256.signer_id(p256.spki(p256.parse_public_pem(pem)))


def _refuse_self_rebuilding(publishers: Mapping[str, Publishers], rebuilders: Rebuilders) -> None:
    for product, rule in publishers.items():
        if rule.signers & rebuilders.signers:
            raise MalformedError(f"rebuilders: one of them publishes {strict.shown(product)} itself")


def _quotes(value: jcs.Json, resolve: Resolver, intel_root: bytes) -> QuoteRules:
    fields = jcs.Fields(
        value,
        what="quotes",
        required=("advisories", "min_evaluation_number", "root", "tcb_status"),
        optional=("identity",),
    )
    advisories = fields.value("advisories")
    if not isinstance(advisories, dict):
        raise MalformedError("quotes.advisories: not a table")
    tcb = TcbPolicy(
        statuses=_tcb_status(fields.array("tcb_status", max_items=len(TcbStatus))),
        min_evaluation_number=fields.integer("min_evaluation_number"),
        advisories={
            _measurement(name, what="quotes.advisories"): _advisories(names)
            for name, names in advisories.items()
        },
    )
    identity = _identity(fields) if fields.has("identity") else IdentityPolicy()
    return QuoteRules(_root(fields.text("root"), resolve, intel_root), tcb, identity)


def _snp(value: jcs.Json) -> SnpRules:
    required = ("allow_migration_agent", "minimum_tcb", "require_revocation", "vmpls")
    fields = jcs.Fields(value, what="snp", required=required, optional=("measurements",))
    minimum = fields.fields("minimum_tcb", required=(), optional=tuple(map(str, SnpProduct)))
    vmpls = fields.array("vmpls", max_items=4)
    if any(not isinstance(level, int) or isinstance(level, bool) for level in vmpls):
        raise MalformedError("snp.vmpls: not a list of levels")
    policy = SnpPolicy(
        minimum_tcb={
            product: _snp_tcb(minimum, product) for product in SnpProduct if minimum.has(str(product))
        },
        vmpls=frozenset(int(str(level)) for level in vmpls),
        allow_migration_agent=fields.boolean("allow_migration_agent"),
        require_revocation=fields.boolean("require_revocation"),
    )
    return SnpRules(policy, _named(fields, "measurements", _snp_measurement))


def _snp_tcb(minimum: jcs.Fields, product: SnpProduct) -> SnpTcb:
    names = ("bootloader", "microcode", "snp", "tee")
    fields = minimum.fields(str(product), required=names, optional=("fmc",))
    fmc = fields.integer("fmc") if fields.has("fmc") else None
    return SnpTcb(**{name: fields.integer(name) for name in names}, fmc=fmc)


def _snp_measurement(text: jcs.Json, *, what: str) -> Measurement:
    return Measurement(Tee.SNP, _hash(text, what=what, length=48))


def _identity(quotes: jcs.Fields) -> IdentityPolicy:
    names = ("isv_prod_id", "measurements", "min_isv_svn", "mr_signers")
    fields = quotes.fields("identity", required=(), optional=names)
    numbers = {name: fields.integer(name) for name in ("isv_prod_id", "min_isv_svn") if fields.has(name)}
    if any(not 0 <= number <= 0xFFFF for number in numbers.values()):
        raise MalformedError("quotes.identity: a number that has no 16 bits")
    return IdentityPolicy(
        measurements=_named(fields, "measurements", _measurement),
        mr_signers=_named(fields, "mr_signers", _mr_signer),
        **numbers,
    )


def _named(fields: jcs.Fields, name: str, read: Callable[..., _Item]) -> frozenset[_Item] | None:
    if not fields.has(name):
        return None
    what = fields.name(name)
    items = [read(item, what=what) for item in fields.array(name, max_items=MAX_KEYS)]
    if not items or len(set(items)) != len(items):
        raise MalformedError(f"{what}: none, or one stands twice")
    return frozenset(items)


def _measurement(text: jcs.Json, *, what: str) -> Measurement:
    """An MRENCLAVE or an MRTD: their lengths tell which."""
    value = _hash(text, what=what)
    for tee in (Tee.SGX, Tee.TDX):
        if len(value) == MEASUREMENT_SIZE[tee]:
            return Measurement(tee, value)
    raise MalformedError(f"{what}: neither an MRENCLAVE of 32 bytes nor an MRTD of 48")


def _mr_signer(text: jcs.Json, *, what: str) -> bytes:
    return _hash(text, what=what, length=32)


def _hash(text: jcs.Json, *, what: str, length: int | None = None) -> bytes:
    if not isinstance(text, str):
        raise MalformedError(f"{what}: not text")
    return strict.hex_bytes(text, what=what, length=length)


def _root(text: str, resolve: Resolver, intel_root: bytes) -> TrustedRoot:
    if text == "intel":
        return intel_sgx_root(intel_root)
    data = resolve(text)
    if not data.startswith(b"-----BEGIN"):
        return TrustedRoot(text, data)
    try:
        (certificate,) = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:  # not PEM, or not exactly one certificate
        raise MalformedError("quotes.root: not one certificate") from error
    return TrustedRoot(text, certificate.public_bytes(Encoding.DER))


def _tcb_status(items: list[jcs.Json]) -> frozenset[TcbStatus]:
    known = {str(status) for status in TcbStatus}
    if not items or any(item not in known for item in items if isinstance(item, str)):
        raise MalformedError(f"quotes.tcb_status: none, or one that is not of {', '.join(sorted(known))}")
    if any(not isinstance(item, str) for item in items) or len(set(items)) != len(items):
        raise MalformedError("quotes.tcb_status: not names, or one stands twice")
    return frozenset(TcbStatus(item) for item in items)


def _advisories(value: jcs.Json) -> frozenset[str]:
    if not isinstance(value, list) or any(
        not isinstance(item, str) or not _ADVISORY.fullmatch(item) for item in value
    ):
        raise MalformedError("quotes.advisories: not a list of names such as INTEL-SA-00615")
    return frozenset(value)


def _freshness(value: jcs.Json) -> Freshness:
    ages = ("checkpoint_max_age_s", "collateral_max_age_s", "registration_max_age_s")
    names = (*ages, "announcement_delay_s", "nonce_required")
    fields = jcs.Fields(value, what="freshness", required=names)
    return Freshness(
        registration_max_age_s=fields.integer("registration_max_age_s"),
        collateral_max_age_s=fields.integer("collateral_max_age_s"),
        checkpoint_max_age_s=fields.integer("checkpoint_max_age_s"),
        nonce_required=fields.boolean("nonce_required"),
        announcement_delay_s=fields.integer("announcement_delay_s"),
    )
