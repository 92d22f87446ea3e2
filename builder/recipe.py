"""A recipe: ``recipe.toml`` says what goes into an enclave, ``recipe.lock`` pins what comes from elsewhere.

Everything that decides the measurement is in these two files, in the files of the recipe's folder that they
name, in the source folder and in the two inputs (the log policy and the CA bundle). A recipe never looks at
what is installed, and no environment variable changes a build: the epoch stands in the recipe.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assay.attest.gramine.layout import check_version
from assay.builder.tables import Table, parse_toml
from assay.builder.tree import check_path
from assay.builder.unpack import normalized
from assay.tlog.errors import MalformedError

RECIPE_FILE = "recipe.toml"
LOCK_FILE = "recipe.lock"
INPUTS = ("ca", "log_policy")

_REQUIRED = (
    *("format", "name", "product", "release", "gramine_version", "epoch_s"),
    *("enclave", "process", "sources", "inputs", "wheels_target"),
)

NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?")
"""What a recipe, and so a build's manifest file, may be called."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
_WHEEL_FILE = re.compile(r"[0-9A-Za-z_.!+-]+\.whl")
_MAX_EPOCH_S = 2**33 - 1  # what the octal mtime field of a tar header holds


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file of the recipe's folder, pinned."""

    file: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """One wheel of one package, pinned."""

    name: str
    version: str
    file: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Lock:
    """``recipe.lock``: Gramine's two libraries and every wheel; ``sha256`` is of the lock's own bytes."""

    libpal: LockedFile
    libsysdb: LockedFile
    wheels: tuple[LockedWheel, ...]
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """A file or folder ``source`` that goes to ``target`` in the tree."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class EnclaveSpec:
    """The options of the manifest's ``[sgx]``, in the manifest's spelling."""

    size: str
    threads: int
    edmm: bool
    use_exinfo: bool
    isv_prod_id: int
    isv_svn: int
    cpu_features: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What runs inside: entry point, arguments, environment and mounts, in the manifest's spelling."""

    entrypoint: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A parsed recipe.

    Attributes:
        name: names the manifest file.
        sources: files and folders of the source root; of folders only ``*.py`` is taken.
        exclude: what is not taken from them: a path, a path ending in ``/`` (a folder), or a bare file name.
        files: files of the recipe's folder.
        inputs: where the log policy and the CA bundle go in the tree.
        wheels_target: the folder of the tree that wheels are unpacked into.
        allow: rule of the linter -> why its findings are allowed.
        sha256: of ``recipe.toml``.
    """

    name: str
    product: str
    release: str
    gramine_version: str
    epoch_s: int
    enclave: EnclaveSpec
    process: ProcessSpec
    sources: tuple[Copy, ...]
    exclude: tuple[str, ...]
    files: tuple[Copy, ...]
    inputs: Mapping[str, str]
    wheels_target: str
    allow: Mapping[str, str]
    lock: Lock
    sha256: bytes


def load_recipe(folder: Path) -> Recipe:
    """Read the recipe in a folder.

    Raises:
        MalformedError: see :func:`parse_recipe`.
        OSError: one of its two files cannot be read.
    """
    return parse_recipe((folder / RECIPE_FILE).read_bytes(), (folder / LOCK_FILE).read_bytes())


def parse_recipe(recipe: bytes, lock: bytes) -> Recipe:
    """Parse both files of a recipe.

    Raises:
        MalformedError: not TOML, an unknown or missing key, a value of another type or form, a path that leaves its
            folder, or a lock with two wheels for one package.
    """
    table = parse_toml(
        recipe,
        what=RECIPE_FILE,
        required=_REQUIRED,
        optional=("allow", "exclude", "files"),
    )
    _check_format(table)
    return Recipe(
        name=_matching(table, "name", NAME),
        product=_matching(table, "product", NAME),
        release=_matching(table, "release", _VERSION),
        gramine_version=check_version(table.text("gramine_version")),
        epoch_s=table.integer("epoch_s", low=1, high=_MAX_EPOCH_S),
        enclave=_parse_enclave(table),
        process=_parse_process(table),
        sources=_parse_copies(table, "sources"),
        exclude=tuple(_exclusion(entry) for entry in table.texts("exclude")),
        files=_parse_copies(table, "files"),
        inputs=_parse_inputs(table),
        wheels_target=_path(table, "wheels_target"),
        allow=_parse_allow(table),
        lock=parse_lock(lock),
        sha256=hashlib.sha256(recipe).digest(),
    )


def parse_lock(data: bytes) -> Lock:
    """Parse ``recipe.lock``.

    Raises:
        MalformedError: see :func:`parse_recipe`.
    """
    table = parse_toml(data, what=LOCK_FILE, required=("format", "libpal", "libsysdb"), optional=("wheel",))
    _check_format(table)
    wheels = tuple(
        LockedWheel(
            name=_wheel_name(item),
            version=_matching(item, "version", _VERSION),
            file=_matching(item, "file", _WHEEL_FILE),
            sha256=item.sha256("sha256"),
        )
        for item in table.tables("wheel", required=("name", "version", "file", "sha256"))
    )
    if len({wheel.name for wheel in wheels}) != len(wheels):
        raise MalformedError(f"{LOCK_FILE}: two wheels for one package")
    return Lock(
        _parse_locked_file(table, "libpal"),
        _parse_locked_file(table, "libsysdb"),
        wheels,
        hashlib.sha256(data).digest(),
    )


def _wheel_name(item: Table) -> str:
    name = item.text("name")
    if normalized(name) != name or not NAME.fullmatch(name):
        raise MalformedError(f"{item.name('name')}: not a normalized package name")
    return name


def _parse_locked_file(table: Table, key: str) -> LockedFile:
    member = Table(table.value(key), what=table.name(key), required=("file", "sha256"))
    return LockedFile(_path(member, "file"), member.sha256("sha256"))


def _parse_enclave(table: Table) -> EnclaveSpec:
    enclave = Table(
        table.value("enclave"),
        what=table.name("enclave"),
        required=("size", "threads", "edmm", "use_exinfo", "isv_prod_id", "isv_svn", "cpu_features"),
    )
    features = enclave.text_map("cpu_features")
    if set(features) != {"avx", "avx512", "amx", "mpx", "pkru"}:
        raise MalformedError(f"{enclave.name('cpu_features')}: must say avx, avx512, amx, mpx and pkru")
    return EnclaveSpec(
        size=enclave.text("size"),
        threads=enclave.integer("threads", low=1, high=4096),
        edmm=enclave.boolean("edmm"),
        use_exinfo=enclave.boolean("use_exinfo"),
        isv_prod_id=enclave.integer("isv_prod_id", low=0, high=65535),
        isv_svn=enclave.integer("isv_svn", low=0, high=65535),
        cpu_features=features,
    )


def _parse_process(table: Table) -> ProcessSpec:
    process = Table(
        table.value("process"),
        what=table.name("process"),
        required=("entrypoint", "argv", "env", "mounts"),
    )
    mounts = process.tables("mounts", required=("path", "uri"), optional=("type", "key_name"))
    return ProcessSpec(
        entrypoint=process.text("entrypoint"),
        argv=process.texts("argv"),
        env=process.text_map("env"),
        mounts=tuple(mount.texts_of("type", "path", "uri", "key_name") for mount in mounts),
    )


def _parse_copies(table: Table, key: str) -> tuple[Copy, ...]:
    items = table.tables(key, required=("from", "to"))
    return tuple(Copy(_path(item, "from"), _path(item, "to")) for item in items)


def _parse_inputs(table: Table) -> dict[str, str]:
    inputs = Table(table.value("inputs"), what=table.name("inputs"), required=INPUTS)
    return {name: _path(inputs, name) for name in INPUTS}


def _parse_allow(table: Table) -> dict[str, str]:
    items = table.tables("allow", required=("rule", "reason"))
    allow = {item.text("rule"): item.text("reason") for item in items}
    if len(allow) != len(items):
        raise MalformedError(f"{table.name('allow')}: a rule stands there twice")
    return allow


def _exclusion(entry: str) -> str:
    check_path(entry.removesuffix("/"), what=f"{RECIPE_FILE}.exclude")
    return entry


def _path(table: Table, key: str) -> str:
    return check_path(table.text(key), what=table.name(key))


def _matching(table: Table, key: str, pattern: re.Pattern[str]) -> str:
    value = table.text(key)
    if not pattern.fullmatch(value):
        raise MalformedError(f"{table.name(key)}: {value[:64]!r} has another form")
    return value


def _check_format(table: Table) -> None:
    table.integer("format", low=1, high=1)
