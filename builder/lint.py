"""The linter: what in a manifest gives the host a say, or makes its measurement differ from machine to machine.

Beyond what Gramine itself warns of at start. It knows the options that it reviewed and reports every other, so
that an option of a later version is not waved through. :mod:`assay.builder.lint_rules` says why each rule
matters; :mod:`assay.builder.lint_mounts` holds the checks of mounts and paths.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from assay.attest.gramine.options import enclave_size, max_threads, parse_manifest
from assay.attest.lint import MAX_SHOWN, MAX_WHERE_LENGTH, LintResult, RuleFindings, is_reason
from assay.builder import lint_mounts
from assay.builder.lint_rules import RULES, Rule
from assay.builder.manifest import canonical_text, missing_defaults
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INSECURE, _EXPERIMENTAL = "insecure__", "experimental__"
_NAMED_INSECURE = {
    "loader.insecure__use_cmdline_argv": "cmdline-argv",
    "loader.insecure__use_host_env": "host-env",
    "fs.insecure__keys": "manifest-keys",
}
_SRC_FILES = {"argv_src_file": "argv-src-file", "env_src_file": "env-src-file"}
_LOG_LEVELS = ("none", "error")
_MIN_THREADS = 4
_KNOWN: Mapping[str, frozenset[str]] = {
    "": frozenset({"fs", "libos", "loader", "sgx", "sys"}),
    "fs": frozenset({"mounts", "root", "start_dir"}),
    "libos": frozenset({"entrypoint"}),
    "loader": frozenset({"argv", "entrypoint", "env", "log_level", *_SRC_FILES}),
    "sgx": frozenset(
        {
            *("allowed_files", "cpu_features", "debug", "edmm_enable", "enable_stats", "enclave_size"),
            *("file_check_policy", "isvprodid", "isvsvn", "max_threads", "remote_attestation", "seal_key"),
            *("trusted_files", "use_exinfo"),
        }
    ),
    "sys": frozenset(
        {
            *("brk", "disallow_subprocesses", "enable_extra_runtime_domain_names_conf"),
            *("enable_sigterm_injection", "fds", "stack"),
        }
    ),
}
"""Options by table that have a rule of their own or that nobody outside can use."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One place of a manifest where a rule is broken: where it is, and what is wrong there."""

    rule: Rule
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Linted:
    """The findings of a manifest, as they stand and as a statement says them."""

    findings: tuple[Finding, ...]
    allowed: tuple[Finding, ...]
    result: LintResult


class _Found(NamedTuple):
    rule: str
    where: str
    what: str


def lint(manifest: bytes, allowances: Mapping[str, str]) -> Linted:
    """Apply every rule to a manifest.

    Args:
        manifest: the text that is measured.
        allowances: name of a rule -> why its findings are allowed.

    Raises:
        MalformedError: no manifest; an unknown rule (code ``unknown-rule``), one that no reason can allow (code
            ``not-allowable``), one without findings (code ``unused-allowance``), or no reason (code ``no-reason``).
    """
    check_allowances(allowances)
    table = parse_manifest(manifest)
    found = [*find(table), *_text_findings(table, manifest)]
    findings = tuple(item for item in found if item.rule.name not in allowances)
    allowed = tuple(item for item in found if item.rule.name in allowances)
    if unused := sorted(allowances.keys() - {item.rule.name for item in allowed}):
        raise MalformedError(
            f"{unused[0]} is allowed, but nothing breaks this rule; remove it", code="unused-allowance"
        )
    return Linted(
        findings, allowed, LintResult(_by_rule(findings, allowances), _by_rule(allowed, allowances))
    )


def require_clean(linted: Linted) -> LintResult:
    """Return the result of a manifest in which everything found is allowed.

    Raises:
        UntrustedError: something else was found (code ``insecure-manifest``).
    """
    if linted.findings:
        lines = "; ".join(
            f"{item.rule.name}: {item.where}: {item.what}" for item in linted.findings[:MAX_SHOWN]
        )
        raise UntrustedError(
            f"manifest: {len(linted.findings)} findings of the linter: {lines}", code="insecure-manifest"
        )
    return linted.result


