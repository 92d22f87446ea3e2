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
from assay.builder.base_lock import LIBRARIES, BaseLock, BaseSpec, parse_base_lock, parse_base_spec
from assay.builder.tables import Table, parse_toml
from assay.builder.tree import check_path
from assay.builder.unpack import normalized
from assay.tlog.errors import MalformedError, UntrustedError

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
    """``recipe.lock``; ``sha256`` is of the lock's own bytes.

    Attributes:
        libraries: ``libpal`` and ``libsysdb``, Gramine's; empty if they are from a package of the base layer.
        wheels: every wheel.
        base_sha256: of the base layer's lock, or None without a base layer.
    """

    libraries: Mapping[str, LockedFile]
    wheels: tuple[LockedWheel, ...]
    base_sha256: bytes | None
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
        base: what the base layer takes from packages, or None.
        base_lock: the base layer's lock, or None.
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
    base: BaseSpec | None
    base_lock: BaseLock | None
    lock: Lock
    sha256: bytes


def load_recipe(folder: Path) -> Recipe:
    """Read the recipe in a folder.

    Raises:
        MalformedError, UntrustedError: see :func:`parse_recipe`.
        OSError: one of its files cannot be read.
    """
    recipe = (folder / RECIPE_FILE).read_bytes()
    base = load_base_spec(recipe)
    path = None if base is None else folder / base.lock
    base_lock = path.read_bytes() if path is not None and path.exists() else None
    return parse_recipe(recipe, (folder / LOCK_FILE).read_bytes(), base_lock)


def load_base_spec(recipe: bytes) -> BaseSpec | None:
    """Parse ``[base]`` alone, which is what a lock is made from; None if the recipe has none.

    Raises:
        MalformedError: see :func:`parse_recipe`.
    """
    table = _parse_table(recipe)
    return parse_base_spec(table.value("base"), what=table.name("base")) if table.value("base") else None


def parse_recipe(recipe: bytes, lock: bytes, base_lock: bytes | None = None) -> Recipe:
    """Parse the files of a recipe.

    Args:
        recipe: ``recipe.toml``.
        lock: ``recipe.lock``.
        base_lock: what ``[base]`` names, if the recipe has it.

    Raises:
        MalformedError: not TOML, an unknown or missing key, a value of another type or form, a path that leaves its
            folder, a lock with two wheels for one package, or a base layer without its lock (code
            ``base-lock-missing``).
        UntrustedError: the base layer's lock is another one than ``recipe.lock`` pins (code ``lock-mismatch``).
    """
    table = _parse_table(recipe)
    base = load_base_spec(recipe)
    parsed_lock = parse_lock(lock)
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
        base=base,
        base_lock=None if base is None else _check_base_lock(base, parsed_lock, base_lock),
        lock=_check_libraries(base, parsed_lock),
        sha256=hashlib.sha256(recipe).digest(),
    )


def parse_lock(data: bytes) -> Lock:
    """Parse ``recipe.lock``.

    Raises:
        MalformedError: see :func:`parse_recipe`.
    """
    table = parse_toml(data, what=LOCK_FILE, required=("format",), optional=(*LIBRARIES, "base", "wheel"))
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
    base = table.value("base")
    libraries = {name: _parse_locked_file(table, name) for name in LIBRARIES if table.value(name)}
    if len(libraries) != len(LIBRARIES) and (libraries or not base):
        raise MalformedError(
            f"{LOCK_FILE}: must pin {' and '.join(LIBRARIES)}, or a base layer that has them"
        )
    return Lock(
        libraries,
        wheels,
        Table(base, what=table.name("base"), required=("sha256",)).sha256("sha256") if base else None,
        hashlib.sha256(data).digest(),
    )


def _parse_table(recipe: bytes) -> Table:
    table = parse_toml(
        recipe, what=RECIPE_FILE, required=_REQUIRED, optional=("allow", "base", "exclude", "files")
    )
    _check_format(table)
    return table


def _check_base_lock(base: BaseSpec, lock: Lock, data: bytes | None) -> BaseLock:
    if data is None or lock.base_sha256 is None:
        raise MalformedError(
            f"{base.lock}: the base layer is not locked; make the lock from its packages with `assay base lock`",
            code="base-lock-missing",
        )
    if hashlib.sha256(data).digest() != lock.base_sha256:
        raise UntrustedError(f"{base.lock}: another SHA-256 than in {LOCK_FILE}", code="lock-mismatch")
    return parse_base_lock(data, what=base.lock)


def _check_libraries(base: BaseSpec | None, lock: Lock) -> Lock:
    """Gramine's libraries have one source: the recipe's folder, or a package of the base layer."""
    wanted = () if base is not None and base.libraries else LIBRARIES
    if tuple(lock.libraries) != wanted:
        raise MalformedError(f"{LOCK_FILE}: must pin {' and '.join(wanted) or 'neither libpal nor libsysdb'}")
    if base is None and lock.base_sha256 is not None:
        raise MalformedError(f"{LOCK_FILE}: pins a base layer that the recipe does not have")
    return lock


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
