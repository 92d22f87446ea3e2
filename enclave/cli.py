"""``assay enclave``: run an agent; make a simulated device; run the stand-in model."""

import json
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from assay.attest.channel import DEFAULT_PORT
from assay.enclave import run as running
from assay.enclave import simulated_device
from assay.enclave.config import HostInputs
from assay.enclave.run import Runtime
from assay.enclave.simulated_pcs import PcsServer
from assay.enclave.standin_llm import HOST, StandinServer
from assay.tlog.errors import MalformedError

_API_KEY = "ANTHROPIC_API_KEY"


@click.group()
def enclave() -> None:
    """Run an enclave, or a simulated device for one."""


@enclave.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--runtime", type=click.Choice([str(each) for each in Runtime]), default="auto", show_default=True
)
@click.option("--log", "log_url", required=True, help="The log's address.")
@click.option(
    "--listen", default=f"127.0.0.1:{DEFAULT_PORT}", show_default=True, help="HOST:PORT to serve on."
)
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), required=True, help="Sealed state."
)
@click.option(
    "--device", type=click.Path(path_type=Path, file_okay=False), help="The simulated device's folder."
)
@click.option("--llm-address", help="HOST:PORT of the model's API, if not its name's port 443.")
@click.option("--region", default="", help="Where this host says it is.")
@click.option("--json", "as_json", is_flag=True, help="Print the agent's report as JSON.")
def run(
    directory: Path,
    runtime: str,
    log_url: str,
    listen: str,
    state: Path,
    device: Path | None,
    llm_address: str | None,
    region: str,
    as_json: bool,
) -> int:
    """Run the agent of the build in DIR until stopped.

    The model's API key is taken from ANTHROPIC_API_KEY and handed to the agent; nothing else of the
    environment reaches it. 'auto' means SGX, and never a simulation.
    """
    chosen = running.choose(Runtime(runtime))
    build = running.read_build(directory.resolve())
    inputs = HostInputs(
        listen=listen,
        log_url=log_url,
        llm_address=llm_address,
        api_key=os.environ.get(_API_KEY, ""),
        region=region,
        state_dir=state.resolve(),
        device=None,
        packages=None,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    return running.launch(
        build, chosen, inputs, device=device, ready=lambda report: _report(report, chosen, as_json=as_json)
    )


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(report: dict[str, Any], runtime: Runtime, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**report, "runtime": str(runtime)}))
        return
    if runtime is Runtime.SIMULATED:
        click.secho("SIMULATED PLATFORM: no SGX protects this enclave", fg="yellow", bold=True, err=True)
    click.echo(f"enclave {report['enclave_id']} on {report['listen']}")
    click.echo(f"MRENCLAVE {report['mr_enclave']}")
    click.echo(f"registered in the log as entry {report['registration']['index']}")


@enclave.command("simulate-device")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--renew", is_flag=True, help="Issue fresh collateral for a device that is there.")
def simulate_device(directory: Path, renew: bool) -> None:
    """Make a simulated SGX device in DIR: a seed, its root certificate, its collateral."""
    now_s = int(time.time())
    if renew:
        click.echo(f"renewed {simulated_device.renew_collateral(directory, now_s=now_s)}")
        return
    if (directory / "seed").exists():
        raise MalformedError(
            f"{directory}: there is a device already; --renew renews its collateral", code="exists"
        )
    simulated_device.create_device(directory, now_s=now_s)
    click.echo(f"made a simulated device in {directory}; its root is {directory / 'root.pem'}")
    click.secho("A policy must name that root before anyone accepts its quotes.", err=True)


@enclave.command("simulated-pcs")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--listen", default="127.0.0.1:8091", show_default=True, help="HOST:PORT to serve on.")
def simulated_pcs(directory: Path, listen: str) -> None:
    """Serve the collateral of the simulated device in DIR as Intel's service and its caches do (PCS v4)."""
    host, port = _address(listen)
    with PcsServer((host, port), simulated_device.open_pcs(directory)) as server:
        click.echo(f"simulated provisioning service on http://{host}:{server.server_port}", err=True)
        server.serve_forever()


@enclave.command("standin-llm")
@click.option("--listen", default="127.0.0.1:7443", show_default=True, help="HOST:PORT to serve on.")
def standin_llm(listen: str) -> None:
    """Run the stand-in model: the Messages API over HTTPS, and no model behind it."""
    host, port = _address(listen)
    with StandinServer((host, port)) as server:
        click.echo(f"stand-in LLM {HOST} on {host}:{server.server_port}: no model runs here", err=True)
        server.serve_forever()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.UsageError(f"{listen!r} is not HOST:PORT")
    return host, int(port)
