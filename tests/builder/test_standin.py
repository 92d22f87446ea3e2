"""The stand-in recipe: it measures exactly what the agent imports, and its binary follows from its script."""

import ast
import hashlib
import re
import subprocess
import sys

import pytest

from assay.attest.gramine.elf import parse_elf
from assay.builder.compose import Inputs, compose, read_locked, source_files
from assay.builder.lint import lint, require_clean
from assay.builder.manifest import format_manifest
from assay.builder.recipe import load_recipe

ENTRY = "assay.enclave.agent"


@pytest.fixture
def recipe(standin):
    return load_recipe(standin)


def test_the_libpal_stand_in_follows_from_its_script(standin, tmp_path):
    script = standin / "make_libpal.py"
    subprocess.run([sys.executable, "-I", script, tmp_path / "out.so"], check=True, timeout=30)
    assert (tmp_path / "out.so").read_bytes() == (standin / "libpal-standin.so").read_bytes()


def test_the_libpal_stand_in_is_pinned_and_says_what_it_is(standin, recipe):
    data = read_locked(standin, recipe.lock.libraries["libpal"])
    assert b"Not Gramine" in data
    image = parse_elf(data)
    assert [segment.flags for segment in image.segments] == [5, 6]
    assert image.segments[1].memory_size > len(image.segments[1].data)


def test_every_locked_wheel_is_among_the_requirements(repository, recipe):
    requirements = (repository / "requirements" / "dev.txt").read_text()
    for wheel in recipe.lock.wheels:
        pin = re.search(
            rf"^{re.escape(wheel.name)}=={re.escape(wheel.version)} \\\n((?: +--hash=.*\n)+)",
            requirements,
            re.MULTILINE,
        )
        assert pin is not None
        assert f"sha256:{wheel.sha256.hex()}" in pin[1]


def test_recipe_and_lock_name_no_address(standin):
    for name in ("recipe.toml", "recipe.lock"):
        assert "://" not in (standin / name).read_text()


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def closure(repository):
    """Every module of ours that the agent imports, and its files, by static reading."""
    root = repository / "src"
    found, todo = set(), [ENTRY]
    while todo:
        name = todo.pop()
        base = root / name.replace(".", "/")
        path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
        if not name.startswith("assay") or path is None or path in found:
            continue
        found.add(path)
        todo += [name.rpartition(".")[0], *imported(path.read_text())]
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


@pytest.mark.parametrize("name", ["agent", "agent-standin", "agent-simulated"])
def test_the_measured_modules_are_exactly_what_the_agent_imports(repository, name):
    recipe = load_recipe(repository / "reproducible" / name)
    sources = source_files(recipe, repository)
    targets = {
        copy.target + path[len(copy.source) :]
        for copy in recipe.sources
        for path in sources
        if path == copy.source or path.startswith(copy.source + "/")
    }
    assert {target.removeprefix("app/") for target in targets - {"app/main.py"}} == closure(repository)


def test_the_real_tree_composes(repository, standin, recipe, log_policy, ca_pem, wheel):
    fake = {each: wheel({}, name=each.name, version=each.version) for each in recipe.lock.wheels}
    files = compose(
        recipe,
        source_files(recipe, repository),
        Inputs(log_policy, ca_pem),
        recipe_folder=standin,
        wheels=fake,
    )
    assert {"app/main.py", "app/config.toml", "app/log-policy.txt", "app/llm-ca.pem"} <= files.keys()
    assert files["app/config.toml"] == (standin / "agent.toml").read_bytes()
    assert hashlib.sha256(files["app/llm-ca.pem"]).digest() == hashlib.sha256(ca_pem).digest()
    assert not [path for path in files if "simulated" in path or path.endswith("/cli.py")]


@pytest.mark.parametrize("name", ["agent-standin", "agent-simulated"])
def test_the_linter_finds_only_what_the_recipe_admits(repository, name):
    recipe = load_recipe(repository / "reproducible" / name)
    manifest = format_manifest(recipe, {"rootfs/app/main.py": bytes(32)}, bytes(32))
    linted = lint(manifest, recipe.allow)
    assert [item.rule for item in require_clean(linted).allowed] == ["entrypoint-unverified"]
    assert "not measured" in recipe.allow["entrypoint-unverified"]
