"""What goes into the tree: the recipe's choice of source files, its own files, the inputs and the wheels."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from assay.builder import tree
from assay.builder.recipe import LockedFile, LockedWheel, Recipe
from assay.builder.unpack import unpack_wheel
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

MAX_INPUT_SIZE = 16_384
"""Both inputs travel as text in the release's provenance, which must fit into one leaf of the log."""

_SOURCE_SUFFIX = ".py"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a build is given besides its recipe: the policy of the log to be trusted, and the CA bundle (PEM)."""

    log_policy: bytes
    ca: bytes

    def texts(self) -> dict[str, str]:
        """Both as text by their names in the recipe.

        Raises:
            MalformedError: too large, empty or not UTF-8, a CA bundle without certificates, or with a private key.
        """
        texts = {"ca": _input_text(self.ca, what="CA bundle")}
        if "PRIVATE KEY" in texts["ca"]:
            raise MalformedError(
                "CA bundle: it holds a private key, and would be published", code="private-key"
            )
        try:
            x509.load_pem_x509_certificates(self.ca)
        except ValueError as error:
            raise MalformedError("CA bundle: no PEM certificates") from error
        texts["log_policy"] = _input_text(self.log_policy, what="log policy")
        return texts


def source_files(recipe: Recipe, root: Path) -> dict[str, bytes]:
    """The measured files of the source root: path relative to the root -> content, depth first.

    Of the folders that the recipe names, every ``*.py`` is taken that is not excluded.

    Raises:
        MalformedError: a link or special file among them, a folder without any source, or an excluded path that does
            not exist, which may be a slip that lets the file in.
        OSError: a file that the recipe names is missing or cannot be read.
    """
    for entry in recipe.exclude:
        if "/" in entry and not (root / entry).exists():
            raise MalformedError(
                f"recipe.toml: excludes {entry}, which does not exist", code="exclude-missing"
            )
    found: dict[str, bytes] = {}
    for copy in recipe.sources:
        found |= _below(root, copy.source, recipe.exclude)
    return {path: found[path] for path in tree.depth_first(found)}


def compose(
    recipe: Recipe,
    sources: Mapping[str, bytes],
    inputs: Inputs,
    *,
    recipe_folder: Path,
    wheels: Mapping[LockedWheel, bytes],
) -> dict[str, bytes]:
    """The whole tree of a recipe.

    Args:
        recipe: says what goes where.
        sources: from :func:`source_files`.
        inputs: the log policy and the CA bundle.
        recipe_folder: holds the files that the recipe adds.
        wheels: every wheel of the lock, its digest checked.

    Raises:
        MalformedError: see :func:`assay.builder.tree.merge` and :func:`assay.builder.unpack.unpack_wheel`.
        UntrustedError: a wheel contradicts its RECORD.
        OSError: a file of the recipe cannot be read.
    """
    parts: list[tree.Files] = [_placed(sources, copy.source, copy.target) for copy in recipe.sources]
    parts += [{copy.target: (recipe_folder / copy.source).read_bytes()} for copy in recipe.files]
    parts += [{recipe.inputs[name]: text.encode()} for name, text in inputs.texts().items()]
    for wheel in recipe.lock.wheels:
        unpacked = unpack_wheel(wheels[wheel], name=wheel.name, version=wheel.version)
        parts.append({f"{recipe.wheels_target}/{path}": data for path, data in unpacked.items()})
    return tree.merge(parts)


def read_locked(folder: Path, locked: LockedFile) -> bytes:
    """Read a pinned file of the recipe's folder.

    Raises:
        UntrustedError: another digest (code ``lock-mismatch``).
        OSError: it cannot be read.
    """
    data = (folder / locked.file).read_bytes()
    if hashlib.sha256(data).digest() != locked.sha256:
        raise UntrustedError(f"{locked.file}: another SHA-256 than in recipe.lock", code="lock-mismatch")
    return data


def _below(root: Path, source: str, exclude: tuple[str, ...]) -> dict[str, bytes]:
    path = root / source
    if path.is_symlink() or not path.is_dir():
        return {source: tree.check_regular(path).read_bytes()}
    files = {
        name: (path / inner).read_bytes()
        for inner in tree.list_files(path)
        if inner.endswith(_SOURCE_SUFFIX) and not tree.is_excluded(name := f"{source}/{inner}", exclude)
    }
    if not files:
        raise MalformedError(f"recipe.toml: no source files in {source}", code="source-missing")
    return files


def _placed(sources: Mapping[str, bytes], source: str, target: str) -> dict[str, bytes]:
    if source in sources:
        return {target: sources[source]}
    return {
        target + path[len(source) :]: data for path, data in sources.items() if path.startswith(source + "/")
    }


def _input_text(data: bytes, *, what: str) -> str:
    if not data or len(data) > MAX_INPUT_SIZE:
        raise MalformedError(f"{what}: {len(data)} bytes, not 1 to {MAX_INPUT_SIZE}", code="too-large")
    text = strict.utf8_text(data, what=what)
    if "\0" in text:
        raise MalformedError(f"{what}: a NUL byte")
    return text
