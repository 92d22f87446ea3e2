"""``assay base`` and ``assay build --verify-base``, through the roof."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from assay.builder import rebuild as rebuilding
from assay.builder.cli import package_finder
from assay.builder.recipe import load_recipe
from assay.builder.wheels import wheel_finder
from assay.cli import main


@pytest.fixture
def lock(based, snapshot_time):
    return ["base", "lock", str(based.recipe), "--pool", str(based.pool), "--snapshot", snapshot_time]


@pytest.fixture
def build(based, tmp_path, log_policy, ca_pem):
    for name, data in (("policy", log_policy), ("ca", ca_pem)):
        (tmp_path / name).write_bytes(data)
    return [
        *("build", str(based.recipe), "--out", str(tmp_path / "out"), "--source", str(based.source)),
        *(
            "--wheels",
            str(based.wheels),
            "--log-policy",
            str(tmp_path / "policy"),
            "--ca",
            str(tmp_path / "ca"),
        ),
        *("--cache", str(tmp_path / "cache")),
    ]


def run(capsys, arguments):
    capsys.readouterr()
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_lock_is_made_from_the_packages_and_pinned(capsys, lock, based):
    before = [(based.recipe / name).read_bytes() for name in ("base.lock", "recipe.lock")]
    (based.recipe / "base.lock").unlink()
    code, out, _ = run(capsys, [*lock, "--json"])
    assert code == 0
    result = json.loads(out)
    assert (result["packages"], result["files"], result["members"], result["gramine"]) == (3, 3, 3, True)
    assert [(based.recipe / name).read_bytes() for name in ("base.lock", "recipe.lock")] == before
    assert load_recipe(based.recipe).lock.base_sha256.hex() == result["sha256"]


def test_gramine_is_added_to_a_lock_that_lacks_it(capsys, lock, based):
    before = (based.recipe / "base.lock").read_bytes()
    assert run(capsys, [*lock, "--without-gramine"])[0] == 0
    assert (based.recipe / "base.lock").read_bytes() != before
    added = ["base", "add-gramine", str(based.recipe), str(based.pool / "gramine_1.9_amd64.deb")]
    assert run(capsys, added)[0] == 0
    assert (based.recipe / "base.lock").read_bytes() == before
    load_recipe(based.recipe)


@pytest.mark.parametrize("file", ["pydemo_1%3a3.11-1_amd64.deb", "stranger_1.0-1_amd64.deb"])
def test_what_is_not_gramines_package_is_not_added(capsys, based, file):
    before = (based.recipe / "base.lock").read_bytes()
    code, out, err = run(capsys, ["base", "add-gramine", str(based.recipe), str(based.pool / file)])
    assert (code, out) == (1, "")
    assert file in err
    assert (based.recipe / "base.lock").read_bytes() == before


def test_a_pool_without_a_package_is_unavailable_and_names_it(capsys, lock, based):
    (based.pool / "libdemo1_1.2-1_all.deb").unlink()
    code, out, err = run(capsys, lock)
    assert (code, out) == (3, "")
    assert "error[package-missing]" in err
    assert "libdemo1" in err


def test_a_pool_with_two_versions_is_refused(capsys, lock, based, debs):
    (based.pool / "pydemo_2_amd64.deb").write_bytes(debs.make("pydemo", {"x": b""}, version="2"))
    code, _, err = run(capsys, lock)
    assert code == 1
    assert "error[two-versions]" in err


def test_a_recipe_without_base_layer_has_no_lock_to_make(capsys, lock, workshop):
    code, _, err = run(capsys, [*lock[:2], str(workshop.recipe), *lock[3:]])
    assert code == 1
    assert "error[no-base]" in err


def test_a_snapshot_of_another_form_is_a_usage_error(capsys, lock):
    assert run(capsys, [*lock[:-1], "yesterday"])[0] == 2


def test_verify_base_proves_the_list_and_fills_the_tree(capsys, build, based, tmp_path):
    code, out, err = run(capsys, [*build, "--json", "--pool", str(based.pool)])
    assert code == 0
    assert "not verified" in err
    assert not (tmp_path / "out/rootfs/usr").exists()
    proven = run(capsys, [*build, "--json", "--pool", str(based.pool), "--verify-base", "--force"])
    assert proven[:2] == (0, out)
    assert (tmp_path / "out/rootfs/usr/bin/python3").read_bytes() == b"the interpreter"


def test_a_second_build_works_offline_from_the_cache(capsys, build, based, tmp_path):
    """What was fetched once, wheels and packages, is all that a build needs."""
    at = build.index("--wheels")
    offline = [*build[:at], *build[at + 2 :], "--verify-base", "--json"]
    cache = tmp_path / "cache"
    recipe = load_recipe(based.recipe)
    for wheel in recipe.lock.wheels:
        folder = cache / "wheels" / wheel.sha256.hex()
        folder.mkdir(parents=True)
        (folder / wheel.file).write_bytes((based.wheels / wheel.file).read_bytes())
    for package in recipe.base_lock.packages:
        folder = cache / "packages" / package.sha256.hex()
        folder.mkdir(parents=True)
        (folder / package.file).write_bytes(next(based.pool.glob(f"{package.name}_*")).read_bytes())
    assert run(capsys, offline)[0] == 0
    assert (tmp_path / "out/rootfs/usr/bin/python3").is_file()


def test_a_rebuild_proves_the_base_layer_too(based, inputs_of):
    home = based.source / "reproducible" / "tiny"
    home.parent.mkdir()
    based.recipe.rename(home)
    recipe = load_recipe(home)
    parameters = {
        "inputs": inputs_of,
        "recipe_sha256": recipe.sha256.hex(),
        "lock_sha256": recipe.lock.sha256.hex(),
    }
    task = SimpleNamespace(provenance=SimpleNamespace(external_parameters=parameters))
    lines = []

    def rebuilt(pools):
        return rebuilding._build(
            task,
            based.source,
            find_wheels=wheel_finder(based.wheels),
            find_packages=lambda folder: package_finder(
                folder, pools, snapshot=None, cache=based.source / "cache"
            ),
            verify_base=True,
            note=lines.append,
        )

    digests, _ = rebuilt([based.pool])
    assert digests.libpal_sha256 == hashlib.sha256(based.libpal).digest()
    assert any("each as the packages have it" in line for line in lines)
    assert rebuilt([]) == (None, None)
    assert "package gramine" in lines[-1]


@pytest.fixture
def inputs_of(log_policy, ca_pem):
    return {"ca": ca_pem.decode(), "log_policy": log_policy.decode()}


def test_packages_that_cannot_be_had_are_unavailable(capsys, build, based, tmp_path):
    code, out, err = run(capsys, [*build, "--verify-base"])
    assert (code, out) == (3, "")
    assert "error[package-missing]" in err
    assert not (tmp_path / "out").exists()
