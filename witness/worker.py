"""The worker process of a witness."""

import os
from pathlib import Path

from flask import Flask

from assay.fetch.serving import end_with_parent
from assay.tlog.errors import MalformedError
from assay.tlog.keys import KeyType, SignerKey, VerifierKey, parse_key_file
from assay.witness import config as configuration
from assay.witness.app import create_app
from assay.witness.core import Witness
from assay.witness.state import SqliteState

CONFIG_VARIABLE = "ASSAY_WITNESS_CONFIG_FILE"
"""How the worker is told which configuration to read."""

FACTORY = "assay.witness.worker:make_app"

_KEY_TYPES = (KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44)


def open_witness(config_file: Path) -> Witness:
    """The witness of a configuration file.

    Raises:
        MalformedError: a malformed configuration, key file or list of logs.
        OSError: a file that cannot be read.
    """
    config = configuration.load(config_file)
    signers, logs = _read_keys(config, config_file.parent)
    return Witness(signers=signers, logs=logs, state=SqliteState(config_file.parent / config.state))


def check(config_file: Path) -> str:
    """The name of the witness that :func:`open_witness` would open; nothing stays open.

    For the process that will fork the worker: an SQLite file must not be carried across a fork.

    Raises:
        MalformedError: as :func:`open_witness`.
        OSError: a file that cannot be read.
    """
    config = configuration.load(config_file)
    signers, _ = _read_keys(config, config_file.parent)
    SqliteState(config_file.parent / config.state).close()
    return signers[0].name


def _read_keys(
    config: configuration.Config, folder: Path
) -> tuple[tuple[SignerKey, ...], dict[str, tuple[VerifierKey, ...]]]:
    signers = read_signers(folder / config.key)
    logs = configuration.parse_logs((folder / config.logs).read_text("utf-8"))
    if signers[0].name in logs:
        raise MalformedError(f"{signers[0].name!r} is the witness's own name, not a log's", code="config")
    return signers, logs


def read_signers(path: Path) -> tuple[SignerKey, ...]:
    """A witness's two keys.

    Raises:
        MalformedError: another kind of key file (code ``config``).
    """
    signers = parse_key_file(path.read_text("ascii"))
    if tuple(signer.type for signer in signers) != _KEY_TYPES:
        raise MalformedError(f"{path}: not the keys of a witness", code="config")
    return signers


def make_app() -> Flask:
    """Open the witness and make its application."""
    end_with_parent()
    return create_app(open_witness(Path(os.environ[CONFIG_VARIABLE])))