def check_allowances(allowances: Mapping[str, str]) -> Mapping[str, str]:
    """Return allowances that name rules and give reasons.

    Raises:
        MalformedError: see :func:`lint`.
    """
    for name, reason in allowances.items():
        if name not in RULES:
            raise MalformedError(f"the linter has no rule {strict.shown(name)}", code="unknown-rule")
        if not RULES[name].allowable:
            raise MalformedError(f"{name} cannot be allowed: {RULES[name].why}", code="not-allowable")
        if not is_reason(reason):
            raise MalformedError(
                f"{name} is allowed without a reason: write one line of at most 512 characters",
                code="no-reason",
            )
    return allowances


def find(table: Mapping[str, Any]) -> Iterator[Finding]:
    """Every finding in a parsed manifest, rule by rule; its text is not looked at.

    Raises:
        MalformedError: a table or list of Gramine's is of another type.
    """
    sgx, loader = _table(table, "sgx"), _table(table, "loader")
    entries = [*_trusted(sgx)]
    parts = (
        _named(table),
        _unreviewed(table),
        _loader(loader),
        _environment(_table(loader, "env", "loader.")),
        _sgx(sgx),
        _sizes(sgx),
        _files(entries),
        _loader_entrypoint(loader),
        _system(_table(table, "sys")),
        _required(table),
        lint_mounts.find(table, [uri for _, uri, _ in entries], _texts(sgx, "allowed_files")),
    )
    for part in parts:
        for name, where, what in part:
            yield Finding(RULES[name], where, what)


def _text_findings(table: Mapping[str, Any], manifest: bytes) -> Iterator[Finding]:
    missing = missing_defaults(table)
    for where in missing:
        yield Finding(RULES["missing-default"], where, "is not spelled")
    if not missing and canonical_text(table) != manifest:
        yield Finding(
            RULES["not-canonical"], "manifest", "is not the text that the tools write for its content"
        )


def _named(value: object, prefix: str = "") -> Iterator[_Found]:
    """Options that Gramine itself calls insecure or experimental, at any depth."""
    match value:
        case dict():
            for name, member in value.items():
                where = prefix + shown(name)
                if name.startswith(_INSECURE):
                    rule = _NAMED_INSECURE.get(where, "insecure-option")
                    yield _Found(rule, where, "an option that weakens the enclave")
                elif name.startswith(_EXPERIMENTAL):
                    yield _Found("experimental-option", where, "an experimental option")
                else:
                    yield from () if where == "loader.env" else _named(member, f"{where}.")
        case list():
            for number, item in enumerate(value):
                yield from _named(item, f"{prefix.removesuffix('.')}[{number}].")
        case _:
            return


def _unreviewed(table: Mapping[str, Any]) -> Iterator[_Found]:
    for part, known in _KNOWN.items():
        members = table if not part else _table(table, part)
        for name in sorted(members.keys() - known):
            where = f"{part}.{shown(name)}" if part else shown(name)
            if part == "sgx" and name.startswith("protected_"):
                yield _Found("protected-files", where, "the old form of encrypted files")
            elif not name.startswith((_INSECURE, _EXPERIMENTAL)):
                yield _Found("unreviewed-option", where, "the linter does not know this option")


def _loader(loader: Mapping[str, Any]) -> Iterator[_Found]:
    for name, rule in _SRC_FILES.items():
        if name in loader:
            yield _Found(rule, f"loader.{name}", "a file whose content is not checked")
    level = loader.get("log_level", "error")
    if level not in _LOG_LEVELS:
        yield _Found("log-level", "loader.log_level", f"is {strict.shown(str(level))}")


def _environment(env: Mapping[str, Any]) -> Iterator[_Found]:
    for name, value in env.items():
        literal = value.get("value") if isinstance(value, dict) and value.keys() == {"value"} else value
        if not isinstance(literal, str):
            yield _Found("env-passthrough", f"loader.env.{shown(name)}", "the host gives the value")


def _sgx(sgx: Mapping[str, Any]) -> Iterator[_Found]:
    if sgx.get("debug", False) is not False:
        yield _Found("debug", "sgx.debug", "a debug enclave")
    if sgx.get("use_exinfo", False) is not True:
        yield _Found("use-exinfo", "sgx.use_exinfo", "is not true")
    policy = sgx.get("file_check_policy", "strict")
    if policy != "strict":
        yield _Found("file-check-policy", "sgx.file_check_policy", f"is {strict.shown(str(policy))}")
    attestation = sgx.get("remote_attestation", "none")
    if attestation != "dcap":
        yield _Found("remote-attestation", "sgx.remote_attestation", f"is {strict.shown(str(attestation))}")
    if "seal_key" in sgx:
        yield _Found("seal-key", "sgx.seal_key", "masks of its own")
    for number, uri in enumerate(_texts(sgx, "allowed_files")):
        where = f"sgx.allowed_files[{number}]"
        yield _Found("allowed-files", where, f"{strict.shown(uri)} has no digest")
        yield from _relative(uri, where)


