"""The commands, through the roof: what is printed where, and the exit codes."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest.gramine.sigstruct import parse_sigstruct
from assay.builder.cli import CA_FILE, LOG_POLICY_FILE, commands
from assay.cli import main


@pytest.fixture
def arguments(workshop, tmp_path, log_policy, ca_pem):
    for name, data in (("policy", log_policy), ("ca", ca_pem)):
        (tmp_path / name).write_bytes(data)
    return [
        *("build", str(workshop.recipe), "--out", str(tmp_path / "out"), "--source", str(workshop.source)),
        *(
            "--wheels",
            str(workshop.wheels),
            "--log-policy",
            str(tmp_path / "policy"),
            "--ca",
            str(tmp_path / "ca"),
        ),
    ]


@pytest.fixture
def files(tmp_path, tiny):
    paths = {"manifest": tiny.manifest, "libpal": tiny.libpal, "sigstruct": tiny.sigstruct}
    for name, data in paths.items():
        (tmp_path / name).write_bytes(data)
    return {name: str(tmp_path / name) for name in paths}


def run(capsys, *arguments):
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def measure(files, *more):
    return ("measure", "--manifest", files["manifest"], "--libpal", files["libpal"], *more)


def test_the_commands_are_exported():
    assert {"build", "measure"} <= {command.name for command in commands}


def test_build_prints_the_contracts_json_alone_on_stdout(capsys, arguments, tmp_path):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0
    result = json.loads(out)
    manifest = (tmp_path / "out" / "tiny.manifest.sgx").read_bytes()
    assert result.keys() == {"mr_enclave", "manifest_sha256", "tree_sha256", "out"}
    assert result["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert result["out"] == str(tmp_path / "out")
    assert "trusted files" in err


def test_a_build_measures_to_its_own_value(capsys, arguments, tmp_path):
    built = json.loads(run(capsys, *arguments, "--json")[1])
    files = {"manifest": str(tmp_path / "out/tiny.manifest.sgx"), "libpal": str(tmp_path / "out/libpal.so")}
    code, out, _ = run(capsys, *measure(files, "--json"))
    assert code == 0
    assert json.loads(out) == {
        "mr_enclave": built["mr_enclave"],
        "mr_signer": None,
        "enclave_size": 64 << 20,
        "edmm": True,
        "threads": 4,
    }


def test_build_for_people_shows_the_measurement(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "mr enclave" in out


def test_a_recipes_own_inputs_are_the_default(capsys, arguments, workshop, log_policy, ca_pem):
    (workshop.recipe / LOG_POLICY_FILE).write_bytes(log_policy)
    (workshop.recipe / CA_FILE).write_bytes(ca_pem)
    code, _, _ = run(capsys, *arguments[:-4])
    assert code == 0


def test_the_source_defaults_to_the_checkout_of_the_recipe(capsys, arguments, workshop):
    inside = workshop.source / "reproducible" / "tiny"
    inside.parent.mkdir()
    workshop.recipe.rename(inside)
    code, _, _ = run(capsys, "build", str(inside), *arguments[2:4], *arguments[6:])
    assert code == 0


@pytest.mark.parametrize(("drop", "named"), [(slice(-2, None), "--ca"), (slice(-4, -2), "--log-policy")])
def test_a_missing_input_is_a_usage_error_that_names_the_option(capsys, arguments, tmp_path, drop, named):
    del arguments[drop]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert not (tmp_path / "out").exists()


def test_a_missing_wheel_is_unavailable(capsys, arguments, workshop):
    next(workshop.wheels.iterdir()).unlink()
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (3, "")
    assert "error[wheel-missing]" in err


def test_another_build_in_the_folder_needs_force(capsys, arguments, workshop):
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, *arguments)[0] == 0
    (workshop.source / "top.py").write_bytes(b"changed")
    assert run(capsys, *arguments)[0] == 1
    assert run(capsys, *arguments, "--force")[0] == 0


def test_a_signing_key_gives_a_sigstruct_that_measure_accepts(capsys, arguments, tmp_path, repository):
    key = repository / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem"
    assert run(capsys, *arguments, "--signing-key", str(key))[0] == 0
    out = tmp_path / "out"
    files = {"manifest": str(out / "tiny.manifest.sgx"), "libpal": str(out / "libpal.so")}
    code, printed, _ = run(capsys, *measure(files, "--sigstruct", str(out / "tiny.sig"), "--json"))
    assert code == 0
    assert (
        json.loads(printed)["mr_signer"] == "d08ff4d4ae19dfc81e34c30aded3670e45beee66c010bbf697b194c8133c18f5"
    )


@pytest.mark.parametrize("key", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_an_unusable_signing_key_is_refused(capsys, arguments, tmp_path, key):
    (tmp_path / "key").write_bytes(key)
    assert run(capsys, *arguments, "--signing-key", str(tmp_path / "key"))[0] == 1


def test_measure_checks_a_sigstruct(capsys, files, tiny):
    code, out, _ = run(capsys, *measure(files, "--sigstruct", files["sigstruct"], "--json"))
    assert code == 0
    assert json.loads(out) == {
        "mr_enclave": tiny.values["mrenclave"],
        "mr_signer": tiny.values["sigstruct"]["mr_signer"],
        "enclave_size": 64 << 20,
        "edmm": False,
        "threads": 1,
    }


def test_a_sigstruct_that_does_not_match_is_refused_and_nothing_is_printed(capsys, files, tiny):
    with Path(files["manifest"]).open("ab") as file:
        file.write(b"# one more line\n")
    code, out, err = run(capsys, *measure(files, "--sigstruct", files["sigstruct"], "--json"))
    assert (code, out) == (1, "")
    assert "error[sigstruct-mismatch]" in err
    assert tiny.values["mrenclave"] in err


def view(tiny, **changed):
    said = {
        name: tiny.values["sigstruct"][name]
        for name in ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn", "debug_enclave", "date")
    }
    return json.dumps({**said, **changed})


def test_measure_reads_what_gramines_viewer_says(capsys, files, tiny, tmp_path):
    for name, text in {"same": view(tiny), "other": view(tiny, isv_svn=9), "none": "{}"}.items():
        (tmp_path / name).write_text(text)
    both = ("--sigstruct", files["sigstruct"], "--sigstruct-view")
    assert run(capsys, *measure(files, *both, str(tmp_path / "same")))[0] == 0
    code, out, err = run(capsys, *measure(files, *both, str(tmp_path / "other")))
    assert (code, out) == (1, "")
    assert "isv_svn" in err
    assert run(capsys, *measure(files, *both, str(tmp_path / "none")))[0] == 1


def test_a_sigstruct_with_a_wrong_signature_is_refused(capsys, files, tiny):
    forged = bytearray(parse_sigstruct(tiny.sigstruct).to_bytes())
    forged[600] ^= 1
    with Path(files["sigstruct"]).open("wb") as file:
        file.write(forged)
    code, out, err = run(capsys, *measure(files, "--sigstruct", files["sigstruct"]))
    assert (code, out) == (1, "")
    assert "error[bad-signature]" in err


def test_the_sgxs_file_hashes_to_the_measurement(capsys, files, tiny, tmp_path):
    assert run(capsys, *measure(files, "--sgxs", str(tmp_path / "out.sgxs")))[0] == 0
    assert hashlib.sha256((tmp_path / "out.sgxs").read_bytes()).hexdigest() == tiny.values["mrenclave"]


def test_a_refused_enclave_leaves_no_sgxs_file(capsys, files, tmp_path):
    with Path(files["libpal"]).open("wb") as file:
        file.write(b"\x7fELF")
    code, out, err = run(capsys, *measure(files, "--sgxs", str(tmp_path / "out.sgxs")))
    assert (code, out) == (1, "")
    assert "error[malformed]" in err
    assert not (tmp_path / "out.sgxs").exists()


@pytest.mark.parametrize("missing", ["--manifest", "--libpal"])
def test_measure_needs_both_files(capsys, files, missing):
    arguments = list(measure(files))
    at = arguments.index(missing)
    assert run(capsys, *arguments[:at], *arguments[at + 2 :])[0] == 2


@pytest.fixture
def public_key(tmp_path, signing_key):
    path = tmp_path / "public.pem"
    path.write_bytes(signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(path)


def test_a_signing_command_gives_the_sigstruct_of_its_key(
    capsys, arguments, tmp_path, repository, public_key
):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key = str(repository / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem")
    outside = ("--signing-command", f"openssl dgst -sha256 -sign {key}", "--signing-public-key", public_key)
    assert run(capsys, *arguments, *outside)[0] == 0
    by_command = (tmp_path / "out" / "tiny.sig").read_bytes()
    shutil.rmtree(tmp_path / "out")
    assert run(capsys, *arguments, "--signing-key", key)[0] == 0
    assert (tmp_path / "out" / "tiny.sig").read_bytes() == by_command


def test_a_signing_command_that_fails_builds_nothing(capsys, arguments, tmp_path, public_key):
    options = ("--signing-command", "false", "--signing-public-key", public_key)
    code, out, err = run(capsys, *arguments, *options)
    assert (code, out) == (3, "")
    assert "error[signer]" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--signing-command", "x"),
        ("--signing-public-key", "PUBLIC"),
        ("--signing-command", "x", "--signing-public-key", "PUBLIC", "--signing-key", "PUBLIC"),
        ("--signing-input", "hash"),
        ("--date", "2024-01-01"),
    ],
    ids=str,
)
def test_signing_options_that_contradict_are_usage_errors(capsys, arguments, public_key, options):
    options = [public_key if option == "PUBLIC" else option for option in options]
    code, out, _ = run(capsys, *arguments, *options)
    assert (code, out) == (2, "")


def test_the_date_comes_from_the_epoch_only_when_asked(capsys, arguments, tmp_path, repository, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    key = str(repository / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem")
    for options, date in (((), "0000-00-00"), (("--date", "source-date-epoch"), "2026-01-01")):
        assert run(capsys, *arguments, "--force", "--signing-key", key, *options)[0] == 0
        assert parse_sigstruct((tmp_path / "out" / "tiny.sig").read_bytes()).body.date == date
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    code, _, err = run(capsys, *arguments, "--force", "--signing-key", key, "--date", "source-date-epoch")
    assert code == 1
    assert "error[no-epoch]" in err


def view_of(tiny, *, verbose):
    said = tiny.values["sigstruct"]
    names = ["mr_signer", "mr_enclave", "isv_prod_id", "isv_svn", "debug_enclave"]
    if verbose:
        names += ["attribute_flags", "attribute_flags_mask", "attribute_xfrms", "attribute_xfrm_mask"]
        names += ["misc_select", "misc_mask", "date"]
    return {name: said[name] for name in names}


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("with_sigstruct", [False, True])
def test_measure_compares_a_sigstruct_view(capsys, files, tiny, tmp_path, verbose, with_sigstruct):
    more = ("--sigstruct", files["sigstruct"]) if with_sigstruct else ()
    path = tmp_path / "view.json"
    view = view_of(tiny, verbose=verbose)
    path.write_text(json.dumps(view, indent=4))
    code, out, _ = run(capsys, *measure(files, "--sigstruct-view", str(path), "--json", *more))
    assert code == 0
    assert json.loads(out)["mr_enclave"] == view["mr_enclave"]
    for name in ("mr_enclave", *(("mr_signer",) if with_sigstruct else ())):
        path.write_text(json.dumps({**view, name: "00" * 32}))
        code, out, err = run(capsys, *measure(files, "--sigstruct-view", str(path), *more))
        assert (code, out) == (1, "")
        assert "error[sigstruct-mismatch]" in err


def test_measure_refuses_versions_that_it_does_not_know(capsys, files):
    assert run(capsys, *measure(files, "--gramine-version", "1.9"))[0] == 0
    for version in ("1.4", "1.10", "2.0", "1.9\n"):
        code, out, err = run(capsys, *measure(files, "--gramine-version", version))
        assert (code, out) == (1, "")
        assert "error[gramine-version]" in err


def test_an_sgxs_export_that_fails_leaves_the_old_file(capsys, files, tmp_path):
    target = tmp_path / "out.sgxs"
    target.write_bytes(b"old")
    (tmp_path / "out.sgxs.new").mkdir()
    assert run(capsys, *measure(files, "--sgxs", str(target)))[0] == 1
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("more", "epoch", "date"),
    [
        ([], "1700000000", "0000-00-00"),
        (["--date", "source-date-epoch"], "1700000000", "2023-11-14"),
        (["--date", "source-date-epoch"], "0", "1970-01-01"),
    ],
)
def test_the_sigstructs_date_is_none_or_that_of_the_epoch(
    capsys, arguments, tmp_path, repository, monkeypatch, more, epoch, date
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    key = repository / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem"
    assert run(capsys, *arguments, "--signing-key", str(key), *more)[0] == 0
    assert parse_sigstruct((tmp_path / "out" / "tiny.sig").read_bytes()).body.date == date


@pytest.mark.parametrize("epoch", [None, "", "yesterday", "-1", " 1", "9999999999999"])
def test_an_epoch_that_is_no_time_is_refused(capsys, arguments, tmp_path, repository, monkeypatch, epoch):
    if epoch is None:
        monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    else:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    key = repository / "tests" / "vectors" / "gramine" / "test-signing-key-INSECURE.pem"
    code, _, err = run(capsys, *arguments, "--signing-key", str(key), "--date", "source-date-epoch")
    assert code == 1
    assert err.startswith("error[")
    assert not (tmp_path / "out").exists()
