"""The relying party's commands: ``verify`` and ``ask``. Arguments in, exit code out; errors go up to the roof.

Verdicts and answers go to stdout, talk to stderr. Exit codes: 0 verified, 1 not verified, 2 usage, 3 unavailable.
"""

import datetime as dt
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from assay.attest import jcs
from assay.attest.bundle import MAX_BUNDLE_SIZE
from assay.attest.channel import DEFAULT_PORT
from assay.client import host
from assay.client import verify as verifier
from assay.client.host import Asked, Surroundings
from assay.client.log import LogClient
from assay.client.render import print_verdict, printable
from assay.client.trust import Policy, load_policy
from assay.client.verdict import RefusedError, Verdict
from assay.tlog.errors import MalformedError

EXIT_VERIFIED = 0
EXIT_REFUSED = 1

DEFAULT_MODEL = "claude-sonnet-4-5"

_SECONDS = re.compile(r"[0-9]{1,11}")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> int:
    """Unix ms of a time in RFC 3339 (with its offset) or in Unix seconds.

    Raises:
        ValueError: neither form, or no such time.
    """
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    if not _RFC_3339.fullmatch(text):
        raise ValueError("another form")
    return int(dt.datetime.fromisoformat(text.upper()).timestamp() * 1000)


class Time(click.ParamType[int]):
    """RFC 3339 or Unix seconds; gives Unix ms."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a time.

        Raises:
            click.UsageError: neither form, or no such time.
        """
        try:
            return parse_time(str(value))
        except ValueError as error:
            self.fail(
                f"{value!r} is neither RFC 3339 (2026-01-31T12:00:00Z) nor Unix seconds: {error}", param, ctx
            )


class Address(click.ParamType[tuple[str, int]]):
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``HOST`` with the channel's default port."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Parse an address.

        Raises:
            click.UsageError: not one.
        """
        if isinstance(value, tuple):
            return value
        matched = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]]+))(?::([0-9]{1,5}))?", value)
        port = int(matched[3] or DEFAULT_PORT) if matched else 0
        if matched is None or not 1 <= port <= 65_535:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return (matched[1] or matched[2], port)


_policy_option = click.option(
    "--policy",
    "policy_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Whom to trust: a TOML policy.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("file", type=_file)
@_policy_option
@click.option("--at", "at_ms", type=Time(), help="Judge as of this time: RFC 3339 or Unix seconds.")
@click.option("--artifact", type=_file, help="A file that should be the answer, the release's, or the leaf.")
@_json_option
def verify(file: Path, policy_path: Path, at_ms: int | None, artifact: Path | None, as_json: bool) -> int:
    """Verify FILE offline: an answer's bundle, a release's bundle, or a .tlog-proof with its leaf."""
    policy = load_policy(policy_path)
    data = _read(file)
    now_ms = _now_ms() if at_ms is None else at_ms
    if data.startswith(verifier.PROOF_PREFIX):
        if artifact is None:
            raise click.UsageError("a .tlog-proof is of a leaf: give it with --artifact")
        verdict = verifier.verify_logged(data, leaf=_read(artifact), policy=policy, now_ms=now_ms)
    else:
        content = None if artifact is None else _read(artifact)
        verdict = verifier.verify_bundle(data, policy=policy, now_ms=now_ms, artifact=content)
    _print(verdict, as_json=as_json)
    return EXIT_VERIFIED if verdict.verified else EXIT_REFUSED


@click.command()
@click.argument("prompt")
@_policy_option
@click.option(
    "--connect",
    "address",
    type=Address(),
    default=f"127.0.0.1:{DEFAULT_PORT}",
    show_default=True,
    help="The enclave's host.",
)
@click.option("--log", "log_url", help="The log's address; the policy's if it names one.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="The model to ask for.")
@click.option("--max-tokens", type=click.IntRange(1, 1_000_000), default=1024, show_default=True)
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Keep the bundle here.")
@_json_option
def ask(
    prompt: str,
    policy_path: Path,
    address: tuple[str, int],
    log_url: str | None,
    model: str,
    max_tokens: int,
    save: Path | None,
    as_json: bool,
) -> int:
    """Verify an enclave, ask it PROMPT, and verify that the answer is signed and logged."""
    policy = load_policy(policy_path)
    log = LogClient(log_url or _policy_url(policy), policy=policy.log)
    on_text = _ignore_text if as_json else _print_text
    try:
        asked = host.ask(
            host.messages_request(prompt, model=model, max_tokens=max_tokens),
            address=address,
            policy=policy,
            log=log,
            surroundings=Surroundings(now_ms=_now_ms, random_bytes=os.urandom, on_text=on_text),
        )
    except RefusedError as error:
        _print(error.verdict, as_json=as_json)
        raise
    return _finish(asked, save=save, as_json=as_json)


def _finish(asked: Asked, *, save: Path | None, as_json: bool) -> int:
    if save is not None:
        save.write_bytes(asked.bundle)
        click.echo(f"bundle: {save}", err=True)
    if not as_json:
        click.echo("\n")
    _print(asked.verdict, as_json=as_json, result=asked.result)
    return EXIT_VERIFIED if asked.verdict.verified else EXIT_REFUSED


def _print(verdict: Verdict, *, as_json: bool, **more: jcs.Json) -> None:
    if as_json:
        click.echo(json.dumps({**verdict.to_json(), **more}))
    else:
        print_verdict(verdict, Console())


def _print_text(text: str) -> None:
    # The model's words must not steer the terminal; line breaks are the one control character they need.
    click.echo("\n".join(printable(line) for line in text.split("\n")), nl=False)


def _ignore_text(_text: str) -> None:
    """With --json the whole answer is in the document."""


def _policy_url(policy: Policy) -> str:
    urls = {log.url for log in policy.log.logs if log.url is not None}
    if len(urls) != 1:
        raise click.UsageError("the policy does not name one log address: give --log")
    return urls.pop()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BUNDLE_SIZE + 1)
    if len(data) > MAX_BUNDLE_SIZE:
        raise MalformedError(f"{path}: larger than {MAX_BUNDLE_SIZE} bytes", code="too-large")
    return data


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
