"""Gramine's tools: a build agrees with them, or fails. Fakes behave as the fact sheet says; the real ones if installed."""

import json
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from assay.attest.gramine.attributes import body_from_manifest
from assay.attest.gramine.measure import measure
from assay.attest.gramine.sigstruct import NO_DATE, parse_sigstruct, sign_sigstruct
from assay.builder import gramine_tools
from assay.builder.build import prepare
from assay.builder.compose import Inputs
from assay.builder.gramine_tools import Tools, compare, find_tools
from assay.builder.sigstruct_signing import key_signing
from assay.builder.wheels import wheel_finder
from assay.cli import main
from assay.tlog.errors import UnavailableError, UntrustedError

TOOLS = Tools("gramine-manifest", "gramine-sgx-sign", "gramine-sgx-sigstruct-view")


@pytest.fixture
def built(workshop, log_policy, ca_pem, signing_key):
    return prepare(
        workshop.recipe,
        workshop.source,
        Inputs(log_policy, ca_pem),
        find_wheels=wheel_finder(workshop.wheels),
        report=lambda line: None,
        signing=key_signing(signing_key),
    )


def fill_defaults(text):
    """Parse, add what is absent, write again: what both tools do to a manifest."""
    table = tomllib.loads(text.decode())
    table["sgx"].setdefault("use_exinfo", False)
    table["sgx"].setdefault("cpu_features", {}).setdefault("pkru", "disabled")
    return tomli_w.dumps(table).encode()


class FakeTools:
    """The three tools; ``spoil`` maps a tool to a change of what it writes or prints."""

    def __init__(self, **spoil):
        self.spoil = spoil
        self.commands = []

    def __call__(self, command, folder):
        self.commands.append(list(command))
        name = command[0].removeprefix("gramine-").replace("-", "_")
        return getattr(self, name)(command[1:], folder)

    def changed(self, name, data):
        return self.spoil.get(name, lambda data: data)(data)

    def manifest(self, words, folder):
        template, out = words
        (folder / out).write_bytes(self.changed("manifest", fill_defaults((folder / template).read_bytes())))
        return b""

    def sgx_sign(self, words, folder):
        options = dict(zip(words[::2], words[1::2], strict=True))
        text = self.changed("resigned", fill_defaults((folder / options["--manifest"]).read_bytes()))
        (folder / options["--output"]).write_bytes(text)
        measured = measure(self.changed("measured", text), (folder / options["--libpal"]).read_bytes())
        body = body_from_manifest(tomllib.loads(text.decode()), measured.mr_enclave, date=options["--date"])
        key = load_pem_private_key((folder / options["--key"]).read_bytes(), password=None)
        (folder / options["--sigfile"]).write_bytes(
            self.changed("signed", sign_sigstruct(body, key).to_bytes())
        )
        return b""

    def sgx_sigstruct_view(self, words, folder):
        signed = parse_sigstruct((folder / words[-1]).read_bytes())
        return self.changed("view", json.dumps(view_of(signed)).encode())


def view_of(signed):
    body = signed.body
    return {
        "mr_signer": signed.mr_signer.hex(),
        "mr_enclave": body.mr_enclave.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "debug_enclave": body.debug_enclave,
        **{
            name: hex(getattr(body, name))
            for name in (
                *("attribute_flags", "attribute_flags_mask", "attribute_xfrms", "attribute_xfrm_mask"),
                *("misc_select", "misc_mask"),
            )
        },
        "date": body.date,
    }


def compared(built, run, *, tools=TOOLS, key=None, date=NO_DATE, sigstruct=None, **changed):
    arguments = {
        "mr_enclave": built.record.mr_enclave,
        "signing": None if key is None else key_signing(key, date=date),
        "sigstruct": sigstruct,
        "run": run,
        **changed,
    }
    compare(tools, built.files["tiny.manifest.sgx"], built.files["libpal.so"], **arguments)


def test_tools_that_agree_are_each_asked_once(built, signing_key):
    run = FakeTools()
    compared(built, run, key=signing_key, sigstruct=built.files["tiny.sig"])
    assert [command[0] for command in run.commands] == [TOOLS.manifest, TOOLS.sign, TOOLS.view]
    assert "--date" in run.commands[1]
    assert "0000-00-00" in run.commands[1]


def test_without_a_signing_key_one_is_made_for_the_comparison(built):
    compared(built, FakeTools())


def test_a_missing_viewer_is_not_asked(built, signing_key):
    run = FakeTools()
    compared(built, run, key=signing_key, tools=Tools(TOOLS.manifest, TOOLS.sign, None))
    assert len(run.commands) == 2


def add_key(text):
    return text.replace(b"enable_stats = false", b"enable_stats = false\nnew_option = false")


