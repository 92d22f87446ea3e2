"""The commands around a log: publish a build, rebuild a release."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from assay.attest import bundle, p256
from assay.attest.bundle import MAX_BUNDLE_SIZE, Bundle
from assay.attest.statement import Verdict
from assay.builder import publish as publishing
from assay.builder import rebuild as rebuilding
from assay.builder.cli import base_options, cached_wheels, package_finder
from assay.builder.output import load_build
from assay.builder.publish import ReleaseTerms
from assay.builder.wheels import wheel_finder
from assay.client.collect import refresh_release
from assay.client.log import LogClient
from assay.client.trust import load_policy
from assay.tlog import strict
from assay.tlog.errors import MalformedError
from assay.tlog.merkle import Hash

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

_log_option = click.option("--log", "log_url", required=True, help="The log's address.")
_policy_option = click.option(
    "--policy", "policy_path", type=_FILE, required=True, help="By which the log's proofs are judged."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option(
    "--key", "keys", type=_FILE, required=True, multiple=True, help="A publisher's key; repeat for more."
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

    An interrupted publication is finished by running the same command again.
    """
    built = load_build(directory)
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
        log=LogClient(log_url, policy=load_policy(policy_path).log),
        file=out or directory.resolve().with_name(directory.resolve().name + ".release.json"),
    )
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
