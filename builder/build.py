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
from assay.builder import base, gramine_tools, tree
from assay.builder.base import Layer, PackageFinder
from assay.builder.base_lock import LIBRARIES, BaseLock, LockedPackage
from assay.builder.compose import Inputs, compose, read_locked, source_files
from assay.builder.gramine_tools import Tools
from assay.builder.lint import lint, require_clean
from assay.builder.manifest import LIBSYSDB_PATH, ROOTFS, format_manifest
from assay.builder.origins import origins
from assay.builder.output import (
    Build,
    BuildResult,
    base_programs,
    file_names,
    measured_fields,
    with_base,
    write_build,
)
from assay.builder.progress import Bar, no_bar
from assay.builder.recipe import LockedWheel, Recipe, load_recipe
from assay.builder.record import BuildRecord
from assay.builder.sigstruct_signing import Signing
from assay.tlog.errors import UnavailableError, UntrustedError

WheelFinder = Callable[[Sequence[LockedWheel]], Mapping[LockedWheel, bytes]]
"""Gives the bytes of every wheel of a lock, digests checked (:mod:`assay.builder.wheels`)."""

Report = Callable[[str], None]
"""Takes a line about the build's progress."""


def no_packages(locked: LockedPackage) -> bytes:
    """The finder of a build that is given no packages.

    Raises:
        UnavailableError: always (code ``package-missing``).
    """
    raise UnavailableError(
        f"package {locked.name} {locked.version}: no place was given to take {locked.file} from",
        code="package-missing",
    )


