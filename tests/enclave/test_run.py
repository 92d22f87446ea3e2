"""The launcher: what is measured is what runs, and what runs ends with whoever started it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from assay import cli
from assay.attest import receipt
from assay.enclave import run
from assay.enclave.run import Runtime, choose, read_build, simulated_command, verify_trusted_files
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError

ROOT = Path(__file__).parents[2]
MAIN = b"print('hello')\n"


def write_manifest(folder, *, argv='["python3", "-I", "/app/main.py"]', extra=""):
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "rootfs" in path.parts
    }
    listed = "\n".join(
        f'[[sgx.trusted_files]]\nuri = "file:{uri}"\nsha256 = "{digest}"' for uri, digest in digests.items()
    )
    libsysdb = hashlib.sha256((folder / "libsysdb.so").read_bytes()).hexdigest()
    (folder / "tiny.manifest.sgx").write_text(
        f'[loader]\nargv = {argv}\nentrypoint = {{ uri = "file:libsysdb.so", sha256 = "{libsysdb}" }}\n'
        '[[fs.mounts]]\npath = "/app"\nuri = "file:rootfs/app"\n'
        '[[fs.mounts]]\ntype = "encrypted"\npath = "/state"\nuri = "file:state"\n'
        f"[sgx]\nisvprodid = 1\nisvsvn = 2\n{listed}\n{extra}"
    )


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "build"
    (folder / "rootfs/app/pkg").mkdir(parents=True)
    (folder / "rootfs/app/main.py").write_bytes(MAIN)
    (folder / "rootfs/app/pkg/__init__.py").write_bytes(b"")
    (folder / "libpal.so").write_bytes(b"pal")
    (folder / "libsysdb.so").write_bytes(b"db")
    write_manifest(folder)
    return folder


def untrusted(folder):
    with pytest.raises(UntrustedError) as caught:
        verify_trusted_files(read_build(folder))
    return caught.value.code == "trusted-file"


def test_a_whole_build_is_taken(tiny):
    build = read_build(tiny)
    assert verify_trusted_files(build) == 3
    assert (build.name, build.isv_prod_id, build.isv_svn) == ("tiny", 1, 2)
    (tiny / "state").mkdir()
    (tiny / "state" / "agent.sealed").write_bytes(b"x")
    (tiny / "build.json").write_bytes(b"{}")
    verify_trusted_files(build)


@pytest.mark.parametrize("name", ["rootfs/app/main.py", "rootfs/app/pkg/__init__.py", "libsysdb.so"])
def test_a_file_that_is_changed_or_missing_is_refused(tiny, name):
    data = (tiny / name).read_bytes()
    (tiny / name).write_bytes(data + b" ")
    assert untrusted(tiny)
    (tiny / name).unlink()
    assert untrusted(tiny)
    (tiny / name).mkdir()
    assert untrusted(tiny)


@pytest.mark.parametrize(
    "name",
    [
        "rootfs/app/json.py",
        "rootfs/app/pkg/__pycache__/__init__.cpython-311.pyc",
        "rootfs/app/pkg.cpython-311-x86_64-linux-gnu.so",
        "rootfs/app/.hidden",
    ],
)
def test_a_file_beside_the_trusted_ones_is_refused(tiny, name):
    (tiny / name).parent.mkdir(exist_ok=True)
    (tiny / name).write_bytes(b"import os")
    assert untrusted(tiny)


def test_a_link_beside_the_trusted_files_is_refused(tiny, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tiny / "rootfs/app/other").symlink_to(tmp_path / "elsewhere")
    assert untrusted(tiny)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "sgx = 1\n",
        "[sgx]\nisvprodid = 1\n",
        '[sgx]\nisvprodid = "1"\nisvsvn = 1\n',
        "[sgx]\nisvprodid = true\nisvsvn = 1\n",
        "\ufffe",
    ],
)
def test_a_manifest_that_is_none_is_malformed(tiny, text):
    (tiny / "tiny.manifest.sgx").write_text(text)
    with pytest.raises(MalformedError) as caught:
        read_build(tiny)
    assert caught.value.code == "build"


@pytest.mark.parametrize("name", ["tiny.manifest.sgx", "libpal.so"])
def test_a_folder_without_a_build_is_malformed(tiny, name):
    (tiny / name).unlink()
    with pytest.raises(MalformedError):
        read_build(tiny)


def test_two_manifests_are_no_build(tiny):
    shutil.copy(tiny / "tiny.manifest.sgx", tiny / "other.manifest.sgx")
    with pytest.raises(MalformedError):
        read_build(tiny)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("loader", {}),
        ("loader", {"entrypoint": "file:x"}),
        ("sgx", {"trusted_files": ["file:a"]}),
        ("sgx", {"trusted_files": [{"uri": "file:a"}]}),
        ("sgx", {"trusted_files": [{"uri": "file:a", "sha256": "AA"}]}),
        ("sgx", {"trusted_files": 7}),
        ("fs", {}),
        ("fs", {"mounts": ["/app"]}),
        ("fs", {"mounts": 7}),
    ],
)
def test_tables_of_another_form_are_malformed(tiny, member, value):
    build = read_build(tiny)
    broken = replace(build, table={**build.table, member: value})
    with pytest.raises(LogError):
        verify_trusted_files(broken)


def test_arguments_are_mapped_into_the_build(tiny):
    build = read_build(tiny)
    assert simulated_command(build) == [sys.executable, "-I", str(tiny / "rootfs/app/main.py")]


@pytest.mark.parametrize("argv", [None, [], ["python3"], "python3", [1, 2], ["python3", 7]])
def test_a_manifest_without_arguments_is_malformed(tiny, argv):
    """An interpreter without a program would run its standard input: the host's line."""
    build = read_build(tiny)
    with pytest.raises(MalformedError):
        simulated_command(replace(build, table={**build.table, "loader": {"argv": argv}}))


