"""The errors of Assay, split by what the caller should do about them.

::

    LogError
    ├── MalformedError      reject the bytes: they are no spelling of the format
    ├── UntrustedError      no key, root or policy of ours vouches for this
    ├── InconsistentError   the log misbehaved; carries the evidence
    ├── StaleError          genuine, but too old (or not yet valid) for the time it is judged at
    └── UnavailableError    nothing is known; try again later

Every error carries a stable ``code`` in lower-case kebab-case, which programs may compare; messages
are for people and may change. A broken invariant of our own is an AssertionError, never a LogError.
"""

from collections.abc import Mapping


class LogError(Exception):
    """Base of every deliberate error; see the module docstring for the tree."""

    code: str = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class MalformedError(LogError):
    """The bytes are not in the one spelling that the format allows."""

    code = "malformed"


class UntrustedError(LogError):
    """Well-formed, but a signature, a proof, a root or a policy does not vouch for it."""

    code = "untrusted"


class InconsistentError(LogError):
    """Two signed statements of one log contradict each other.

    ``evidence`` maps a short name to the bytes that prove it, for instance both signed checkpoints.
    """

    code = "inconsistent"

    def __init__(self, message: str, *, evidence: Mapping[str, bytes], code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.evidence = dict(evidence)


class StaleError(LogError):
    """Genuine, but outside the time in which it counts."""

    code = "stale"


class UnavailableError(LogError):
    """The other side gave no usable answer; the same call may succeed later."""

    code = "unavailable"