def build(
    recipe_folder: Path,
    source: Path,
    inputs: Inputs,
    out: Path,
    *,
    find_wheels: WheelFinder,
    report: Report,
    find_package: PackageFinder = no_packages,
    verify_base: bool = False,
    bar: Bar = no_bar,
    signing: Signing | None = None,
    tools: Tools | None = None,
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
        find_package: gives the packages of the base layer.
        verify_base: obtain them all, prove the layer's list with them, and put its files into the tree. Without it the
            list is believed, and a tree is written that lacks the layer's files; the measurement is the same.
        bar: shows progress.
        signing: writes a SIGSTRUCT too; it does not change MRENCLAVE.
        tools: Gramine's own, which must come to the same result.
        force: replace another build in ``out``; never anything that no build wrote.

    Raises:
        MalformedError, UntrustedError: the recipe or something that goes into the build is refused.
        UnavailableError: a wheel or a package cannot be had, or one of the tools fails.
        FileExistsError: ``out`` holds something else.
        OSError: a file cannot be read or written.
    """
    prepared = prepare(
        recipe_folder,
        source,
        inputs,
        find_wheels=find_wheels,
        report=report,
        find_package=find_package,
        verify_base=verify_base,
        bar=bar,
        signing=signing,
    )
    if tools is not None:
        _compare(tools, prepared, signing)
        report("gramine-manifest and gramine-sgx-sign: same manifest, same MRENCLAVE")
    write_build(prepared, out, force=force, bar=bar)
    return BuildResult(prepared.record, out)


def prepare(
    recipe_folder: Path,
    source: Path,
    inputs: Inputs,
    *,
    find_wheels: WheelFinder,
    report: Report,
    find_package: PackageFinder = no_packages,
    verify_base: bool = False,
    bar: Bar = no_bar,
    signing: Signing | None = None,
) -> Build:
    """Compute a build without writing anything; see :func:`build` for arguments and errors."""
    recipe = load_recipe(recipe_folder)
    report(f"recipe {recipe.name}: {recipe.product} {recipe.release}, Gramine {recipe.gramine_version}")
    layer = _base_layer(recipe, find_package, verify=verify_base, report=report, bar=bar)
    libraries = _libraries(recipe, recipe_folder, layer, find_package)
    sources = source_files(recipe, source)
    report(f"sources: {len(sources)} files")
    wheels = find_wheels(recipe.lock.wheels)
    report(f"wheels: {len(wheels)}, each with its locked digest")
    files = compose(recipe, sources, inputs, recipe_folder=recipe_folder, wheels=wheels)
    listed = with_base(files, recipe.base_lock)
    manifest = _manifest(recipe, listed, hashlib.sha256(libraries[1]).digest())
    report(f"manifest: {len(listed)} trusted files, {len(manifest)} bytes")
    fields = measured_fields(files, manifest, *libraries, base=recipe.base_lock, epoch_s=recipe.epoch_s)
    signature = None if signing is None else _sign(manifest, fields, signing)
    record = _record(recipe, inputs, sources, fields, mr_signer=None if signature is None else signature[0])
    report(f"MRENCLAVE {record.mr_enclave.hex()}")
    names = file_names(recipe.name)
    in_tree = tree.merge([files, {} if layer is None else layer.files])
    written = {f"{ROOTFS}/{path}": data for path, data in in_tree.items()}
    written |= {LIBSYSDB_PATH: libraries[1], names.libpal: libraries[0], names.manifest: manifest}
    written[names.tree] = tree.tree_json(
        listed,
        {wheel.file: wheel.sha256 for wheel in recipe.lock.wheels},
        origins=origins(recipe, files, wheels),
    )
    written[names.record] = record.to_bytes()
    if signature is not None:
        written[names.sigstruct] = signature[1]
    if recipe.base_lock is not None:
        written[names.base] = recipe.base_lock.to_bytes()
    return Build(record, written, base_programs(recipe.base_lock))


def _compare(tools: Tools, prepared: Build, signing: Signing | None) -> None:
    names = file_names(prepared.record.name)
    gramine_tools.compare(
        tools,
        prepared.files[names.manifest],
        prepared.files[names.libpal],
        mr_enclave=prepared.record.mr_enclave,
        sigstruct=prepared.files.get(names.sigstruct),
        signing=signing,
    )


def _base_layer(
    recipe: Recipe, find_package: PackageFinder, *, verify: bool, report: Report, bar: Bar
) -> Layer | None:
    """The proven base layer, or None if the recipe has none or it is not to be proven."""
    if recipe.base is None or recipe.base_lock is None:
        if verify:
            raise UntrustedError("the recipe has no base layer that could be verified", code="no-base")
        return None
    lock = recipe.base_lock
    base.check_selection(recipe.base, lock)
    if not verify:
        report(f"base: {len(lock.files)} files of {len(lock.packages)} packages, as listed; not verified")
        return None
    with bar("packages", len(lock.packages)) as advance:
        layer = base.prove(recipe.base, lock, find_package, progress=advance)
    report(f"base: {len(lock.files)} files of {len(lock.packages)} packages, each as the packages have it")
    return layer


def _libraries(
    recipe: Recipe, folder: Path, layer: Layer | None, find_package: PackageFinder
) -> tuple[bytes, bytes]:
    """Gramine's libpal and libsysdb: the one is measured, and both are part of the build."""
    if recipe.lock.libraries:
        libpal, libsysdb = (read_locked(folder, recipe.lock.libraries[name]) for name in LIBRARIES)
    elif layer is not None:
        _require_gramine(layer.lock)
        libpal, libsysdb = (layer.libraries[name] for name in LIBRARIES)
    else:
        assert recipe.base_lock is not None
        _require_gramine(recipe.base_lock)
        libpal, libsysdb = (base.packaged_library(recipe.base_lock, name, find_package) for name in LIBRARIES)
    return libpal, libsysdb


def _require_gramine(lock: BaseLock) -> None:
    if not lock.libraries:
        raise UntrustedError(
            "the base layer's lock was made without Gramine's package, so there is nothing to measure; add the "
            "package with `assay base add-gramine`",
            code="gramine-missing",
        )


def _manifest(recipe: Recipe, listed: Mapping[str, tree.Measured], libsysdb_sha256: bytes) -> bytes:
    digests = {f"{ROOTFS}/{path}": file.sha256 for path, file in listed.items()}
    manifest = format_manifest(recipe, digests, libsysdb_sha256)
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
        base_lock_sha256=recipe.lock.base_sha256,
        packages=() if recipe.base_lock is None else recipe.base_lock.packages,
        inputs=inputs.texts(),
        allow=recipe.allow,
        **fields,
    )
