"""One of two things that are compared, reduced to what it says of a build: from a build, a release and so on.

What a kind of file does not say is None or empty, and is then left out of the comparison. Nothing here is
believed: a comparison explains, and whoever wants to know whether a build is good verifies it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from assay.attest.gramine.attributes import body_from_manifest
from assay.attest.gramine.elf import Image, parse_elf
from assay.attest.gramine.measure import measure
from assay.attest.gramine.options import EnclaveOptions, options_of
from assay.attest.gramine.sigstruct import NO_DATE, SignedBody, SigStruct, verify_sigstruct
from assay.attest.statement import Provenance, Release
from assay.builder.difference import Change, Label, cut
from assay.builder.manifest_diff import path_of, read_manifest, trusted_of
from assay.builder.recipe import LockedWheel
from assay.builder.record import BuildRecord
from assay.tlog.errors import LogError

_NUMBER_FIELDS = (
    *("isv_prod_id", "isv_svn", "attribute_flags", "attribute_xfrms", "attribute_xfrm_mask", "misc_select"),
    *("attribute_flags_mask", "misc_mask"),
)
_SIGNERS_FIELDS = ("date", "vendor", "software_defined", "cet", "isv_family_id", "isv_ext_prod_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What is known of one of the two.

    Attributes:
        label: what it is called.
        manifest: parsed; ``manifest_sha256`` may be known without it.
        image: libpal as it is loaded; ``libpal_sha256`` is of the whole file.
        options: size, threads and EDMM.
        launch: fields of the SIGSTRUCT by Gramine's names, as text: of a real one, or as the manifest gives them.
        signed: whether a build has a SIGSTRUCT; None for everything else.
        wheels: by package.
        inputs: SHA-256 in hex of each input of the build.
        facts: further texts by name that both of one kind have: versions and digests.
        origins: path of a trusted file -> where the recipe took it from.
        doubts: what this one says differently of itself in two places.
    """

    label: Label
    manifest: Mapping[str, Any] | None = None
    manifest_sha256: bytes | None = None
    image: Image | None = None
    libpal_sha256: bytes | None = None
    options: EnclaveOptions | None = None
    launch: Mapping[str, str] = field(default_factory=dict)
    signed: bool | None = None
    wheels: Mapping[str, LockedWheel] | None = None
    inputs: Mapping[str, str] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[Change, ...] = ()


def side_of_build(
    name: str,
    record: BuildRecord,
    *,
    manifest: bytes,
    libpal: bytes,
    sigstruct: bytes | None,
    found: Mapping[str, str],
    libsysdb: str,
    origins: Mapping[str, str],
) -> Side:
    """A build: its record is compared with its files, and what they contradict becomes a doubt.

    Args:
        name: for people.
        record: ``build.json``.
        manifest: the measured text.
        libpal: the image.
        sigstruct: 1808 bytes, or None.
        found: path relative to the build -> SHA-256 in hex of every file of the tree that is there.
        libsysdb: SHA-256 in hex of Gramine's LibOS in the build.
        origins: path relative to the build -> where it was taken from.

    Raises:
        MalformedError: the manifest, libpal or the SIGSTRUCT is refused.
        UntrustedError: the SIGSTRUCT's signature does not verify.
    """
    measured = measure(manifest, libpal)
    table = read_manifest(manifest)
    signed = None if sigstruct is None else verify_sigstruct(sigstruct)
    body = body_from_manifest(table, measured.mr_enclave, date=NO_DATE) if signed is None else signed.body
    recomputed = {
        "mr_enclave": measured.mr_enclave,
        "manifest_sha256": hashlib.sha256(manifest).digest(),
        "libpal_sha256": hashlib.sha256(libpal).digest(),
    }
    return Side(
        label=Label("build", name, measured.mr_enclave),
        manifest=table,
        manifest_sha256=recomputed["manifest_sha256"],
        image=parse_elf(libpal),
        libpal_sha256=recomputed["libpal_sha256"],
        options=measured.options,
        launch=_launch(body) if signed is None else _signed_launch(signed),
        signed=signed is not None,
        wheels={wheel.name: wheel for wheel in record.wheels},
        inputs={name: hashlib.sha256(text.encode()).hexdigest() for name, text in record.inputs.items()},
        facts=_record_facts(record),
        origins=origins,
        doubts=(
            *_record_doubts(record, recomputed),
            *_tree_doubts(table, found),
            *_libsysdb_doubts(record, libsysdb),
            *_signature_doubts(signed, measured.mr_enclave),
        ),
    )


