"""``reproducible/``: the script a stranger runs, the container recipe and the two actions."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig

import pytest
import yaml

from assay.builder.recipe import load_recipe
from assay.builder.record import parse_record
from assay.cli import main

ACTIONS = ("publish", "rebuild")
STRICT = "set -euo pipefail\n"


@pytest.fixture
def folder(repository):
    return repository / "reproducible"


@pytest.fixture
def program(tmp_path, repository):
    """The program as `rebuild.sh` finds it: beside a Python."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    path = os.pathsep.join([str(repository / "src"), sysconfig.get_path("platlib")])
    for name, words in (("assay", '-c "from assay.cli import run; run()"'), ("python", "")):
        (bin_folder / name).write_text(
            f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" {words} "$@"\n'
        )
        (bin_folder / name).chmod(stat.S_IRWXU)
    return bin_folder / "assay"


@pytest.fixture
def checkout(tmp_path, repository):
    """A copy that a test may change."""
    copy = tmp_path / "checkout"
    for name in ("src", "tlog", "attest", "fetch", "enclave", "reproducible"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, copy / name, symlinks=True, ignore=ignored)
    return copy


def rebuild(checkout, program, *arguments):
    return subprocess.run(
        [checkout / "reproducible" / "rebuild.sh", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "ASSAY": str(program)},
        capture_output=True,
        timeout=200,
        check=False,
        text=True,
    )


def require_wheel(done):
    if "error[unavailable]" in done.stderr:
        pytest.skip("the locked wheel cannot be had here")


@pytest.mark.slow
def test_this_checkout_gives_the_expected_values(checkout, program):
    """Red after a change of what is measured: `reproducible/rebuild.sh --write-expected agent-standin`."""
    done = rebuild(checkout, program, "agent-standin")
    require_wheel(done)
    expected = parse_record((checkout / "reproducible/agent-standin/expected.json").read_bytes())
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == f"REPRODUCED {expected.mr_enclave.hex()}"