def test_auto_is_sgx_or_nothing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for runtime in (Runtime.AUTO, Runtime.SGX, Runtime.DIRECT):
        with pytest.raises(UnavailableError) as caught:
            choose(runtime)
        assert caught.value.code == "no-runtime"
    assert choose(Runtime.SIMULATED) is Runtime.SIMULATED


def test_gramine_alone_is_not_sgx(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    if not Path("/dev/sgx_enclave").exists():
        with pytest.raises(UnavailableError):
            choose(Runtime.AUTO)
    assert choose(Runtime.DIRECT) is Runtime.DIRECT


@pytest.mark.slow
def test_gramine_is_found_though_its_environment_is_empty(tiny, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "gramine-direct"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable} -ISB\nimport json, os, sys\nline = json.loads(sys.stdin.readline())\n"
        "print(json.dumps({'argv': sys.argv[1:], 'env': dict(os.environ), 'line': line}), flush=True)\n"
        "sys.stdin.read()\nsys.exit(7)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    from assay.enclave.config import HostInputs

    inputs = HostInputs("127.0.0.1:0", "http://log", None, "", "", Path("/state"), None, None)
    reports = []

    def ready(report):
        reports.append(report)
        raise KeyboardInterrupt

    assert run.launch(read_build(tiny), Runtime.DIRECT, inputs, device=None, ready=ready) == 0
    assert reports[0]["argv"] == ["tiny"]
    assert not {name for name in reports[0]["env"] if not name.startswith("LC_")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", run.EXIT_KILLED),
        ("import sys; sys.stdin.close(); sys.exit(1)", 1),
    ],
)
def test_an_agent_that_ends_early_gives_its_code(tiny, program, code):
    from assay.enclave.config import HostInputs

    inputs = HostInputs("127.0.0.1:0", "http://log", None, "k" * 1000, "", Path("/state"), None, None)
    assert run._supervise([sys.executable, "-c", program], tiny, inputs, lambda report: None) == code