def side_of_manifest(name: str, manifest: bytes) -> Side:
    """A ``.manifest.sgx`` alone: everything measured but libpal.

    Raises:
        MalformedError: not a manifest.
    """
    table = read_manifest(manifest)
    try:
        launch = _launch(body_from_manifest(table, bytes(32), date=NO_DATE))
        options = options_of(table)
    except LogError:  # a manifest that nobody would sign can still be compared, key by key
        launch, options = {}, None
    return Side(
        label=Label("manifest", name, None),
        manifest=table,
        manifest_sha256=hashlib.sha256(manifest).digest(),
        options=options,
        launch=launch,
    )


def side_of_sigstruct(name: str, data: bytes) -> Side:
    """A SIGSTRUCT alone.

    Raises:
        MalformedError: not a SIGSTRUCT.
        UntrustedError: its signature does not verify.
    """
    signed = verify_sigstruct(data)
    launch = _signed_launch(signed)
    return Side(label=Label("sigstruct", name, signed.body.mr_enclave), launch=launch)


def side_of_release(release: Release, provenance: Provenance | None = None) -> Side:
    """What a release says of a build and, if it is at hand, what its provenance says of where it came from."""
    digests = release.digests
    facts = {
        "product": release.product,
        "release": release.release,
        "gramine_version": release.gramine_version,
        "source_sha256": release.source_sha256.hex(),
        "tree_sha256": digests.tree_sha256.hex(),
        "trusted_files_sha256": release.trusted_files_sha256.hex(),
    }
    launch = {
        "isv_prod_id": str(release.isv_prod_id),
        "isv_svn": str(release.isv_svn),
        "attribute_flags": hex(release.attributes_flags),
    }
    if release.mr_signer is not None:
        launch["mr_signer"] = release.mr_signer.hex()
    return Side(
        label=Label("release", f"{release.product} {release.release}", digests.mr_enclave),
        manifest_sha256=digests.manifest_sha256,
        libpal_sha256=digests.libpal_sha256,
        launch=launch,
        facts=facts | _provenance_facts(provenance),
        inputs=None if provenance is None else _provenance_inputs(provenance),
    )


def _launch(body: SignedBody) -> dict[str, str]:
    numbers = {name: getattr(body, name) for name in _NUMBER_FIELDS}
    return {name: str(value) if name.startswith("isv") else hex(value) for name, value in numbers.items()}


def _signed_launch(signed: SigStruct) -> dict[str, str]:
    chosen = {name: getattr(signed.body, name) for name in _SIGNERS_FIELDS}
    texts = {name: value.hex() if isinstance(value, bytes) else str(value) for name, value in chosen.items()}
    return {**_launch(signed.body), **texts, "mr_signer": signed.mr_signer.hex()}


def _record_facts(record: BuildRecord) -> dict[str, str]:
    names = ("product", "release", "gramine_version", "epoch_s")
    digests = ("source_sha256", "recipe_sha256", "lock_sha256", "tree_sha256", "trusted_files_sha256")
    return {
        **{name: str(getattr(record, name)) for name in names},
        **{name: getattr(record, name).hex() for name in digests},
    }


def _provenance_facts(provenance: Provenance | None) -> dict[str, str]:
    parameters = {} if provenance is None else provenance.external_parameters
    return {
        name: value
        for name in ("recipe_sha256", "lock_sha256")
        if isinstance(value := parameters.get(name), str)
    }


def _provenance_inputs(provenance: Provenance) -> dict[str, str] | None:
    inputs = provenance.external_parameters.get("inputs")
    if not isinstance(inputs, dict):
        return None
    return {
        name: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        for name, text in inputs.items()
        if isinstance(text, str)
    }


def _record_doubts(record: BuildRecord, recomputed: Mapping[str, bytes]) -> Iterator[Change]:
    for name, value in recomputed.items():
        said = getattr(record, name)
        if said != value:
            yield Change(
                name, said.hex(), value.hex(), "build.json says the first, the folder holds the second"
            )


def _tree_doubts(table: Mapping[str, Any], found: Mapping[str, str]) -> Iterator[Change]:
    said = {path_of(uri): digest for uri, digest in trusted_of(table)}
    for path in sorted(said.keys() | found.keys()):
        if said.get(path) != found.get(path):
            note = "the manifest says the first, the folder holds the second"
            yield Change(cut(path), said.get(path), found.get(path), note)


def _libsysdb_doubts(record: BuildRecord, found: str) -> Iterator[Change]:
    if record.libsysdb_sha256.hex() != found:
        note = "build.json says the first, the folder holds the second"
        yield Change("libsysdb_sha256", record.libsysdb_sha256.hex(), found, note)


def _signature_doubts(signed: SigStruct | None, mr_enclave: bytes) -> Iterator[Change]:
    if signed is not None and signed.body.mr_enclave != mr_enclave:
        note = "the SIGSTRUCT is for the first, the folder measures to the second"
        yield Change("mr_enclave", signed.body.mr_enclave.hex(), mr_enclave.hex(), note)
