"""A witness's configuration: one TOML file, no secret in it, no unknown key.

::

    listen = "127.0.0.1:8090"
    key = "witness.key"            # two lines, as `assay keys new --kind witness` writes them
    state = "witness.db"
    logs = "logs.txt"              # one vkey a line; `assay witness add-log` appends

Relative paths are relative to the file. The list of logs only ever grows: a log that is taken out and put
back could show the witness another history.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay.tlog.errors import MalformedError
from assay.tlog.keys import KeyType, VerifierKey, parse_vkey
from assay.tlog.strict import lines

_LOG_KEY_TYPES = (KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44)


class Config(BaseModel):
    """What a witness is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    listen: str = "127.0.0.1:8090"
    key: str
    state: str
    logs: str
    threads: int = Field(default=8, ge=1, le=256)


def load(path: Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        MalformedError: not TOML, an unknown key or a wrong value (code ``config``).
    """
    try:
        return Config(**tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"{path}: not TOML: {error}", code="config") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise MalformedError(f"{path}: {faults}", code="config") from error


def parse_logs(text: str) -> dict[str, tuple[VerifierKey, ...]]:
    """Read a list of logs: a vkey a line, several lines of one name are the keys of one log.

    Raises:
        MalformedError: a line that is no vkey of a log, or the same twice (code ``config``).
    """
    logs: dict[str, tuple[VerifierKey, ...]] = {}
    # The last line must have its newline, or the next line to be added would be glued to it.
    for line in lines(text, what="list of logs"):
        if not line or line.startswith("#"):
            continue
        key = parse_vkey(line)
        if key.type not in _LOG_KEY_TYPES:
            raise MalformedError(
                f"{key.name}: a key of type {int(key.type)} signs no checkpoints", code="config"
            )
        if key in logs.get(key.name, ()):
            raise MalformedError(f"{key.name}: the same key twice", code="config")
        logs[key.name] = (*logs.get(key.name, ()), key)
    return logs


def format_logs(vkeys: Sequence[VerifierKey]) -> str:
    """Lines for the list of logs."""
    return "".join(f"{key}\n" for key in vkeys)