def other(data):
    return data.replace(b'"isv_svn": 3', b'"isv_svn": 4')


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ({"manifest": add_key}, "gramine-manifest: returns another manifest"),
        ({"manifest": lambda text: text + b"\n"}, "gramine-manifest: returns another manifest"),
        ({"resigned": add_key}, "gramine-sgx-sign: returns another manifest"),
        ({"measured": lambda text: text + b"\n"}, "gramine-sgx-sign: .*MRENCLAVE|gramine-sgx-sign"),
        ({"signed": lambda data: data[:600] + b"\0" * 8 + data[608:]}, "gramine-sgx-sign"),
        ({"signed": lambda data: b""}, "gramine-sgx-sign"),
        ({"view": other}, "isv_svn"),
        ({"view": lambda data: data.replace(b'"0000-00-00"', b'"2024-01-01"')}, "date"),
        (
            {"view": lambda data: data.replace(b'"attribute_flags": "0x4"', b'"attribute_flags": "0x6"')},
            "attribute_flags",
        ),
    ],
    ids=range(9),
)
def test_tools_that_differ_fail_the_build(built, signing_key, spoil, named):
    with pytest.raises(UntrustedError, match=named) as refusal:
        compared(built, FakeTools(**spoil), key=signing_key, sigstruct=built.files["tiny.sig"])
    assert refusal.value.code == "tools-differ"


def test_another_sigstruct_of_the_same_key_fails_the_build(built, signing_key):
    with pytest.raises(UntrustedError, match="another SIGSTRUCT"):
        compared(built, FakeTools(), key=signing_key, sigstruct=built.files["tiny.sig"], date="2024-01-01")


def test_another_measurement_than_ours_fails_the_build(built, signing_key):
    with pytest.raises(UntrustedError) as refusal:
        compared(built, FakeTools(), key=signing_key, mr_enclave=bytes(32))
    assert refusal.value.code == "tools-differ"


@pytest.mark.parametrize("silent", ["manifest", "sgx_sign"])
def test_a_tool_that_writes_nothing_is_a_failed_tool(built, signing_key, silent):
    run = FakeTools()
    setattr(run, silent, lambda words, folder: b"")
    with pytest.raises(UnavailableError, match="wrote no") as refusal:
        compared(built, run, key=signing_key)
    assert refusal.value.code == "tool-failed"


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "import sys; sys.stderr.write('no such key'); sys.exit(3)"],
        ["/nowhere/gramine-sgx-sign"],
    ],
    ids=["exit", "absent"],
)
def test_a_tool_that_fails_is_unavailable_and_says_why(tmp_path, command):
    with pytest.raises(UnavailableError, match=r"[Nn]o such") as refusal:
        gramine_tools.run_tool(command, tmp_path)
    assert refusal.value.code == "tool-failed"


def test_a_tool_that_hangs_is_unavailable(tmp_path, monkeypatch):
    def run(command, **options):
        assert options["timeout"] > 0
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UnavailableError):
        gramine_tools.run_tool(["x"], tmp_path)


@pytest.mark.parametrize("missing", [TOOLS.manifest, TOOLS.sign])
def test_half_an_installation_is_none(missing):
    assert find_tools(lambda name: None if name == missing else "/bin/" + name) is None


def test_installed_tools_are_found():
    assert find_tools(lambda name: "/bin/" + name) == Tools(*(f"/bin/{name}" for name in vars_of(TOOLS)))


def vars_of(tools):
    return (tools.manifest, tools.sign, tools.view)


SCRIPT = """#!{python}
import sys; sys.path[:0] = {path!r}
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("fakes", {test!r})
fakes = importlib.util.module_from_spec(spec); spec.loader.exec_module(fakes)
sys.stdout.buffer.write(fakes.FakeTools(**{spoil})([{name!r}, *sys.argv[1:]], Path.cwd()))
"""


def install(folder, **spoil):
    folder.mkdir()
    for name in vars_of(TOOLS):
        text = SCRIPT.format(
            python=sys.executable,
            path=sys.path,
            test=str(Path(__file__)),
            name=name,
            spoil="{" + ", ".join(f"{k!r}: {v}" for k, v in spoil.items()) + "}",
        )
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "more", "code"),
    [
        ({}, [], 0),
        ({"manifest": "fakes.add_key"}, [], 1),
        ({"manifest": "fakes.add_key"}, ["--without-tools"], 0),
    ],
    ids=["same", "other", "not asked"],
)
def test_build_drives_the_tools_that_are_on_the_path(
    workshop, tmp_path, monkeypatch, capsys, log_policy, ca_pem, spoil, more, code
):
    install(tmp_path / "bin", **spoil)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name, data in (("policy", log_policy), ("ca", ca_pem)):
        (tmp_path / name).write_bytes(data)
    found = main(
        [
            *(
                "build",
                str(workshop.recipe),
                "--out",
                str(tmp_path / "out"),
                "--source",
                str(workshop.source),
            ),
            *("--wheels", str(workshop.wheels), "--log-policy", str(tmp_path / "policy")),
            *("--ca", str(tmp_path / "ca"), *more),
        ]
    )
    err = capsys.readouterr().err
    assert found == code
    assert ("same manifest, same MRENCLAVE" in err) == (code == 0 and not more)
    assert (tmp_path / "out").exists() == (code == 0)
    assert ("error[tools-differ]" in err) == (code == 1)


@pytest.mark.slow
@pytest.mark.skipif(find_tools() is None, reason="gramine-manifest and gramine-sgx-sign are not installed")
def test_the_real_tools_come_to_the_same_manifest_and_measurement(built, signing_key):
    compare(
        find_tools(),
        built.files["tiny.manifest.sgx"],
        built.files["libpal.so"],
        mr_enclave=built.record.mr_enclave,
        sigstruct=built.files["tiny.sig"],
        signing=key_signing(signing_key),
    )
