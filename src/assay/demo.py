"""The whole story on one machine: ``assay demo``.

Every part runs as a process of its own and speaks over real sockets; every step is an ``assay`` command that a
user could type, and its verdict is the command's own. The platform is simulated and says so. What was made
(keys, log, build, release, policy, bundle) stays in the folder; with ``--keep`` the servers stay up, too.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from assay.fetch import http
from assay.tlog.errors import LogError, MalformedError, UnavailableError

ORIGIN = "log.demo.example"
WITNESSES = ("alpha", "beta")
PROMPT = "In one sentence: why should an AI's answer be logged?"

_MARKER = ".assay-demo"
_START_TIMEOUT_S = 30.0
_COMMAND_TIMEOUT_S = 120.0
_SOURCES = ("tlog", "attest", "fetch", "enclave", "reproducible")
_API_KEY = "ANTHROPIC_API_KEY"
_ANTHROPIC_ROOTS = ("DigiCert Global Root", "GTS Root", "ISRG Root")
"""Names of the system's roots, any of which may have issued for Anthropic's API."""


@dataclass(frozen=True, slots=True)
class Model:
    """Which model answers: the recipe that trusts it, and what to ask for."""

    recipe: str
    product: str
    name: str
    label: str


STANDIN = Model("agent-standin", "assay-agent-standin", "stand-in-1", "a local stand-in: no model runs")
ANTHROPIC = Model("agent-simulated", "assay-agent-simulated", "claude-sonnet-4-5", "Anthropic's Messages API")


class StepFailedError(Exception):
    """A command of the story did not do what the story says."""


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
)
@click.option("--keep", is_flag=True, help="Leave the servers running until interrupted.")
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A checkout of Assay [default: the one that this program runs from].",
)
def demo(folder: Path, keep: bool, source: Path | None) -> int:
    """The whole story on this machine, on a simulated platform."""
    console = Console(highlight=False, soft_wrap=True)
    root = (source or Path(__file__).resolve().parents[2]).resolve()
    if not (root / "reproducible" / STANDIN.recipe / "recipe.toml").is_file():
        raise click.UsageError(f"{root} is no checkout of Assay; name one with --source")
    story = Story(_fresh(folder), root, console, model=ANTHROPIC if os.environ.get(_API_KEY) else STANDIN)
    try:
        story.tell(keep=keep)
    except StepFailedError as error:
        console.print(f"\n[bold red]The story stops here:[/] {error}", markup=True)
        return 1
    finally:
        story.stop()
    return 0


def _fresh(folder: Path) -> Path:
    """An empty folder; one that an earlier demo made is emptied, anything else is refused."""
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise MalformedError(f"{folder} holds something that no demo made", code="exists")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()
    return folder


class Story:
    """The steps, in order, and the processes that they leave running.

    Args:
        folder: where everything is made.
        source: a checkout of Assay.
        console: where the story is told.
        model: who answers.
    """

    def __init__(self, folder: Path, source: Path, console: Console, *, model: Model) -> None:
        self._folder = folder
        self._source = source
        self._console = console
        self._model = model
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = dict(zip((*WITNESSES, "log", "enclave", "model", "pcs"), _free_ports(6), strict=True))
        self._started_s = time.monotonic()
        self._steps = 0

    @property
    def _log_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['log']}"

    def tell(self, *, keep: bool) -> None:
        """Tell it."""
        say = self._console.print
        say("[bold]Assay[/]: from source code to a verified answer, on one machine")
        say(
            "[bold yellow]SIMULATED PLATFORM[/]: no SGX here; a policy must name the simulation's root to accept it"
        )
        say(f"[bold]Model[/]: {self._model.label}")
        for step in (
            self._keys,
            self._device,
            self._servers,
            self._build,
            self._publish,
            self._rebuild,
            self._enclave,
            self._ask,
            self._witness_down,
        ):
            step()
        if keep:
            self._wait()
        self.stop()
        for step in (self._verify_offline, self._refuse_tampered, self._refuse_intel):
            step()
        elapsed_s = time.monotonic() - self._started_s
        say(f"\n[bold green]All of it held[/], in {elapsed_s:.1f} s. What was made is in {self._folder}")
        say(f"  assay verify {self._folder / 'answer.bundle.json'} --policy {self._folder / 'policy.toml'}")

    def stop(self) -> None:
        """Stop every process that still runs."""
        for name in reversed(list(self._processes)):
            self._stop(name)

    # The steps.

    def _keys(self) -> None:
        self._step("Keys: a log, two witnesses, a publisher, a rebuilder")
        for witness in WITNESSES:
            (self._folder / witness).mkdir()
            self._make_key(f"witness-{witness}.demo.example", "witness", f"{witness}/witness.key")
        for who in ("publisher", "rebuilder"):
            self._make_key(f"{who}.demo.example", who, f"{who}.pem")
        made = self._json(
            "log", "init", "log", "--origin", ORIGIN, "--listen", f"127.0.0.1:{self._ports['log']}"
        )
        for witness in WITNESSES:
            self._write_witness(witness, made["vkeys"])
        self._write_log_policy(made["vkeys"])
        self._pass("private keys at mode 0600; the log and the witnesses sign with Ed25519 and ML-DSA-44")

    def _device(self) -> None:
        self._step("A simulated SGX device, with a root of its own")
        self._run("enclave", "simulate-device", "device")
        pcs = f"127.0.0.1:{self._ports['pcs']}"
        self._spawn("pcs", "enclave", "simulated-pcs", "device", "--listen", pcs)
        self._await_port(self._ports["pcs"])
        with (self._folder / "log" / "log.toml").open("a") as file:
            file.write(
                '\n[witnesses]\npolicy = "../log-policy.txt"\nretry_interval_s = 0.2\n'
                '\n[[admission.roots]]\nname = "simulated"\n'
                f'certificate = "../device/root.pem"\n[admission.roots.pcs]\nurl = "http://{pcs}"\n'
            )
        self._write_policy("policy.toml", root='"device/root.pem"')
        self._write_policy("policy-intel.toml", root='"intel"')
        self._pass(
            "the log admits its quotes because the operator named its root, and labels them 'simulated'; collateral it "
            "fetches from the device's provisioning service"
        )

    def _servers(self) -> None:
        self._step("Servers: two witnesses and the log")
        for witness in WITNESSES:
            self._start_witness(witness)
        self._spawn("log", "log", "serve", "--dir", "log")
        self._await(f"{self._log_url}/checkpoint")
        self._pass(f"the log is at {self._log_url}/ and its first checkpoint is cosigned by both witnesses")

    def _build(self) -> None:
        self._step(f"Build the enclave: assay build reproducible/{self._model.recipe}")
        arguments = ["--out", "build", "--log-policy", "log-policy.txt"]
        if self._model is ANTHROPIC:
            (self._folder / "model-ca.pem").write_text(_anthropic_roots())
            arguments += ["--ca", "model-ca.pem"]
        built = self._json("build", str(self._source / "reproducible" / self._model.recipe), *arguments)
        measured = self._json(
            "measure", "--manifest", f"build/{self._model.recipe}.manifest.sgx", "--libpal", "build/libpal.so"
        )
        self._require(measured["mr_enclave"] == built["mr_enclave"], "measure and build disagree")
        self._pass(f"MRENCLAVE {built['mr_enclave']}")

    def _publish(self) -> None:
        self._step("Publish it: the release and how it was built, into the log")
        published = self._json("publish", "build", "--key", "publisher.pem", *self._log_options())
        self._pass(f"entries {published['index']} and {published['provenance_index']}, witnessed and checked")

    def _rebuild(self) -> None:
        self._step("Rebuild it elsewhere, with another key, from the release file alone")
        checkout = self._folder / "stranger" / "checkout"
        for name in _SOURCES:
            shutil.copytree(
                self._source / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        (checkout / "src" / "assay").mkdir(parents=True)
        shutil.copy(self._source / "src" / "assay" / "__init__.py", checkout / "src" / "assay")
        arguments = ("build.release.json", "--source", str(checkout), "--key", "rebuilder.pem")
        rebuilt = self._json("rebuild", *arguments, "--save", "rebuilt.release.json", *self._log_options())
        self._require(rebuilt["verdict"] == "REPRODUCED", f"the verdict is {rebuilt['verdict']}")
        self._json("verify", "rebuilt.release.json", "--policy", "policy.toml")
        self._pass(f"REPRODUCED, entry {rebuilt['index']}: the same MRENCLAVE, byte for byte")

    def _enclave(self) -> None:
        self._step("Start the enclave: it makes and seals its key, gets a quote, registers in the log")
        arguments = ["run", "build", "--runtime", "simulated", "--log", self._log_url, "--json"]
        arguments += [
            "--state",
            "state",
            "--device",
            "device",
            "--listen",
            f"127.0.0.1:{self._ports['enclave']}",
        ]
        if self._model is STANDIN:
            address = f"127.0.0.1:{self._ports['model']}"
            self._spawn("model", "enclave", "standin-llm", "--listen", address)
            self._await_port(self._ports["model"])
            arguments += ["--llm-address", address]
        self._spawn("enclave", "enclave", *arguments)
        self._until(lambda: (self._folder / "enclave.out").read_text().endswith("\n"), "the enclave")
        report = json.loads((self._folder / "enclave.out").read_text())
        self._pass(
            f"enclave {report['enclave_id'][:16]}…, registered as entry {report['registration']['index']}"
        )

    def _ask(self) -> None:
        self._step("Ask it: verify quote, release and rebuild first, then seal the prompt")
        asked = self._json(
            *("ask", PROMPT, "--policy", "policy.toml", "--log", self._log_url, "--model", self._model.name),
            *("--connect", f"127.0.0.1:{self._ports['enclave']}", "--save", "answer.bundle.json"),
        )
        self._console.print(f"      [italic]{PROMPT}[/]")
        self._console.print(f"      {asked['result']}", markup=False)
        self._verdict(asked)

    def _witness_down(self) -> None:
        self._step("Stop one witness of two: the log keeps the entry, but no quorum vouches for it")
        self._stop(WITNESSES[1])
        entry = self._log_entry(0)
        state = http.request(
            "POST",
            f"{self._log_url}/api/v1/entries?wait=witnessed",
            body=entry,
            timeout_s=20,
            max_bytes=1 << 20,
        )
        self._require(state.status == 200, "an entry that was witnessed before stays witnessed")
        code, text = self._try(
            *(
                "publish",
                "build",
                "--key",
                "rebuilder.pem",
                "--out",
                "other.release.json",
                *self._log_options(),
            )
        )
        self._require(code == 3 and "quorum-unavailable" in text, f"exit {code}: {text}")
        self._pass("503 quorum-unavailable (exit 3): in the log, not witnessed; a retry will succeed")
        self._start_witness(WITNESSES[1])
        code, text = self._try(
            *(
                "publish",
                "build",
                "--key",
                "rebuilder.pem",
                "--out",
                "other.release.json",
                *self._log_options(),
            )
        )
        self._require(code == 0, f"exit {code}: {text}")
        self._pass("the witness is back, and the same command finishes")

    def _verify_offline(self) -> None:
        self._step("Everything is stopped. Verify the saved bundle offline")
        self._verdict(self._json("verify", "answer.bundle.json", "--policy", "policy.toml"))

    def _refuse_tampered(self) -> None:
        self._step("Change one byte of the bundle")
        data = (self._folder / "answer.bundle.json").read_bytes()
        at = data.index(b'"value":"') + len(b'"value":"') + 3
        changed = data[:at] + (b"Q" if data[at : at + 1] != b"Q" else b"R") + data[at + 1 :]
        (self._folder / "tampered.bundle.json").write_bytes(changed)
        self._refused("tampered.bundle.json", "policy.toml")

    def _refuse_intel(self) -> None:
        self._step("Judge the untouched bundle by a policy that trusts Intel only")
        self._refused("answer.bundle.json", "policy-intel.toml")

    # What the steps are made of.

    def _step(self, title: str) -> None:
        self._steps += 1
        elapsed_s = time.monotonic() - self._started_s
        self._console.print(f"\n[bold]{self._steps:2}. {title}[/]  [dim]{elapsed_s:.1f} s[/]")

    def _pass(self, text: str) -> None:
        self._console.print(f"    [green]✓[/] {text}")

    def _require(self, condition: bool, text: str) -> None:
        if not condition:
            raise StepFailedError(text)

    def _verdict(self, verdict: dict[str, Any]) -> None:
        """Show a verdict's checks as the command gave them."""
        marks = {"pass": "[green]✓[/]", "fail": "[red]✗[/]", "not-checked": "[dim]–[/]"}
        for check in verdict["checks"]:
            detail = str(check["detail"]).replace("[", "\\[")
            self._console.print(f"    {marks[check['result']]} {check['name']}: [dim]{detail}[/]")
        self._require(verdict["verified"] is True, "not verified")
        self._console.print(
            f"    [bold green]verified[/] on a platform of kind [bold]{verdict['platform']}[/]"
        )

    def _refused(self, bundle: str, policy: str) -> None:
        code, text = self._try("verify", bundle, "--policy", policy, "--json")
        self._require(code == 1, f"exit {code} for {bundle}")
        failed = [check for check in json.loads(text)["checks"] if check["result"] == "fail"]
        self._require(bool(failed), "no check names what is wrong")
        names = ", ".join(f"{check['name']} ({check['detail']})" for check in failed)
        self._console.print("    [green]✓[/] refused, exit 1: ", end="")
        self._console.print(names, markup=False)

    def _make_key(self, name: str, kind: str, path: str) -> None:
        self._run("keys", "new", name, "--kind", kind, "--out", path)

    def _log_options(self) -> tuple[str, ...]:
        return ("--log", self._log_url, "--policy", "policy.toml", "--json")

    def _log_entry(self, index: int) -> bytes:
        response = http.request(
            "GET", f"{self._log_url}/api/v1/entries/{index}", timeout_s=10, max_bytes=1 << 20
        )
        return base64.b64decode(json.loads(response.body)["leaf"])

    def _write_witness(self, witness: str, log_vkeys: Sequence[str]) -> None:
        folder = self._folder / witness
        (folder / "logs.txt").write_text("".join(f"{vkey}\n" for vkey in log_vkeys))
        (folder / "witness.toml").write_text(
            f'listen = "127.0.0.1:{self._ports[witness]}"\n'
            'key = "witness.key"\nstate = "witness.db"\nlogs = "logs.txt"\n'
        )

    def _write_log_policy(self, log_vkeys: Sequence[str]) -> None:
        lines = [f"log {vkey} {self._log_url}" for vkey in log_vkeys]
        for witness in WITNESSES:
            shown = self._json("keys", "show", f"{witness}/witness.key")
            names = [f"{witness}-{kind}" for kind in ("ed25519", "mldsa44")]
            url = f"http://127.0.0.1:{self._ports[witness]}"
            lines += [
                f"witness {name} {vkey} {url}" for name, vkey in zip(names, shown["vkeys"], strict=True)
            ]
            lines.append(f"group {witness} any {' '.join(names)}")
        lines += [f"group both all {' '.join(WITNESSES)}", "quorum both"]
        (self._folder / "log-policy.txt").write_text("\n".join(lines) + "\n")

    def _write_policy(self, name: str, *, root: str) -> None:
        (self._folder / name).write_text(
            "# Whom a relying party of the demo trusts. Nothing here is a default of Assay.\n"
            '[log]\npolicy = "log-policy.txt"\n\n'
            f'[publishers."{self._model.product}"]\nthreshold = 1\nkeys = ["publisher.pem.pub"]\n\n'
            '[rebuilders]\nthreshold = 1\nkeys = ["rebuilder.pem.pub"]\n\n'
            "[revokers]\nkeys = []\n\n"
            f"[quotes]\nroot = {root}\n"
            'tcb_status = ["UpToDate"]\nmin_evaluation_number = 1\n\n[quotes.advisories]\n\n'
            "[freshness]\nregistration_max_age_s = 86400\ncollateral_max_age_s = 2592000\n"
            "checkpoint_max_age_s = 300\nnonce_required = true\nannouncement_delay_s = 0\n"
        )

    # Commands and processes.

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "assay.cli", *arguments]

    def _try(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end: its exit code, and what it printed (errors, if it printed nothing else)."""
        result = subprocess.run(
            self._command(*arguments),
            cwd=self._folder,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        text = result.stdout if result.stdout.strip() else result.stderr
        return result.returncode, text.decode("utf-8", "replace").strip()

    def _run(self, *arguments: str) -> str:
        code, text = self._try(*arguments)
        self._require(code == 0, f"assay {' '.join(arguments)}: exit {code}\n{text}")
        return text

    def _json(self, *arguments: str) -> dict[str, Any]:
        text = self._run(*arguments, *(() if "--json" in arguments else ("--json",)))
        value: dict[str, Any] = json.loads(text)
        return value

    def _spawn(self, name: str, *arguments: str) -> None:
        with (
            (self._folder / f"{name}.out").open("wb") as out,
            (self._folder / f"{name}.err").open("wb") as err,
        ):
            self._processes[name] = subprocess.Popen(
                self._command(*arguments), cwd=self._folder, stdout=out, stderr=err, start_new_session=True
            )

    def _start_witness(self, witness: str) -> None:
        self._spawn(witness, "witness", "serve", "--config", f"{witness}/witness.toml")
        self._await(f"http://127.0.0.1:{self._ports[witness]}/livez")

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _await(self, url: str) -> None:
        def answers() -> bool:
            return http.request("GET", url, timeout_s=5, max_bytes=1 << 20).status == 200

        self._until(answers, url)

    def _await_port(self, port: int) -> None:
        def listens() -> bool:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True

        self._until(listens, f"port {port}")

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, UnavailableError, LogError):
                if ready():
                    return
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise StepFailedError(
                        f"{name} ended: {(self._folder / f'{name}.err').read_text()[-2000:]}"
                    )
            time.sleep(0.05)
        raise StepFailedError(f"{what} does not answer")

    def _wait(self) -> None:
        self._console.print(f"\nThe servers stay up: {self._log_url}/ shows the log. Press Ctrl-C to go on.")
        with contextlib.suppress(KeyboardInterrupt):
            self._sleep()

    def _sleep(self) -> NoReturn:
        while True:
            time.sleep(3600)


def _free_ports(count: int) -> Iterator[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        ports = [each.getsockname()[1] for each in sockets]
    yield from ports


def _anthropic_roots() -> str:
    """The system's roots that may have issued for Anthropic's API, as PEM: a small, measured CA bundle."""
    context = ssl.create_default_context()
    parsed: list[Any] = list(context.get_ca_certs())
    chosen = []
    for der, certificate in zip(context.get_ca_certs(binary_form=True), parsed, strict=True):
        names = [value for part in certificate["subject"] for _, value in part]
        if any(name.startswith(_ANTHROPIC_ROOTS) for name in names):
            chosen.append(ssl.DER_cert_to_PEM_cert(der))
    if not chosen:
        raise StepFailedError("the system has no roots that Anthropic's API could be verified with")
    return "".join(chosen)
