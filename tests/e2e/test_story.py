"""The whole story as a user runs it, and then attacks on what it leaves behind."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay import cli
from assay.client.trust import load_policy
from assay.client.verify import verify_bundle

pytestmark = pytest.mark.slow

SEED = 20261121
FLIPS = 600


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo that was run to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("story") / "demo"
    environment = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    result = subprocess.run(
        [sys.executable, "-m", "assay.cli", "demo", "--dir", str(folder)],
        capture_output=True,
        text=True,
        env={**environment, "COLUMNS": "200"},
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder, result.stdout


def test_every_step_is_shown_and_the_platform_is_labelled(told: tuple[Path, str]) -> None:
    _, text = told
    assert "SIMULATED PLATFORM" in text
    assert text.count("verified on a platform of kind simulated") == 2
    assert "REPRODUCED" in text
    assert "✗" not in text
    assert "Traceback" not in text


def test_no_process_outlives_the_story(told: tuple[Path, str]) -> None:
    folder, _ = told
    time.sleep(1.5)  # a worker looks after its parent twice a second
    mine = str(folder)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            alive = str((process / "cwd").readlink()) == mine
        except OSError:
            continue
        assert not alive, (process / "cmdline").read_bytes()


def test_private_keys_are_for_their_owner_only(told: tuple[Path, str]) -> None:
    folder, _ = told
    secret = [
        *folder.glob("*.pem"),
        *folder.glob("*/witness.key"),
        folder / "log/log.key",
        folder / "device/seed",
    ]
    names = {path.name for path in secret if path.name != "model-ca.pem"}
    assert {"publisher.pem", "rebuilder.pem", "witness.key", "log.key", "seed"} <= names
    for path in secret:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_prompt_is_in_no_file_of_the_log_the_witnesses_or_the_enclave(told: tuple[Path, str]) -> None:
    folder, _ = told
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix not in (".bundle", ".json") and "bundle" not in path.name:
            assert b"why should an AI" not in path.read_bytes(), path


def test_any_changed_byte_of_the_bundle_is_refused_and_a_check_is_named(told: tuple[Path, str]) -> None:
    folder, _ = told
    policy = load_policy(folder / "policy.toml")
    data = (folder / "answer.bundle.json").read_bytes()
    now_ms = time.time_ns() // 1_000_000
    assert verify_bundle(data, policy=policy, now_ms=now_ms).verified
    chance = random.Random(SEED)
    ignored = unsigned_positions(data)
    for at in sorted(chance.sample(range(len(data)), FLIPS)):
        changed = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        verdict = verify_bundle(changed, policy=policy, now_ms=now_ms)
        if at in ignored and verdict.verified:
            continue
        assert not verdict.verified, f"byte {at}: {data[at - 30 : at + 30]!r}"
        assert any(check.result == "fail" for check in verdict.checks), f"byte {at}"


def unsigned_positions(data: bytes) -> set[int]:
    """Names and key ids of cosignature lines: a change there makes the line one of an unknown key.

    C2SP says to ignore such a line, and the quorum then rests on the witness's other key; everything else in the
    bundle is signed, hashed or fixed.
    """
    lines = re.finditer("— (witness-[a-z.]+ [A-Za-z0-9+/]{6})".encode(), data)
    return {at for line in lines for at in range(*line.span(1))}


@pytest.mark.parametrize("length", [0, 1, 100, 5000])
def test_a_truncated_bundle_is_refused(told: tuple[Path, str], length: int, tmp_path: Path) -> None:
    folder, _ = told
    short = tmp_path / "short.json"
    short.write_bytes((folder / "answer.bundle.json").read_bytes()[:length])
    assert cli.main(["verify", str(short), "--policy", str(folder / "policy.toml")]) == 1


def test_erased_fields_leave_a_bundle_that_verifies(told: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = told
    bundle = json.loads((folder / "answer.bundle.json").read_bytes())
    bundle["answer"]["openings"] = {"model": bundle["answer"]["openings"]["model"]}
    erased = tmp_path / "erased.json"
    erased.write_text(json.dumps(bundle, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n")
    verdict = verify_bundle(
        erased.read_bytes(), policy=load_policy(folder / "policy.toml"), now_ms=time.time_ns() // 1_000_000
    )
    failed = [check for check in verdict.checks if check.result == "fail"]
    assert not failed


def test_a_second_demo_in_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    assert cli.main(["demo", "--dir", str(tmp_path)]) == 1
    assert (tmp_path / "precious").read_text() == "mine"
