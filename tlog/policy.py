"""Trust policies: which logs, which witnesses, and how many of them (c2sp.org/tlog-policy).

::

    log <vkey> [url]
    witness <name> <vkey> [url]
    group <name> all|any|<k> <member>...
    quorum <name>|none

Stricter than the specification in two ways: every listed key of an origin must have signed (the
specification is content with one), and a key may stand on one line only, be it a log's or a witness's.
"""

import bisect
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from assay.tlog.checkpoint import (
    LOG_KEY_TYPES,
    Checkpoint,
    SignedCheckpoint,
    parse_signed_checkpoint,
    verify_signed_checkpoint,
)
from assay.tlog.cosignature import COSIGNATURE_TYPES, Cosignature, verify_cosignature
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.keys import VerifierKey, parse_vkey
from assay.tlog.strict import decimal, lines, shown

MAX_POLICY_SIZE = 256 * 1024
"""Bytes of a policy file: 32 logs and 32 witnesses with two keys each take about half of it."""

_ALLOWED = re.compile(rb"[\x09\x0a\x20-\x7e\x80-\xff]*")
_TOKEN = re.compile(r"[^\x00-\x20\x7f]+")
_BLANKS = re.compile(r"[ \t]+")
_NONE = "none"
_SHOWN_NAMES = 8


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """One key of a log; its name is the log's origin. A log with several keys has several of these."""

    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """One key of a witness, under the name by which groups and the quorum refer to it."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """A group that has witnessed a checkpoint iff at least ``threshold`` of its members have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy; ``quorum`` is the name of a witness or group, or None if none is asked for.

    Groups refer to witnesses and to groups before them. Bytes of names and URLs that are not UTF-8 are
    held as ``surrogateescape`` does.

    Raises:
        MalformedError: a name defined twice or not at all, a member of two groups, a threshold out of
            range, a key on two lines, or a key of a type that its role does not have.
    """

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: str | None
    _log_keys: dict[str, tuple[VerifierKey, ...]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_keys(self.logs, self.witnesses)
        defined = _check_names(self.witnesses, self.groups)
        if self.quorum is not None and self.quorum not in defined:
            raise MalformedError(f"policy: the quorum {shown(self.quorum)} is not defined")
        object.__setattr__(self, "_log_keys", _keys_by_origin(self.logs))

    @property
    def origins(self) -> tuple[str, ...]:
        """The logs that the policy knows, in the order of their first lines."""
        return tuple(self._log_keys)

    def log_keys(self, origin: str) -> tuple[VerifierKey, ...]:
        """Every key of the log ``origin``; each of them must sign its checkpoints.

        Raises:
            UntrustedError: the policy does not list the log (code ``unknown-log``).
        """
        try:
            return self._log_keys[origin]
        except KeyError:
            raise UntrustedError(f"the policy knows no log {shown(origin)}", code="unknown-log") from None

    def is_quorum(self, cosigned: Collection[str]) -> bool:
        """Whether the witnesses named in ``cosigned`` (the policy's own names) are enough."""
        if self.quorum is None:
            return True
        witnessed = {witness.name for witness in self.witnesses}.intersection(cosigned)
        # In the order of definition, so that members are decided before the groups that hold them; a
        # recursion would let a long chain of groups exhaust the stack.
        for group in self.groups:
            if sum(member in witnessed for member in group.members) >= group.threshold:
                witnessed.add(group.name)
        return self.quorum in witnessed


@dataclass(frozen=True, slots=True)
class CosignedCheckpoint:
    """A checkpoint that the log's keys, every known cosignature and the quorum vouch for.

    ``cosignatures`` has one per known key that signed, in the order of the policy's lines, each with the
    earliest of its times. ``quorum_time_s`` is the earliest Unix time at which the quorum was complete:
    None if the policy has no quorum, or if it takes cosignatures that claim no time (0) to reach it.
    """

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    quorum_time_s: int | None


def parse_policy(text: str | bytes) -> Policy:
    """Parse a policy file: its bytes, or its text if it stands inside another file.

    Comments, blank lines, runs of white space and the order of independent lines are not kept, so that
    ``format_policy(parse_policy(x))`` is x only for a canonical x; ``parse_policy(format_policy(p))`` is
    always p. Every line must end with a newline, the last one too: a file cut short is refused.

    Raises:
        MalformedError: beyond the bound, a byte or line that the grammar does not have, a name used
            before its line, not exactly one quorum line, or a policy that :class:`Policy` refuses.
    """
    data = _policy_bytes(text) if isinstance(text, str) else text
    if len(data) > MAX_POLICY_SIZE:
        raise MalformedError(f"policy: longer than {MAX_POLICY_SIZE} bytes")
    if not _ALLOWED.fullmatch(data):
        raise MalformedError("policy: a control character other than tab and newline")
    reader = _Reader()
    whole = data.decode("utf-8", "surrogateescape")
    for number, line in enumerate(lines(whole, what="policy"), start=1):
        reader.read(line.strip(" \t"), what=f"policy line {number}")
    return reader.finish()


def format_policy(policy: Policy) -> str:
    """The canonical text: logs, witnesses, groups, quorum; one space between items; no comments."""
    rows = [_row("log", str(log.key), log.url) for log in policy.logs]
    rows += [_row("witness", witness.name, str(witness.key), witness.url) for witness in policy.witnesses]
    rows += [_row("group", group.name, _threshold_text(group), *group.members) for group in policy.groups]
    rows.append(_row("quorum", _NONE if policy.quorum is None else policy.quorum))
    return "".join(rows)


def verify_cosigned_checkpoint(data: bytes, policy: Policy) -> CosignedCheckpoint:
    """Judge a checkpoint's note by a policy.

    1. The origin is a log of the policy, and each of its keys signed.
    2. Every line by a known witness key verifies; lines of unknown keys are ignored.
    3. The witnesses that cosigned are a quorum.

    Times are reported, not judged: whoever knows the time decides what is too old or in the future.

    Raises:
        MalformedError: no checkpoint note.
        UntrustedError: ``unknown-log``; ``missing-signature``, ``signature`` and the other codes of
            :func:`~assay.tlog.checkpoint.verify_signed_checkpoint`; ``quorum``, naming who is missing.
    """
    signed = parse_signed_checkpoint(data)
    log_keys = policy.log_keys(signed.checkpoint.origin)
    checkpoint = verify_signed_checkpoint(signed, log_keys=log_keys)  # 1
    times = _cosigned_times(signed, policy)  # 2
    _check_quorum(policy, times)  # 3
    cosignatures = tuple(
        Cosignature(witness.key, times[witness.name]) for witness in policy.witnesses if witness.name in times
    )
    return CosignedCheckpoint(checkpoint, cosignatures, _quorum_time(policy, times))


def require_one_vote_per_witness(policy: Policy) -> None:
    """Refuse a policy in which the keys of one witness could count as several witnesses.

    Two witness lines whose keys have one name (an Ed25519 and an ML-DSA-44 key, say) may stand only
    together in one ``any`` group, which counts once whichever of them signed.

    Raises:
        UntrustedError: code ``double-vote``.
    """
    group_of = {member: group for group in policy.groups for member in group.members}
    first: dict[str, PolicyWitness] = {}
    for witness in policy.witnesses:
        other = first.setdefault(witness.key.name, witness)
        if other is witness:
            continue
        group = group_of.get(witness.name)
        if group is None or group.threshold != 1 or other.name not in group.members:
            text = f"witness {shown(witness.key.name)} has two lines that are not in one `any` group"
            raise UntrustedError(f"policy: {text}", code="double-vote")


class _Reader:
    """Collects the lines of one policy file, and knows which names earlier lines defined."""

    def __init__(self) -> None:
        self._logs: list[PolicyLog] = []
        self._witnesses: list[PolicyWitness] = []
        self._groups: list[PolicyGroup] = []
        self._quorums: list[str] = []
        self._defined: set[str] = set()

    def read(self, line: str, *, what: str) -> None:
        if not line or line.startswith("#"):
            return
        try:
            match _BLANKS.split(line):
                case ["log", vkey, *url] if len(url) <= 1:
                    self._logs.append(PolicyLog(parse_vkey(vkey), *url))
                case ["witness", name, vkey, *url] if len(url) <= 1:
                    self._witnesses.append(PolicyWitness(name, parse_vkey(vkey), *url))
                    self._defined.add(name)
                case ["group", name, threshold, *members] if members:
                    self._read_group(name, threshold, tuple(members))
                case ["quorum", name]:
                    self._quorums.append(self._defined_name(name) if name != _NONE else name)
                case _:
                    raise MalformedError(f"{shown(line)} is no line of a policy")
        except MalformedError as error:
            raise MalformedError(f"{what}: {error}", code=error.code) from error

    def finish(self) -> Policy:
        if len(self._quorums) != 1:
            raise MalformedError(f"policy: {len(self._quorums)} quorum lines, not 1")
        quorum = None if self._quorums[0] == _NONE else self._quorums[0]
        return Policy(tuple(self._logs), tuple(self._witnesses), tuple(self._groups), quorum)

    def _read_group(self, name: str, threshold: str, members: tuple[str, ...]) -> None:
        words = {"any": 1, "all": len(members)}
        count = words[threshold] if threshold in words else decimal(threshold, what="threshold")
        self._groups.append(PolicyGroup(name, count, tuple(self._defined_name(each) for each in members)))
        self._defined.add(name)

    def _defined_name(self, name: str) -> str:
        if name not in self._defined:
            raise MalformedError(f"{shown(name)} is not defined on an earlier line")
        return name


def _check_keys(logs: Iterable[PolicyLog], witnesses: Iterable[PolicyWitness]) -> None:
    """One line per key. The lengths of public keys differ between algorithms, so bytes decide."""
    public_keys: set[bytes] = set()
    line_names: set[tuple[str, bytes]] = set()
    roles = [(log.key, log.url, LOG_KEY_TYPES, "log") for log in logs]
    roles += [(each.key, each.url, COSIGNATURE_TYPES, "witness") for each in witnesses]
    for key, url, types, role in roles:
        if key.type not in types:
            text = f"policy: {shown(key.name)}: a {role} has no {key.type.name} key"
            raise MalformedError(text, code="key-type")
        if url is not None and not _is_token(url):
            raise MalformedError(f"policy: {shown(url)} is no URL")
        if key.public_key in public_keys or (key.name, key.key_id) in line_names:
            raise MalformedError(f"policy: the key of {shown(key.name)} is there twice", code="duplicate-key")
        public_keys.add(key.public_key)
        line_names.add((key.name, key.key_id))


def _check_names(witnesses: Iterable[PolicyWitness], groups: Iterable[PolicyGroup]) -> set[str]:
    defined: set[str] = set()
    members: set[str] = set()
    for witness in witnesses:
        _define(witness.name, defined)
    for group in groups:
        if not 1 <= group.threshold <= len(group.members):
            raise MalformedError(f"policy: group {shown(group.name)} cannot have {group.threshold} members")
        for member in group.members:
            if member not in defined:
                raise MalformedError(f"policy: {shown(member)} is not defined before its group")
            if member in members:
                raise MalformedError(f"policy: {shown(member)} is a group member twice")
            members.add(member)
        _define(group.name, defined)
    return defined


def _define(name: str, defined: set[str]) -> None:
    if not _is_token(name) or name == _NONE:
        raise MalformedError(f"policy: {shown(name)} cannot be a name")
    if name in defined:
        raise MalformedError(f"policy: {shown(name)} is defined twice")
    defined.add(name)


def _keys_by_origin(logs: Iterable[PolicyLog]) -> dict[str, tuple[VerifierKey, ...]]:
    keys: dict[str, tuple[VerifierKey, ...]] = {}
    for log in logs:
        keys[log.key.name] = (*keys.get(log.key.name, ()), log.key)
    return keys


def _cosigned_times(signed: SignedCheckpoint, policy: Policy) -> dict[str, int]:
    """The time of each witness that cosigned, by the policy's name; every known line is verified."""
    witnesses = {(each.key.name, each.key.key_id): each for each in policy.witnesses}
    times: dict[str, int] = {}
    for line in signed.note.signatures:
        witness = witnesses.get((line.name, line.key_id))
        if witness is not None:
            time_s = verify_cosignature(signed.checkpoint, line, witness.key).time_s
            seen = [time_s, times.get(witness.name, 0)]
            times[witness.name] = min((each for each in seen if each), default=0)
    return times


def _check_quorum(policy: Policy, times: dict[str, int]) -> None:
    if policy.is_quorum(times):
        return
    missing = [witness.name for witness in policy.witnesses if witness.name not in times]
    names = ", ".join(shown(name) for name in missing[:_SHOWN_NAMES])
    more = f" and {len(missing) - _SHOWN_NAMES} more" if len(missing) > _SHOWN_NAMES else ""
    text = f"quorum {shown(policy.quorum or _NONE)} is not met; not cosigned by {names}{more}"
    raise UntrustedError(text, code="quorum")


def _quorum_time(policy: Policy, times: dict[str, int]) -> int | None:
    """The smallest time t such that the cosignatures with 0 < time <= t are a quorum."""
    if policy.quorum is None:
        return None
    claimed = sorted({time_s for time_s in times.values() if time_s})

    def complete_at(limit_s: int) -> bool:
        return policy.is_quorum({name for name, time_s in times.items() if 0 < time_s <= limit_s})

    position = bisect.bisect_left(claimed, 1, key=lambda limit_s: int(complete_at(limit_s)))
    return claimed[position] if position < len(claimed) else None


def _threshold_text(group: PolicyGroup) -> str:
    if group.threshold == 1:
        return "any"
    return "all" if group.threshold == len(group.members) else str(group.threshold)


def _policy_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise MalformedError("policy: not text") from error


def _is_token(text: str) -> bool:
    """Whether ``text`` can be an item of a line, and is what parsing that line gives."""
    return (
        _TOKEN.fullmatch(text) is not None and _policy_bytes(text).decode("utf-8", "surrogateescape") == text
    )


def _row(*items: str | None) -> str:
    return " ".join(item for item in items if item is not None) + "\n"
