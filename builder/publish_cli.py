"""The commands around a log: publish a build, rebuild a release."""

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import click
from rich.console import Console

from assay.attest import bundle, p256
from assay.attest.bundle import MAX_BUNDLE_SIZE, Bundle
from assay.attest.statement import Verdict
from assay.builder import keyless as keyless_signing
from assay.builder import publish as publishing
from assay.builder import rebuild as rebuilding
from assay.builder import sigstore_bundle
from assay.builder.cli import base_options, cached_wheels, package_finder
from assay.builder.output import load_build
from assay.builder.publish import ReleaseTerms
from assay.builder.signing import Signer, signature_at
from assay.builder.sigstore_bundle import trusted_root_with_log
from assay.builder.wheels import wheel_finder
from assay.client.collect import refresh_release
from assay.client.log import LogClient
from assay.client.trust import load_policy
from assay.tlog import strict
from assay.tlog.errors import MalformedError
from assay.tlog.merkle import Hash

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_MAX_TOKEN_SIZE = 65_536

_log_option = click.option("--log", "log_url", required=True, help="The log's address.")
_policy_option = click.option(
    "--policy", "policy_path", type=_FILE, required=True, help="By which the log's proofs are judged."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option("--key", "keys", type=_FILE, multiple=True, help="A publisher's key; repeat for more.")
@click.option("--keyless", is_flag=True, help="Sign with a Sigstore certificate, besides the keys if any.")
@click.option(
    "--identity-token",
    type=click.File("rb"),
    help="A file with the OpenID Connect token for --keyless, - for standard input [default: the CI system's].",
)
@click.option(
    "--sigstore-root",
    type=_FILE,
    help="The pinned TrustedRoot (JSON) for --keyless: whom to ask and to trust.",
)
@click.option(
    "--bundle-out",
    type=click.Path(path_type=Path),
    help="Write the release as a Sigstore bundle here; for --keyless it cannot be made later.",
)
@click.option(
    "--trusted-root-out",
    type=click.Path(path_type=Path),
    help="Write --sigstore-root with this log in it: what Sigstore's clients verify the bundle under.",
)
@_log_option
@_policy_option
@click.option("--out", type=click.Path(path_type=Path), help="[default: DIR.release.json]")
@click.option(
    "--advisory", "advisories", multiple=True, help="An Intel advisory accepted for this measurement."
)
@click.option("--valid-days", type=click.IntRange(min=1), help="How long it is valid [default: without end].")
@click.option(
    "--delay-s", type=click.IntRange(min=0), default=0, help="Announce it this long before it counts."
)
@click.option("--supersedes", help="Leaf hash of the release that this one replaces.")
@click.option("--commit", help="Git commit of the source, 40 hex digits.")
@_json_option
def publish(
    directory: Path,
    keys: tuple[Path, ...],
    keyless: bool,
    identity_token: IO[bytes] | None,
    sigstore_root: Path | None,
    bundle_out: Path | None,
    trusted_root_out: Path | None,
    log_url: str,
    policy_path: Path,
    out: Path | None,
    advisories: tuple[str, ...],
    valid_days: int | None,
    delay_s: int,
    supersedes: str | None,
    commit: str | None,
    as_json: bool,
) -> None:
    """Publish the build in DIR: its release and its provenance, checked to be in the log.

    Signatures stand in the order of the keys; that of --keyless is the last. An interrupted publication is finished
    by running the same command again.
    """
    _require_signer(
        keys, keyless=keyless, token=identity_token, root=sigstore_root, root_out=trusted_root_out
    )
    built = load_build(directory)
    policy = load_policy(policy_path)
    log = LogClient(log_url, policy=policy.log)
    now_ms = _now_ms()
    terms = ReleaseTerms(
        advisories=tuple(sorted(set(advisories))),
        valid_from_ms=now_ms,
        valid_until_ms=None if valid_days is None else now_ms + valid_days * 86_400_000,
        effective_after_ms=now_ms + delay_s * 1000,
        supersedes=None if supersedes is None else _leaf_hash(supersedes),
        source_commit=commit,
    )
    published = publishing.publish(
        built,
        keys=[p256.parse_private_pem(path.read_bytes()) for path in keys],
        terms=terms,
        log=log,
        file=out or directory.resolve().with_name(directory.resolve().name + ".release.json"),
        keyless=_open_keyless(identity_token, sigstore_root, log_url) if keyless else None,
    )
    if bundle_out is not None:
        bundle_out.write_bytes(publishing.export_release(published, log=log, policy=policy.log))
    if trusted_root_out is not None and sigstore_root is not None:
        origin = published.release.included.cosigned.checkpoint.origin
        trusted_root_out.write_bytes(trusted_root_with_log(_read(sigstore_root), origin, policy.log))
    result = {
        "index": published.release.index,
        "provenance_index": published.provenance.index,
        "mr_enclave": built.record.mr_enclave.hex(),
        "release": f"{built.record.product}@{built.record.release}",
        "file": str(published.file),
    }
    _print(result, as_json=as_json)


@click.command()
@click.argument("release", metavar="RELEASE.json", type=_FILE)
@click.option("--source", type=_FOLDER, required=True, help="A checkout of the release's source.")
@click.option("--key", type=_FILE, required=True, help="The rebuilder's key.")
@_log_option
@_policy_option
@click.option("--wheels", type=_FOLDER, help="Take wheels from here only, and fetch nothing.")
@base_options
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the release with all verdicts so far here."
)
@_json_option
def rebuild(
    release: Path,
    source: Path,
    key: Path,
    log_url: str,
    policy_path: Path,
    wheels: Path | None,
    verify_base: bool,
    pools: tuple[Path, ...],
    snapshot: str | None,
    cache: Path | None,
    save: Path | None,
    as_json: bool,
) -> int:
    """Rebuild a published release and publish the verdict, also DIFFERENT and FAILED.

    Exits 0 if the release was reproduced, else 1; the verdict is in the log either way.
    """
    policy = load_policy(policy_path)
    log = LogClient(log_url, policy=policy.log)
    data = _read(release)
    console = Console(stderr=True, highlight=False)
    rebuilt = rebuilding.rebuild(
        rebuilding.open_task(data, policy=policy, log=log),
        source=source.resolve(),
        key=p256.parse_private_pem(key.read_bytes()),
        log=log,
        find_wheels=wheel_finder(wheels, cache=cached_wheels(cache)),
        find_packages=lambda recipe: package_finder(recipe, pools, snapshot=snapshot, cache=cache),
        verify_base=verify_base,
        report=_reporter(console),
        now_ms=_now_ms,
    )
    if save is not None:
        refreshed: Bundle = refresh_release(log, bundle.parse_bundle(data), policy=policy)
        save.write_bytes(bundle.format_bundle(refreshed))
    observed = rebuilt.rebuild.observed
    result = {
        "verdict": str(rebuilt.rebuild.verdict),
        "index": rebuilt.submitted.index,
        "expected": rebuilt.rebuild.expected.mr_enclave.hex(),
        "observed": None if observed is None else observed.mr_enclave.hex(),
        "differences": list(rebuilt.rebuild.differences),
    }
    _print(result, as_json=as_json)
    return 0 if rebuilt.rebuild.verdict is Verdict.REPRODUCED else 1