@pytest.mark.slow
def test_a_changed_source_is_named_and_a_new_expectation_can_be_written(checkout, program):
    path = checkout / "tlog" / "merkle.py"
    path.write_text(path.read_text() + "# one more line\n")
    done = rebuild(checkout, program, "agent-standin")
    require_wheel(done)
    assert done.returncode == 1
    assert "differs: rootfs/app/assay/tlog/merkle.py" in done.stdout
    assert "differs: mr_enclave" in done.stdout
    assert done.stdout.splitlines()[-1] == "DIFFERENT"
    assert rebuild(checkout, program, "--write-expected", "agent-standin").returncode == 0
    assert rebuild(checkout, program, "agent-standin").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "rebuild.sh RECIPE"),
        (["--help"], 2, "rebuild.sh RECIPE"),
        (["nonsense"], 2, "neither a recipe"),
        (["agent"], 3, "no expected.json"),
    ],
)
def test_the_script_says_what_is_wrong(checkout, program, arguments, code, said):
    done = rebuild(checkout, program, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_failed_build_is_no_verdict(checkout, program, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = rebuild(checkout, program, "agent-standin", "--wheels", str(empty))
    assert done.returncode == 3
    assert "error[wheel-missing]" in done.stderr
    assert "REPRODUCED" not in done.stdout


def test_the_expected_record_is_of_the_recipe_beside_it(folder):
    recipe = load_recipe(folder / "agent-standin")
    record = parse_record((folder / "agent-standin" / "expected.json").read_bytes())
    assert (record.recipe_sha256, record.lock_sha256) == (recipe.sha256, recipe.lock.sha256)
    assert (record.product, record.wheels) == (recipe.product, recipe.lock.wheels)


def test_the_agent_is_refused_until_gramine_is_locked(folder, tmp_path, capsys, ca_pem, log_policy):
    for name, data in (("policy", log_policy), ("ca", ca_pem)):
        (tmp_path / name).write_bytes(data)
    assert not load_recipe(folder / "agent").base_lock.libraries
    inputs = ["--log-policy", str(tmp_path / "policy"), "--ca", str(tmp_path / "ca")]
    assert main(["build", str(folder / "agent"), "--out", str(tmp_path / "out"), *inputs]) == 1
    assert "error[gramine-missing]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_agents_wheels_are_among_the_requirements(repository, folder):
    requirements = (repository / "requirements" / "dev.txt").read_text()
    locked = load_recipe(folder / "agent").lock.wheels
    assert {wheel.name for wheel in locked} == {"cffi", "cryptography", "rfc8785"}
    for wheel in locked:
        assert f"{wheel.name}=={wheel.version}" in requirements
        assert f"sha256:{wheel.sha256.hex()}" in requirements


@pytest.mark.parametrize("name", ["recipe.toml", "recipe.lock", "base.lock"])
def test_the_agent_names_no_address(folder, name):
    assert "://" not in (folder / "agent" / name).read_text()


def test_the_agent_trusts_nothing_outside_its_mounts(folder):
    recipe = load_recipe(folder / "agent")
    mounted = [
        mount["uri"].removeprefix("file:rootfs/") + "/"
        for mount in recipe.process.mounts
        if "type" not in mount
    ]
    assert all(target.startswith(tuple(mounted)) for target in recipe.base_lock.files)
    assert recipe.process.entrypoint.lstrip("/") in recipe.base_lock.files
    assert recipe.base_lock.files["usr/bin/python3.11"].program
    members = recipe.base_lock.members
    assert {"os.py", "encodings/utf_8.py", "ssl.py"} <= members.keys()
    assert not [name for name in members if name.startswith(("test/", "ctypes/"))]


def action(folder, name):
    return yaml.safe_load((folder / "actions" / name / "action.yml").read_text())


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_uses_nothing_but_strict_shell(folder, name):
    steps = action(folder, name)["runs"]["steps"]
    assert action(folder, name)["runs"]["using"] == "composite"
    for step in steps:
        assert "uses" not in step
        assert step["shell"] == "bash"
        assert step["run"].startswith(STRICT)
        done = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ACTIONS)
def test_an_actions_inputs_reach_the_shell_as_variables_only(folder, name):
    """``${{ }}`` in a script would let whoever names a tag run commands with the publisher's key."""
    for step in action(folder, name)["runs"]["steps"]:
        assert "${{" not in step["run"]
        used = set(re.findall(r"\$\{?([A-Z][A-Z_]*)", step["run"]))
        given = set(step["env"]) | {"GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP"}
        assert used <= given
        assert set(step["env"]) - used <= {"GH_TOKEN"}


@pytest.mark.parametrize("name", ACTIONS)
def test_every_input_and_output_of_an_action_is_used_and_described(folder, name):
    read = action(folder, name)
    text = json.dumps(read["runs"])
    for key, value in read["inputs"].items():
        assert value["description"]
        assert value["required"] is True or "default" in value
        assert f"inputs.{key} " in text
    steps = {step["id"]: step["run"] for step in read["runs"]["steps"]}
    for value in read["outputs"].values():
        step, key = re.fullmatch(r"\$\{\{ steps\.([a-z]+)\.outputs\.([a-z-]+) \}\}", value["value"]).groups()
        assert f"{key}=" in steps[step]


FAKE = """#!/bin/sh
echo "$@" >> "$LOGGED"
case "$1" in
  build) echo '{"mr_enclave": "abcd"}';;
  rebuild) echo '{"verdict": "DIFFERENT"}'; cat "$6" >> "$LOGGED"; exit 1;;
  publish) cat "$4" >> "$LOGGED";;
esac
"""


def run_steps(folder, tmp_path, name, **values):
    """Run the steps of an action as a runner does, on a checkout whose program only notes what it is asked."""
    root = tmp_path / "root"
    (root / ".venv/bin").mkdir(parents=True)
    (root / "reproducible/actions" / name).mkdir(parents=True)
    (root / "Makefile").write_text("env:\n\t@true\n")
    (root / ".venv/bin/assay").write_text(FAKE)
    (root / ".venv/bin/assay").chmod(0o755)
    (root / ".venv/bin/python").symlink_to(sys.executable)
    subprocess.run(["git", "init", "-q", root], check=True, timeout=30)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(
        ["git", "-C", root, *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True, timeout=30
    )
    outputs, code = {}, 0
    files = {k: tmp_path / k for k in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "LOGGED")}

    def filled(text):
        text = text.replace("${{ github.action_path }}", str(root / "reproducible/actions" / name))
        text = re.sub(r"\$\{\{ steps\.([a-z]+)\.outputs\.([a-z-]+) \}\}", lambda m: outputs[m[1]][m[2]], text)
        return re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda m: values.get(m[1], ""), text)

    for step in action(folder, name)["runs"]["steps"]:
        if "if" in step:
            continue
        for path in files.values():
            path.touch()
        files["GITHUB_OUTPUT"].write_text("")
        env = {key: filled(str(value)) for key, value in step["env"].items()}
        env |= {key: str(path) for key, path in files.items()}
        env |= {"PATH": os.environ["PATH"], "RUNNER_TEMP": str(tmp_path), "HOME": str(tmp_path)}
        done = subprocess.run(
            ["bash", "-c", step["run"]], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        outputs[step["id"]] = dict(
            line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines()
        )
        if code := done.returncode:
            break
    return code, outputs, files


def test_the_publishing_action_builds_publishes_and_names_the_release(folder, tmp_path):
    hostile = '"; touch owned; "'
    values = {
        "recipe": "agent",
        "log": hostile,
        "policy": "p.toml",
        "log-policy": "lp",
        "ca": "ca",
        "key": "SECRET",
    }
    code, outputs, files = run_steps(
        folder, tmp_path, "publish", **values, packages="debs", snapshot="", wheels="w"
    )
    assert code == 0
    assert outputs["build"] == {"mr-enclave": "abcd"}
    assert outputs["publish"]["release"].endswith("agent.release.json")
    built, published, key = files["LOGGED"].read_text().splitlines()
    assert "--verify-base --pool debs --wheels w" in built
    assert hostile in published
    assert re.search(r"--commit [0-9a-f]{40} ", published)
    assert key == "SECRET"
    assert not list(tmp_path.rglob("owned"))


def test_the_rebuilding_action_reports_and_fails_on_another_verdict(folder, tmp_path):
    values = {"release": "r.json", "log": "l", "policy": "p.toml", "key": "SECRET"}
    code, outputs, files = run_steps(folder, tmp_path, "rebuild", **values)
    assert code == 1
    assert outputs["rebuild"]["verdict"] == "DIFFERENT"
    assert "### Rebuild: DIFFERENT" in files["GITHUB_STEP_SUMMARY"].read_text()
    assert "SECRET" in files["LOGGED"].read_text()


@pytest.mark.parametrize("name", ["rebuild.sh"])
def test_the_script_is_executable_strict_and_parses(folder, name):
    path = folder / name
    assert path.stat().st_mode & 0o111
    assert STRICT in path.read_text()
    assert subprocess.run(["bash", "-n", path], check=False, timeout=30).returncode == 0


def test_the_container_takes_its_image_by_digest_only(folder):
    text = (folder / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[:3] == ["ARG BASE", "FROM ${BASE}", "ARG BASE"]
    assert not re.search(r"^(ADD|FROM (?!\$\{BASE\}))", text, re.MULTILINE)
    check = text[text.index("RUN case") + 4 : text.index("\nRUN command")].replace("\\\n", "")
    for base, code in {
        f"img@sha256:{'0' * 64}": 0,
        "img": 1,
        "img:latest": 1,
        f"img@sha256:{'0' * 63}": 1,
        f"img@sha256:{'0' * 65}": 1,
    }.items():
        done = subprocess.run(
            ["sh", "-c", check], env={"BASE": base}, capture_output=True, check=False, timeout=30
        )
        assert done.returncode == code
