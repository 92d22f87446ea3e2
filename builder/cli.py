"""The builder's commands: build a recipe, and measure what was built.

Results go to stdout, progress to stderr. Errors of :mod:`assay.tlog.errors` are left to the roof, which
turns them into messages and exit codes.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from assay.attest.gramine.attributes import body_from_manifest, verify_signed_for
from assay.attest.gramine.layout import check_version
from assay.attest.gramine.measure import measure as measure_enclave
from assay.attest.gramine.options import parse_manifest
from assay.attest.gramine.sigstruct import NO_DATE, SigStruct, verify_sigstruct
from assay.attest.gramine.sigstruct_view import parse_view, verify_view
from assay.builder import base_pool
from assay.builder.base import PackageFinder
from assay.builder.build import build as build_recipe
from assay.builder.compose import Inputs
from assay.builder.gramine_tools import find_tools
from assay.builder.output import BuildResult
from assay.builder.progress import bar_on
from assay.builder.recipe import load_recipe
from assay.builder.sigstruct_signing import (
    SignerInput,
    Signing,
    command_signing,
    epoch_date,
    key_signing,
    load_private_key,
    load_public_key,
)
from assay.builder.wheels import wheel_finder

LOG_POLICY_FILE = "log-policy.txt"
CA_FILE = "llm-ca.pem"
FROM_EPOCH = "source-date-epoch"

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW = click.Path(path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def base_options(command: _Command) -> _Command:
    """Add the options that say how a base layer is had."""
    options = [
        click.option(
            "--verify-base",
            is_flag=True,
            help="Obtain the base layer's packages, prove its list, add its files.",
        ),
        click.option(
            "--pool", "pools", type=_FOLDER, multiple=True, help="A folder with packages (.deb); repeatable."
        ),
        click.option(
            "--snapshot",
            help="A server laid out as Debian's snapshot archive, to fetch missing packages from.",
        ),
        click.option(
            "--cache",
            type=_NEW,
            help="Where fetched wheels and packages are kept [default: the user's cache].",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("recipe_dir", type=_FOLDER)
@click.option("--out", type=_NEW, required=True, help="The folder to write.")
@click.option("--source", type=_FOLDER, help="The root of the sources [default: RECIPE_DIR/../..].")
@click.option("--log-policy", type=_FILE, help=f"The log policy [default: RECIPE_DIR/{LOG_POLICY_FILE}].")
@click.option("--ca", type=_FILE, help=f"The CA bundle, PEM [default: RECIPE_DIR/{CA_FILE}].")
@click.option("--wheels", type=_FOLDER, help="Take wheels from here only, and fetch nothing.")
@base_options
@click.option("--signing-key", type=_FILE, help="RSA-3072 key (PEM, exponent 3): write a SIGSTRUCT too.")
@click.option("--signing-command", help="Sign with a program instead: input on stdin, 384 bytes on stdout.")
@click.option("--signing-public-key", type=_FILE, help="The public key (PEM) of --signing-command.")
@click.option(
    "--signing-input",
    type=click.Choice([item.value for item in SignerInput]),
    default=SignerInput.DATA.value,
    help="What --signing-command reads: 256 bytes, or their SHA-256 [default: data].",
)
@click.option(
    "--date",
    type=click.Choice(["none", FROM_EPOCH]),
    default="none",
    help="The SIGSTRUCT's date: 0000-00-00, or the day of SOURCE_DATE_EPOCH in UTC [default: none].",
)
@click.option(
    "--without-tools", is_flag=True, help="Do not compare with Gramine's tools if they are installed."
)
@click.option("--force", is_flag=True, help="Replace another build in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(
    recipe_dir: Path,
    out: Path,
    source: Path | None,
    log_policy: Path | None,
    ca: Path | None,
    wheels: Path | None,
    verify_base: bool,
    pools: tuple[Path, ...],
    snapshot: str | None,
    cache: Path | None,
    signing_key: Path | None,
    signing_command: str | None,
    signing_public_key: Path | None,
    signing_input: str,
    date: str,
    without_tools: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build the enclave of RECIPE_DIR: tree, canonical manifest, MRENCLAVE and record.

    The same recipe, sources, inputs and wheels give the same bytes on any machine.
    """
    console = Console(stderr=True, highlight=False)
    signing = _signing(signing_key, signing_command, signing_public_key, reads=signing_input, date=date)
    inputs = Inputs(
        log_policy=_input(log_policy, recipe_dir / LOG_POLICY_FILE, option="--log-policy"),
        ca=_input(ca, recipe_dir / CA_FILE, option="--ca"),
    )
    result = build_recipe(
        recipe_dir,
        source or recipe_dir.resolve().parents[1],
        inputs,
        out,
        find_wheels=wheel_finder(wheels, cache=cached_wheels(cache), bar=bar_on(console)),
        find_package=package_finder(recipe_dir, pools, snapshot=snapshot, cache=cache),
        verify_base=verify_base,
        bar=bar_on(console),
        report=lambda line: console.print(line, markup=False),
        signing=signing,
        tools=None if without_tools else find_tools(),
        force=force,
    )
    _print_result(_build_json(result), as_json=as_json)