@click.command(name="export-bundle")
@click.argument("release", metavar="RELEASE.json", type=_FILE)
@_log_option
@_policy_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's file.")
@click.option(
    "--signature",
    "position",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Which of the signatures; a bundle has one.",
)
@_json_option
def export_bundle(
    release: Path, log_url: str, policy_path: Path, out: Path, position: int, as_json: bool
) -> None:
    """Write a published release as a Sigstore bundle v0.3, with this log as its transparency log.

    The log takes in a hashedrekord of the signature, unless it has it. For signatures by keys; that of a certificate
    is exported when it is published.
    """
    policy = load_policy(policy_path)
    attestation = rebuilding.release_entry(_read(release), policy=policy)
    if position > len(attestation.verifiers):
        raise click.UsageError(f"the release has {len(attestation.verifiers)} signatures")
    signature = signature_at(attestation, position - 1)
    log = LogClient(log_url, policy=policy.log)
    out.write_bytes(sigstore_bundle.export(attestation, signature, log=log, policy=policy.log))
    _print({"file": str(out), "signature": position}, as_json=as_json)


def _require_signer(
    keys: tuple[Path, ...],
    *,
    keyless: bool,
    token: IO[bytes] | None,
    root: Path | None,
    root_out: Path | None,
) -> None:
    if not keys and not keyless:
        raise click.UsageError("Missing option '--key' or '--keyless'.")
    if keyless and root is None:
        raise click.UsageError("'--keyless' needs '--sigstore-root'; there is no default to trust.")
    if not keyless and (token is not None or root is not None):
        raise click.UsageError("'--identity-token' and '--sigstore-root' are for '--keyless'.")
    if root_out is not None and root is None:
        raise click.UsageError("'--trusted-root-out' needs '--sigstore-root'.")


def _open_keyless(token: IO[bytes] | None, root: Path | None, log_url: str) -> Signer:
    assert root is not None
    if importlib.util.find_spec("sigstore") is None:
        raise click.UsageError(
            "'--keyless' needs the Python package 'sigstore'; install assay-log with the extra [sigstore]"
        )
    text = keyless_signing.ambient_token() if token is None else _token(token)
    return keyless_signing.KeylessSigner(
        text, trusted_root=_read(root), log_url=log_url, now_s=lambda: _now_ms() // 1000
    )


def _token(file: IO[bytes]) -> str:
    data = file.read(_MAX_TOKEN_SIZE + 1)
    if len(data) > _MAX_TOKEN_SIZE or not data.isascii() or not data.strip():
        raise MalformedError("the identity token is empty, not ASCII or too long", code="identity-token")
    return data.decode("ascii").strip()


def _reporter(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False)


def _leaf_hash(text: str) -> Hash:
    return Hash(strict.hex_bytes(text, what="--supersedes", length=32))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BUNDLE_SIZE + 1)
    if len(data) > MAX_BUNDLE_SIZE:
        raise MalformedError(f"{path}: larger than {MAX_BUNDLE_SIZE} bytes", code="too-large")
    return data


def _print(result: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        for text in value if isinstance(value, list) else [value]:
            click.echo(f"{name.replace('_', ' '):16} {'-' if text is None else text}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
