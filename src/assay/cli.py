"""The command line: one program, ``assay``, whose commands live with the parts they belong to.

The roof only finds the command, and turns errors into messages and exit codes: 0 done or verified,
1 refused or unverified, 2 usage, 3 unavailable (try again). Verdicts and results go to stdout, talk to
stderr. A command's part is imported when the command is called, so that a relying party needs no server
packages and a witness no builder.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from assay import __version__
from assay.tlog.errors import InconsistentError, LogError, UnavailableError

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "ask": ("assay.client.cli", "ask", "Ask an enclave, after verifying it; keep the proof"),
    "base": (
        "assay.builder.base_cli",
        "base",
        "Lock the distribution packages that a recipe takes files from",
    ),
    "build": ("assay.builder.cli", "build", "Build an enclave image reproducibly"),
    "demo": ("assay.demo", "demo", "The whole story on this machine, on a simulated platform"),
    "diff": ("assay.builder.diff_cli", "diff", "Explain why two builds differ"),
    "enclave": ("assay.enclave.cli", "enclave", "Run an enclave, or a simulated device for one"),
    "export-bundle": (
        "assay.builder.publish_cli",
        "export_bundle",
        "Write a published release as a Sigstore bundle",
    ),
    "import": (
        "assay.builder.import_cli",
        "import_group",
        "Read and verify SIGSTRUCTs that others published",
    ),
    "keys": ("assay.client.keys", "keys", "Make and show keys"),
    "lint": ("assay.builder.lint_cli", "lint", "Name what weakens a manifest, why, and the fix"),
    "log": ("assay.log_server.cli", "log", "Run a transparency log"),
    "measure": ("assay.builder.cli", "measure", "Recompute an MRENCLAVE; check a SIGSTRUCT against it"),
    "publish": ("assay.builder.publish_cli", "publish", "Publish a build's statements to a log"),
    "rebuild": ("assay.builder.publish_cli", "rebuild", "Rebuild a release and publish the verdict"),
    "verify": ("assay.client.cli", "verify", "Verify a bundle or release offline"),
    "verify-quote": (
        "assay.client.quote_cli",
        "verify_quote",
        "Verify SGX and TDX quotes with their collateral",
    ),
    "witness": ("assay.witness.cli", "witness", "Run a witness that cosigns checkpoints"),
}
"""Command -> module, attribute, and the line that ``assay --help`` shows without importing the module."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is looked up to be run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command.

        Raises:
            click.UsageError: the command's optional packages are not installed.
        """
        if cmd_name not in _COMMANDS:
            return None
        module_name, attribute, _ = _COMMANDS[cmd_name]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("assay"):
                raise
            raise click.UsageError(
                f"'{cmd_name}' needs the Python package {error.name!r}, which is not installed; "
                "install assay-log with the extra of that part (server, witness, builder, enclave)"
            ) from error
        command: click.Command = getattr(module, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="assay")
def cli() -> None:
    """A transparency log for enclave measurements and AI response receipts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no deliberate error leaves a traceback."""
    try:
        result = cli.main(args=None if argv is None else list(argv), prog_name="assay", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except LogError as error:
        return _refuse(error)
    except OSError as error:
        click.echo(f"error[io]: {error}", err=True)
        return EXIT_REFUSED
    return result if isinstance(result, int) else 0


def _refuse(error: LogError) -> int:
    click.echo(f"error[{error.code}]: {error}", err=True)
    if isinstance(error, InconsistentError):
        evidence = {name: value.decode("utf-8", "replace") for name, value in error.evidence.items()}
        click.echo(json.dumps({"evidence": evidence}), err=True)
    return EXIT_UNAVAILABLE if isinstance(error, UnavailableError) else EXIT_REFUSED


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
