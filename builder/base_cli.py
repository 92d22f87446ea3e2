"""``assay base``: make the lock of a recipe's base layer from its packages."""

import hashlib
import json
import re
from pathlib import Path

import click
from rich.console import Console

from assay.builder.base import Layer, add_libraries, derive
from assay.builder.base_lock import SNAPSHOT, BaseLock, BaseSpec, parse_base_lock
from assay.builder.base_pool import read_pool
from assay.builder.progress import Bar, bar_on
from assay.builder.recipe import LOCK_FILE, RECIPE_FILE, load_base_spec
from assay.tlog.errors import MalformedError, UnavailableError

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_PIN = re.compile(r'^\[base\]\nsha256 = "[0-9a-f]{64}"$', re.MULTILINE)


@click.group()
def base() -> None:
    """The base layer of a recipe: the files that it takes from distribution packages."""


@base.command()
@click.argument("recipe_dir", type=_FOLDER)
@click.option("--pool", type=_FOLDER, required=True, help="A folder with the packages (.deb).")
@click.option(
    "--snapshot",
    required=True,
    help="The moment of the archive that serves them, as Debian's snapshot archive writes it: 20261120T000000Z.",
)
@click.option(
    "--without-gramine", is_flag=True, help="Leave Gramine's package out: no build until it is added."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def lock(recipe_dir: Path, pool: Path, snapshot: str, without_gramine: bool, as_json: bool) -> None:
    """Write the lock of RECIPE_DIR's base layer, and pin it in its recipe.lock.

    Nothing in the lock is written by hand: packages, files, digests and sizes are what the packages of the pool have.
    """
    spec = _spec(recipe_dir)
    if not SNAPSHOT.fullmatch(snapshot):
        raise click.UsageError("--snapshot: not of the form 20261120T000000Z")
    bar = bar_on(Console(stderr=True, highlight=False))
    layer = make_layer(spec, pool, snapshot=snapshot, without_gramine=without_gramine, bar=bar)
    write_lock(recipe_dir, spec, layer.lock)
    _print(recipe_dir, spec, layer.lock, as_json=as_json)


@base.command("add-gramine")
@click.argument("recipe_dir", type=_FOLDER)
@click.argument("package", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def add_gramine(recipe_dir: Path, package: Path, as_json: bool) -> None:
    """Add Gramine's PACKAGE (.deb) to the lock of RECIPE_DIR's base layer, whose other packages are not needed."""
    spec = _spec(recipe_dir)
    data = (recipe_dir / spec.lock).read_bytes()
    added = add_libraries(
        spec, parse_base_lock(data, what=spec.lock), file=package.name, data=package.read_bytes()
    )
    write_lock(recipe_dir, spec, added)
    _print(recipe_dir, spec, added, as_json=as_json)


commands: list[click.Command] = [base]
"""What this module adds to the program."""


def make_layer(spec: BaseSpec, pool: Path, *, snapshot: str, without_gramine: bool, bar: Bar) -> Layer:
    """Make a layer from a folder of packages.

    Raises:
        UnavailableError: a package that the recipe takes files from is not there (code ``package-missing``).
        MalformedError, UntrustedError: see :func:`~assay.builder.base_pool.read_pool` and
            :func:`~assay.builder.base.derive`.
    """
    with bar("packages", len(spec.packages)) as advance:
        packages = read_pool(pool, spec, progress=advance)
    only_libraries = {origin.package for origin in spec.libraries.values()} if without_gramine else set()
    for name in only_libraries:
        packages.pop(name, None)
    if missing := sorted(spec.packages.keys() - packages.keys() - only_libraries):
        raise UnavailableError(f"{pool}: no package {', '.join(missing)}", code="package-missing")
    return derive(spec, packages, snapshot=snapshot)


def write_lock(recipe_dir: Path, spec: BaseSpec, lock: BaseLock) -> None:
    """Write a lock beside its recipe, and its digest into ``recipe.lock``.

    Raises:
        OSError: ``recipe.lock`` cannot be read, or one of both not written.
    """
    path = recipe_dir / LOCK_FILE
    data = lock.to_bytes()
    pin = f'[base]\nsha256 = "{hashlib.sha256(data).hexdigest()}"'
    text = path.read_text(encoding="utf-8")
    pinned = _PIN.sub(pin, text) if _PIN.search(text) else _before_arrays(text, pin)
    (recipe_dir / spec.lock).write_bytes(data)
    path.write_text(pinned, encoding="utf-8")


def _spec(recipe_dir: Path) -> BaseSpec:
    spec = load_base_spec((recipe_dir / RECIPE_FILE).read_bytes())
    if spec is None:
        raise MalformedError(f"{recipe_dir}: the recipe has no [base]", code="no-base")
    return spec


def _print(recipe_dir: Path, spec: BaseSpec, lock: BaseLock, *, as_json: bool) -> None:
    result = {
        "lock": str(recipe_dir / spec.lock),
        "sha256": lock.sha256.hex(),
        "packages": len(lock.packages),
        "files": len(lock.files),
        "members": len(lock.members),
        "gramine": bool(lock.libraries),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(f"{name:15} {value}")


def _before_arrays(text: str, pin: str) -> str:
    """Insert a table before the first ``[[wheel]]``, or at the end."""
    at = text.find("\n[[")
    head, rest = (text, "") if at < 0 else (text[: at + 1], text[at + 1 :])
    return f"{head.rstrip()}\n\n{pin}\n" + (f"\n{rest}" if rest else "")
