"""From a recipe to a build: tree, manifest, measurement and the record of how it came about.

Everything is computed in memory, and written by :mod:`assay.builder.output` at the end. The result is a
function of the recipe, the sources, the inputs and the wheels; neither the umask, the time, the machine nor
a path can show in it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.attest.gramine.attributes import body_from_manifest
from assay.attest.gramine.options import parse_manifest
from assay.builder import tree
from assay.builder.compose import Inputs, compose, read_locked, source_files
from assay.builder.lint import lint, require_clean
from assay.builder.manifest import LIBSYSDB_PATH, ROOTFS, format_manifest
from assay.builder.origins import origins
from assay.builder.output import Build, BuildResult, file_names, measured_fields, write_build
from assay.builder.recipe import LockedWheel, Recipe, load_recipe
from assay.builder.record import BuildRecord
from assay.builder.signing import Signing

WheelFinder = Callable[[Sequence[LockedWheel]], Mapping[LockedWheel, bytes]]
"""Gives the bytes of every wheel of a lock, digests checked (:mod:`assay.builder.wheels`)."""

Report = Callable[[str], None]
"""Takes a line about the build's progress."""


def build(
    recipe_folder: Path,
    source: Path,
    inputs: Inputs,
    out: Path,
    *,
    find_wheels: WheelFinder,
    report: Report,
    signing: Signing | None = None,
    force: bool = False,
) -> BuildResult:
    """Build a recipe and write the result to a folder.

    Args:
        recipe_folder: holds ``recipe.toml``, ``recipe.lock`` and the files they name.
        source: the root that the recipe's sources are relative to.
        inputs: the log policy and the CA bundle.
        out: the folder to write. One that holds the same build already is left as it is.
        find_wheels: gives the wheels of the lock.
        report: takes progress lines.
        signing: writes a SIGSTRUCT too; it does not change MRENCLAVE.
        force: replace another build in ``out``; never anything that no build wrote.

    Raises:
        MalformedError, UntrustedError: the recipe or something that goes into the build is refused.
        UnavailableError: a wheel cannot be had.
        FileExistsError: ``out`` holds something else.
        OSError: a file cannot be read or written.
    """
    prepared = prepare(recipe_folder, source, inputs, find_wheels=find_wheels, report=report, signing=signing)
    write_build(prepared, out, force=force)
    return BuildResult(prepared.record, out)


def prepare(
    recipe_folder: Path,
    source: Path,
    inputs: Inputs,
    *,
    find_wheels: WheelFinder,
    report: Report,
    signing: Signing | None = None,
) -> Build:
    """Compute a build without writing anything; see :func:`build` for arguments and errors."""
    recipe = load_recipe(recipe_folder)
    report(f"recipe {recipe.name}: {recipe.product} {recipe.release}, Gramine {recipe.gramine_version}")
    libraries = [read_locked(recipe_folder, locked) for locked in (recipe.lock.libpal, recipe.lock.libsysdb)]
    sources = source_files(recipe, source)
    report(f"sources: {len(sources)} files")
    wheels = find_wheels(recipe.lock.wheels)
    report(f"wheels: {len(wheels)}, each with its locked digest")
    files = compose(recipe, sources, inputs, recipe_folder=recipe_folder, wheels=wheels)
    manifest = _manifest(recipe, files)
    report(f"manifest: {len(files)} trusted files, {len(manifest)} bytes")
    fields = measured_fields(files, manifest, *libraries, epoch_s=recipe.epoch_s)
    signature = None if signing is None else _sign(manifest, fields, signing)
    record = _record(recipe, inputs, sources, fields, mr_signer=None if signature is None else signature[0])
    report(f"MRENCLAVE {record.mr_enclave.hex()}")
    names = file_names(recipe.name)
    written = {f"{ROOTFS}/{path}": data for path, data in files.items()}
    written |= {LIBSYSDB_PATH: libraries[1], names.libpal: libraries[0], names.manifest: manifest}
    written[names.tree] = tree.tree_json(
        files,
        {wheel.file: wheel.sha256 for wheel in recipe.lock.wheels},
        origins=origins(recipe, files, wheels),
    )
    written[names.record] = record.to_bytes()
    if signature is not None:
        written[names.sigstruct] = signature[1]
    return Build(record, written)


def _manifest(recipe: Recipe, files: tree.Files) -> bytes:
    digests = {f"{ROOTFS}/{path}": hashlib.sha256(data).digest() for path, data in files.items()}
    manifest = format_manifest(recipe, digests, recipe.lock.libsysdb.sha256)
    require_clean(lint(manifest, recipe.allow))
    return manifest


def _sign(manifest: bytes, fields: Mapping[str, Any], signing: Signing) -> tuple[bytes, bytes]:
    """MRSIGNER and the SIGSTRUCT."""
    body = body_from_manifest(parse_manifest(manifest), fields["mr_enclave"], date=signing.date)
    signed = signing.signed(body)
    return signed.mr_signer, signed.to_bytes()


def _record(
    recipe: Recipe,
    inputs: Inputs,
    sources: tree.Files,
    fields: Mapping[str, Any],
    *,
    mr_signer: bytes | None,
) -> BuildRecord:
    return BuildRecord(
        name=recipe.name,
        product=recipe.product,
        release=recipe.release,
        gramine_version=recipe.gramine_version,
        epoch_s=recipe.epoch_s,
        mr_signer=mr_signer,
        source_sha256=hashlib.sha256(tree.digest_list(sources)).digest(),
        recipe_sha256=recipe.sha256,
        lock_sha256=recipe.lock.sha256,
        wheels=recipe.lock.wheels,
        inputs=inputs.texts(),
        allow=recipe.allow,
        **fields,
    )