@click.command()
@click.option("--manifest", type=_FILE, required=True, help="The .manifest.sgx file.")
@click.option("--libpal", type=_FILE, required=True, help="The SGX libpal.so.")
@click.option("--sigstruct", type=_FILE, help="A SIGSTRUCT (.sig) that must be for this enclave.")
@click.option(
    "--sigstruct-view", type=_FILE, help="JSON of gramine-sgx-sigstruct-view that must be of this enclave."
)
@click.option("--gramine-version", help="Refuse a version that lays enclaves out in another way.")
@click.option("--sgxs", type=_NEW, help="Write the measured stream: its SHA-256 is MRENCLAVE.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def measure(
    manifest: Path,
    libpal: Path,
    sigstruct: Path | None,
    sigstruct_view: Path | None,
    gramine_version: str | None,
    sgxs: Path | None,
    as_json: bool,
) -> None:
    """Recompute MRENCLAVE from a manifest and libpal; check a SIGSTRUCT against it.

    The layout is that of Gramine 1.5 to 1.9.
    """
    if gramine_version is not None:
        check_version(gramine_version)
    text, image = manifest.read_bytes(), libpal.read_bytes()
    measured = measure_enclave(text, image)
    signed = None
    if sigstruct is not None:
        signed = verify_sigstruct(sigstruct.read_bytes())
        verify_signed_for(signed, parse_manifest(text), measured.mr_enclave)
    if sigstruct_view is not None:
        _check_view(sigstruct_view.read_bytes(), text, measured.mr_enclave, signed)
    if sgxs is not None:
        _export(sgxs, text, image)
    result = {
        "mr_enclave": measured.mr_enclave.hex(),
        "mr_signer": None if signed is None else signed.mr_signer.hex(),
        "enclave_size": measured.options.enclave_size,
        "edmm": measured.options.edmm,
        "threads": measured.options.max_threads,
    }
    _print_result(result, as_json=as_json)


commands: list[click.Command] = [build, measure]
"""What the builder adds to the program."""


def _check_view(data: bytes, manifest: bytes, mr_enclave: bytes, signed: SigStruct | None) -> None:
    view = parse_view(data)
    if signed is not None:
        verify_view(view, signed.body, mr_signer=signed.mr_signer)
        return
    date = view.fields.get("date", NO_DATE)
    verify_view(
        view, body_from_manifest(parse_manifest(manifest), mr_enclave, date=str(date)), mr_signer=None
    )


def _export(path: Path, manifest: bytes, image: bytes) -> None:
    """Write the stream beside its place first, so that no half of it can be taken for the whole."""
    unfinished = path.with_name(path.name + ".new")
    try:
        with unfinished.open("wb") as sink:
            measure_enclave(manifest, image, sink=sink)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cached_wheels(cache: Path | None) -> Path | None:
    """Where in ``--cache`` wheels are kept."""
    return None if cache is None else cache / "wheels"


def package_finder(
    recipe_dir: Path, pools: Sequence[Path], *, snapshot: str | None, cache: Path | None
) -> PackageFinder:
    """The packages of a recipe's base layer: from folders, the cache, and a server only if one is named.

    Raises:
        MalformedError, UntrustedError: the recipe is refused.
    """
    lock = load_recipe(recipe_dir).base_lock
    download = (
        None if snapshot is None or lock is None else base_pool.snapshot_download(snapshot, lock.snapshot)
    )
    kept = base_pool.cache_folder(os.environ) if cache is None else cache / "packages"
    return base_pool.package_finder(pools, cache=kept, download=download)


def _build_json(result: BuildResult) -> dict[str, object]:
    return {
        "mr_enclave": result.record.mr_enclave.hex(),
        "manifest_sha256": result.record.manifest_sha256.hex(),
        "tree_sha256": result.record.tree_sha256.hex(),
        "out": str(result.out),
    }


def _input(given: Path | None, default: Path, *, option: str) -> bytes:
    path = given or default
    if not path.is_file():
        raise click.UsageError(f"{default} does not exist; name the file with {option}")
    return path.read_bytes()


def _signing(
    key: Path | None, command: str | None, public_key: Path | None, *, reads: str, date: str
) -> Signing | None:
    if key is not None and command is not None:
        raise click.UsageError("--signing-key and --signing-command exclude each other")
    if (command is None) != (public_key is None):
        raise click.UsageError("--signing-command and --signing-public-key need each other")
    if key is None and command is None:
        return None
    day = epoch_date() if date == FROM_EPOCH else NO_DATE
    if key is not None:
        return key_signing(load_private_key(key), date=day)
    assert command is not None
    assert public_key is not None
    return command_signing(command, load_public_key(public_key), reads=SignerInput(reads), date=day)


def _print_result(result: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name.replace('_', ' '):15} {'-' if value is None else value}")