def _sizes(sgx: Mapping[str, Any]) -> Iterator[_Found]:
    """What the loader refuses, by the checks that measuring makes."""
    try:
        enclave_size(sgx)
    except MalformedError as error:
        yield _Found("enclave-size", "sgx.enclave_size", str(error))
    try:
        if max_threads(sgx) < _MIN_THREADS:
            yield _Found("few-threads", "sgx.max_threads", f"is {sgx['max_threads']}")
    except MalformedError as error:
        yield _Found("max-threads", "sgx.max_threads", str(error))
    if sgx.get("enable_stats", False) is not False:
        yield _Found("enable-stats", "sgx.enable_stats", "is not false")


def _trusted(sgx: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Place, URI and digest of every trusted file, which is a URI or a table."""
    entries = sgx.get("trusted_files", [])
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        where = f"sgx.trusted_files[{number}]"
        match entry:
            case str():
                yield where, entry, None
            case {"uri": str(uri)}:
                yield where, uri, entry.get("sha256")
            case _:
                raise MalformedError(f"manifest: {where} is neither a URI nor {{uri, sha256}}")


def _files(entries: list[tuple[str, str, object]]) -> Iterator[_Found]:
    seen: dict[str, object] = {}
    for where, uri, digest in entries:
        if uri.endswith("/"):
            yield _Found("trusted-directory", where, f"{strict.shown(uri)} is a directory")
        elif not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            yield _Found("unpinned-file", where, f"{strict.shown(uri)} has no SHA-256")
        if uri in seen:
            again = "again" if seen[uri] == digest else "again, with another digest"
            yield _Found("duplicate-file", where, f"{strict.shown(uri)} stands there {again}")
        seen.setdefault(uri, digest)
        yield from _relative(uri, where)


def _loader_entrypoint(loader: Mapping[str, Any]) -> Iterator[_Found]:
    where = "loader.entrypoint"
    match loader.get("entrypoint"):
        case {"uri": str(uri), "sha256": str(digest)} if _SHA256.fullmatch(digest):
            yield from _relative(uri, where)
        case _:
            yield _Found("entrypoint-unpinned", where, "is not {uri, sha256} with a digest")


def _relative(uri: str, where: str) -> Iterator[_Found]:
    if problem := lint_mounts.uri_problem(uri):
        yield _Found("non-relative-uri", where, f"{strict.shown(uri)} {problem}")


def _system(sys: Mapping[str, Any]) -> Iterator[_Found]:
    checks = {
        "enable_extra_runtime_domain_names_conf": "host-names",
        "enable_sigterm_injection": "sigterm-injection",
    }
    for name, rule in checks.items():
        if sys.get(name, False) is not False:
            yield _Found(rule, f"sys.{name}", "an input from the host")


def _required(table: Mapping[str, Any]) -> Iterator[_Found]:
    for part, name in (("fs", "mounts"), ("libos", "entrypoint")):
        if name not in _table(table, part):
            yield _Found("missing-option", f"{part}.{name}", "is missing")


def _by_rule(findings: tuple[Finding, ...], allowances: Mapping[str, str]) -> tuple[RuleFindings, ...]:
    places: dict[str, list[str]] = {}
    for item in findings:
        places.setdefault(item.rule.name, []).append(item.where[:MAX_WHERE_LENGTH])
    return tuple(
        RuleFindings(name, tuple(places[name][:MAX_SHOWN]), len(places[name]), allowances.get(name))
        for name in sorted(places)
    )


def shown(name: str) -> str:
    """A key of a manifest, safe to print and to publish."""
    return name if _BARE.fullmatch(name) else strict.shown(ascii(name)[1:-1])


def _texts(table: Mapping[str, Any], name: str) -> list[str]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MalformedError(f"manifest: sgx.{name} is not a list of texts")
    return value


def _table(parent: Mapping[str, Any], name: str, prefix: str = "") -> Mapping[str, Any]:
    value = parent.get(name, {})
    if not isinstance(value, dict):
        raise MalformedError(f"manifest: {prefix}{name} is no table")
    return value