@pytest.mark.slow
@pytest.mark.parametrize("line", ["hello", "[]", "7"])
def test_a_report_that_is_none_ends_the_agent(tiny, line):
    from assay.enclave.config import HostInputs

    inputs = HostInputs("127.0.0.1:0", "http://log", None, "", "", Path("/state"), None, None)
    program = f"print({line!r}, flush=True); import sys; sys.stdin.read()"
    with pytest.raises(MalformedError) as caught:
        run._supervise([sys.executable, "-c", program], tiny, inputs, lambda report: None)
    assert caught.value.code == "report"


# The real build, launched as a user launches it.


class Running:
    """A launcher in a process of its own, and what it reported."""

    def __init__(self, folder, build, device, log_url, *options):
        arguments = ["enclave", "run", str(build), "--runtime", "simulated", "--log", log_url, "--json"]
        arguments += ["--state", str(folder / "state"), "--device", str(device), "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assay.cli", *arguments, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "ANTHROPIC_API_KEY": "sk-very-secret"},
            start_new_session=True,
        )

    def report(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def end(self, number=signal.SIGTERM):
        """(exit code, standard error) after a signal, or after it ended by itself (0)."""
        if number:
            self.process.send_signal(number)
        _, error = self.process.communicate(timeout=40)
        return self.process.returncode, error


@pytest.fixture(scope="module")
def build_standin(tmp_path_factory):
    def go(policy):
        folder = tmp_path_factory.mktemp("standin")
        (folder / "log-policy.txt").write_text(policy)
        recipe = ROOT / "reproducible" / "agent-standin"
        arguments = ["--out", str(folder / "build"), "--log-policy", str(folder / "log-policy.txt")]
        assert cli.main(["build", str(recipe), *arguments]) == 0
        assert cli.main(["enclave", "simulate-device", str(folder / "device")]) == 0
        return folder

    made = {}
    return lambda policy: made.get("it") or made.setdefault("it", go(policy))


@pytest.fixture
def place(build_standin, log_policy_text, tmp_path, fake_log):
    """A copy of the build, a device, and a log at the present time."""
    fake_log.time_s = int(time.time()) - 5
    source = build_standin(log_policy_text)
    shutil.copytree(source / "build", tmp_path / "build")
    shutil.copytree(source / "device", tmp_path / "device")
    started = []

    def launch(*options):
        started.append(Running(tmp_path, tmp_path / "build", tmp_path / "device", fake_log.url, *options))
        return started[-1]

    yield tmp_path, launch
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate(timeout=20)


def retrust(folder, name):
    """Make the manifest trust what a file is now: another measurement."""
    (manifest,) = folder.glob("*.manifest.sgx")
    text = manifest.read_text()
    (old,) = [
        each["sha256"]
        for each in tomllib.loads(text)["sgx"]["trusted_files"]
        if each["uri"] == f"file:{name}"
    ]
    manifest.write_text(text.replace(old, hashlib.sha256((folder / name).read_bytes()).hexdigest()))


def gone(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_the_agent_runs_registers_answers_and_stops(place, fake_log, peer_at):
    folder, launch = place
    running = launch("--region", "here")
    report = running.report()
    assert report["ready"] is True
    assert report["registration"]["index"] == 0
    pid = report["pid"]
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert b"sk-very-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    peer = peer_at(report["listen"])
    peer.send(type="status")
    assert peer.receive() == {"type": "state", "load": 1, "region": "here"}
    assert peer.hello().claims.boot_id.hex() == report["boot_id"]
    code, error = running.end()
    assert code == 0
    assert "Traceback" not in error
    assert "sk-very-secret" not in error
    assert gone(pid)
    assert not list((folder / "build").rglob("__pycache__"))


@pytest.mark.slow
def test_an_interrupt_from_the_terminal_ends_both_without_a_traceback(place):
    _, launch = place
    running = launch()
    pid = running.report()["pid"]
    os.killpg(running.process.pid, signal.SIGINT)
    code, error = running.end(0)
    assert code == 0
    assert "Traceback" not in error
    assert gone(pid)


@pytest.mark.slow
def test_the_agent_ends_when_its_launcher_is_killed(place):
    _, launch = place
    running = launch()
    pid = running.report()["pid"]
    running.process.kill()
    assert gone(pid)


@pytest.mark.slow
def test_a_whole_answer_of_the_stand_in_is_logged(place, fake_log, peer_at):
    import threading

    from assay.enclave.standin_llm import LABEL, StandinServer

    _, launch = place
    with StandinServer(("127.0.0.1", 0), overloaded=1) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running = launch("--llm-address", f"127.0.0.1:{server.server_port}")
        peer = peer_at(running.report()["listen"])
        request = {"max_tokens": 9, "messages": [{"content": "hi", "role": "user"}], "model": "stand-in-1"}
        ask, sealed = peer.ask(peer.hello(), request=request)
        _, answer, after = peer.collect(ask, sealed)
        server.shutdown()
        thread.join()
    assert answer.result.startswith(LABEL)
    assert after["type"] == "logged"
    assert [each.signed for each in fake_log.receipts()] == [receipt.parse_receipt(answer.cose)]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["changed", "missing", "extra", "extra-pyc"])
def test_an_image_that_is_not_the_trusted_one_does_not_start(place, fake_log, attack):
    folder, launch = place
    package = folder / "build/rootfs/app/assay/enclave"
    match attack:
        case "changed":
            (package / "session.py").write_text((package / "session.py").read_text() + "\n")
        case "missing":
            (package / "session.py").unlink()
        case "extra":
            (package / "socket.py").write_text("")
        case _:
            (package / "__pycache__").mkdir()
            (package / "__pycache__/session.cpython-311.pyc").write_bytes(b"")
    code, error = launch().end(0)
    assert code == 1
    assert "error[trusted-file]" in error
    assert not fake_log.paths
    assert not (folder / "state").exists()


@pytest.mark.slow
def test_what_runs_is_the_measured_copy_and_another_one_cannot_open_its_state(place, peer_at):
    folder, launch = place
    running = launch("--region", "here")
    first = running.report()
    running.end()
    running = launch()
    again = running.report()
    running.end()
    assert again["enclave_id"] == first["enclave_id"]
    assert again["boot_id"] != first["boot_id"]
    name = "rootfs/app/assay/enclave/session.py"
    source = (folder / "build" / name).read_text()
    changed = source.replace('"region": self._agent.region', '"region": "the copy"')
    assert changed != source
    (folder / "build" / name).write_text(changed)
    retrust(folder / "build", name)
    code, error = launch().end(0)
    assert code == 1
    assert "error[sealed]" in error
    shutil.rmtree(folder / "state")
    running = launch("--region", "here")
    other = running.report()
    assert other["mr_enclave"] != first["mr_enclave"]
    assert other["enclave_id"] != first["enclave_id"]
    peer = peer_at(other["listen"])
    peer.send(type="status")
    assert peer.receive()["region"] == "the copy"
    running.end()


@pytest.mark.slow
def test_a_refused_registration_ends_the_agent_with_the_logs_code(place, fake_log):
    fake_log.down(400, "wrong-root")
    code, error = place[1]().end(0)
    assert code == 1
    assert "agent: error[wrong-root]" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--listen", "nonsense"), ("--llm-address", "nonsense")])
def test_an_address_that_is_none_is_refused_before_the_log_hears_of_it(place, fake_log, options):
    code, error = place[1](*options).end(0)
    assert code == 1
    assert "error[address]" in error
    assert not fake_log.paths


@pytest.mark.slow
def test_a_state_folder_that_cannot_be_made_is_no_traceback(place, fake_log):
    folder, launch = place
    (folder / "file").write_text("")
    code, error = launch("--state", str(folder / "file" / "state")).end(0)
    assert code == 3
    assert "agent: error[io]" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_without_a_device_there_is_no_simulation(place, fake_log):
    folder, launch = place
    code, error = launch("--device", str(folder / "nowhere")).end(0)
    assert code == 1
    assert "Traceback" not in error
    assert not fake_log.paths
