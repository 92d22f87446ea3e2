"""The house keeps its shape: links, arrows, names, and what the enclave's image imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("attest", "builder", "client", "enclave", "fetch", "log_server", "tlog", "witness")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_linked_into_the_package(folder: str) -> None:
    link = ROOT / "src" / "assay" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert (ROOT / folder / "__init__.py").is_file()


def test_no_component_is_imported_under_its_bare_name() -> None:
    assert not set(FOLDERS) & set(sys.modules)


@pytest.mark.parametrize("floor", ["tlog", "attest"])
def test_the_ground_floors_name_no_source_of_io_time_or_chance(floor: str) -> None:
    banned = {"os", "time", "socket", "random", "secrets", "pathlib", "logging", "subprocess", "threading"}
    for path in (ROOT / floor).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            assert not banned & set(names), f"{path}: {banned & set(names)}"


ENCLAVE_CLOSURE = (Path(__file__).parent / "vectors" / "enclave_closure.txt").read_text().splitlines()


def test_the_enclave_imports_exactly_the_golden_list() -> None:
    """The list is part of the trusted computing base: a new line in it is a decision, not an accident."""
    program = (
        "import sys; import assay.enclave.agent; "
        "standard = sys.stdlib_module_names; "
        "print('\\n'.join(sorted(name for name in sys.modules if name.startswith('assay') or "
        "(name.split('.')[0] == name and not name.startswith('_') and name not in standard))))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *site_packages()])},
    )
    assert result.stdout.split() == ENCLAVE_CLOSURE


def site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


@pytest.mark.parametrize("package", ["dcap_qvl", "flask", "click", "rich", "sqlalchemy", "httpx"])
def test_the_enclave_closure_has_no_package_of_the_shells(package: str) -> None:
    assert not [name for name in ENCLAVE_CLOSURE if name.split(".")[0] == package]
