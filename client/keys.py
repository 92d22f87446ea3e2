"""Keys on disk: making them, showing them.

Log and witness keys are two Go-style lines (Ed25519 and ML-DSA-44, independent seeds) in one file;
publishers, rebuilders, revokers, users and brokers have one P-256 key as PKCS #8 PEM, with the public key
beside it in ``FILE.pub``. Private files are created at mode 0600 and never overwritten.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import p256
from assay.tlog.errors import MalformedError
from assay.tlog.keys import KeyType, SignerKey, format_key_file, parse_key_file

NOTE_KINDS = {
    "log": (KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44),
    "witness": (KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44),
}
PEM_KINDS = ("publisher", "rebuilder", "revoker", "user", "broker")


def new_note_keys(name: str, kind: str) -> tuple[SignerKey, SignerKey]:
    """Two fresh keys of a log or a witness under one name, from independent seeds."""
    ed25519, ml_dsa_44 = NOTE_KINDS[kind]
    return SignerKey(name, ed25519, os.urandom(32)), SignerKey(name, ml_dsa_44, os.urandom(32))


def write_private(path: Path, data: bytes) -> None:
    """Create a file of mode 0600.

    Raises:
        FileExistsError: a key is never overwritten.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def describe(data: bytes) -> dict[str, object]:
    """What may be said of a key file in public: vkeys, or signer id and public key.

    Raises:
        MalformedError: neither kind of key file.
    """
    if data.startswith(b"-----BEGIN PUBLIC"):
        return _describe_public(p256.parse_public_pem(data))
    if data.startswith(b"-----BEGIN"):
        return _describe_public(p256.parse_private_pem(data).public_key())
    try:
        signers = parse_key_file(data.decode("ascii"))
    except UnicodeDecodeError as error:
        raise MalformedError("key file: neither PEM nor signer keys") from error
    return _describe_note(signers)


def _describe_note(signers: Sequence[SignerKey]) -> dict[str, object]:
    return {
        "name": signers[0].name,
        "vkeys": [str(signer.verifier) for signer in signers],
        "key_ids": [signer.verifier.key_id.hex() for signer in signers],
    }


def _describe_public(key: ec.EllipticCurvePublicKey) -> dict[str, object]:
    return {"signer_id": p256.signer_id(p256.spki(key)), "public_key": p256.public_pem(key).decode()}


@click.group()
def keys() -> None:
    """Make and show keys."""


@keys.command()
@click.argument("name")
@click.option("--kind", type=click.Choice([*NOTE_KINDS, *PEM_KINDS]), required=True, help="Whose key it is.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The private key's file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new(name: str, kind: str, out: Path, as_json: bool) -> None:
    """Make the keys of NAME; an existing file is never overwritten."""
    if kind in NOTE_KINDS:
        data = format_key_file(new_note_keys(name, kind)).encode()
    else:
        data = p256.private_pem(ec.generate_private_key(ec.SECP256R1()))
    write_private(out, data)
    if kind in PEM_KINDS:
        public = p256.public_pem(p256.parse_private_pem(data).public_key())
        out.with_name(out.name + ".pub").write_bytes(public)
    _print(describe(data), as_json=as_json)


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Print the public side of a key FILE."""
    _print(describe(file.read_bytes()), as_json=as_json)


def _print(description: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(description))
        return
    for name, value in description.items():
        for line in value if isinstance(value, list) else [str(value).rstrip("\n")]:
            click.echo(f"{name}: {line}" if "\n" not in line else line)
