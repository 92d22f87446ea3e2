"""What the operator's commands have in common on the command line."""

from pathlib import Path

import click

FILE = "log.toml"
"""The configuration's name in a log's directory."""

DIR = click.option(
    "--dir",
    "directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The log's directory, with its log.toml.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
