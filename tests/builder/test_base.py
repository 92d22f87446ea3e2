"""The base layer: MRENCLAVE from its list alone, and the list proven against a pool that the test builds."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from assay.builder import base, tree
from assay.builder.base import make_zip
from assay.builder.base_lock import parse_base_lock
from assay.builder.base_pool import package_finder
from assay.builder.build import build, no_packages, prepare
from assay.builder.compose import Inputs
from assay.builder.output import load_build
from assay.builder.publish import provenance_of
from assay.builder.recipe import load_recipe
from assay.builder.wheels import wheel_finder
from assay.cli import main
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError


@pytest.fixture
def inputs(log_policy, ca_pem):
    return Inputs(log_policy, ca_pem)


def arguments(based, inputs):
    return {
        "recipe_folder": based.recipe,
        "source": based.source,
        "inputs": inputs,
        "find_wheels": wheel_finder(based.wheels),
        "report": lambda line: None,
    }


def only_gramine(based):
    find = package_finder([based.pool])
    return lambda locked: find(locked) if locked.name == "gramine" else no_packages(locked)


def relock(based, change):
    """Change the list, and pin what it became: a liar's lock is pinned too."""
    path = based.recipe / "base.lock"
    spoiled = change(path.read_text())
    assert spoiled.encode() != path.read_bytes()
    pins = (based.recipe / "recipe.lock").read_text()
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(spoiled)
    (based.recipe / "recipe.lock").write_text(pins.replace(old, hashlib.sha256(spoiled.encode()).hexdigest()))


def prove(based):
    recipe = load_recipe(based.recipe)
    return base.prove(recipe.base, recipe.base_lock, package_finder([based.pool]), progress=lambda name: None)


def test_the_measurement_needs_the_list_alone(based, inputs):
    listed = prepare(**arguments(based, inputs), find_package=only_gramine(based))
    proven = prepare(**arguments(based, inputs), find_package=package_finder([based.pool]), verify_base=True)
    assert listed.record == proven.record
    added = {name for name in proven.files if name not in listed.files}
    assert added == {"rootfs/lib/libdemo.so.1", "rootfs/usr/bin/python3", "rootfs/usr/lib/python3.zip"}
    assert {name: proven.files[name] for name in listed.files} == listed.files


def test_the_manifest_trusts_every_file_of_the_list(based, inputs):
    built = prepare(**arguments(based, inputs), find_package=only_gramine(based))
    trusted = built.record.trusted_files
    assert trusted["rootfs/usr/bin/python3"] == hashlib.sha256(b"the interpreter").digest()
    assert list(trusted) == tree.depth_first(trusted)
    contents = json.loads(built.files["tree.json"])["files"]
    assert contents["usr/bin/python3"]["size"] == 15
    assert len(contents) == len(trusted)


def test_without_gramines_package_nothing_is_measured(based, inputs):
    with pytest.raises(UnavailableError, match=r"package gramine 1\.9") as refusal:
        prepare(**arguments(based, inputs))
    assert refusal.value.code == "package-missing"


def test_a_lock_without_gramine_is_refused_by_name(based, inputs, snapshot_time):
    made = ["--pool", str(based.pool), "--snapshot", snapshot_time, "--without-gramine"]
    assert main(["base", "lock", str(based.recipe), *made]) == 0
    for verify in (False, True):
        with pytest.raises(UntrustedError, match="assay base add-gramine") as refusal:
            prepare(**arguments(based, inputs), find_package=package_finder([based.pool]), verify_base=verify)
        assert refusal.value.code == "gramine-missing"


def test_a_build_writes_programs_that_can_be_executed_and_reads_back(based, inputs, tmp_path):
    find = package_finder([based.pool])
    proven = build(**arguments(based, inputs), out=tmp_path / "a", find_package=find, verify_base=True)
    listed = build(**arguments(based, inputs), out=tmp_path / "b", find_package=find)
    modes = {
        path: (tmp_path / "a/rootfs" / path).stat().st_mode & 0o777
        for path in ("usr/bin/python3", "app/top.py")
    }
    assert modes == {"usr/bin/python3": 0o555, "app/top.py": 0o444}
    assert load_build(tmp_path / "a").record == proven.record
    assert load_build(tmp_path / "b").record == listed.record == proven.record
    assert (tmp_path / "a/libpal.so").read_bytes() == based.libpal


@pytest.mark.parametrize(
    "change",
    [
        lambda out: (out / "base.lock").unlink(),
        lambda out: (out / "base.lock").write_bytes((out / "base.lock").read_bytes() + b"\n"),
        lambda out: (out / "rootfs/usr/bin/python3").unlink(),
        lambda out: (out / "rootfs/usr/lib/python3.zip").write_bytes(b"PK"),
        lambda out: (out / "rootfs/usr/bin/more").write_bytes(b""),
    ],
    ids=["no list", "another list", "one file of the layer missing", "another file", "one more file"],
)
def test_a_build_whose_base_layer_was_changed_is_not_loaded(based, inputs, tmp_path, change):
    out = tmp_path / "out"
    build(**arguments(based, inputs), out=out, find_package=package_finder([based.pool]), verify_base=True)
    for path in out.rglob("*"):
        path.chmod(0o755)
    change(out)
    with pytest.raises((LogError, OSError)):
        load_build(out)


def test_the_provenance_names_every_package(based, inputs):
    record = prepare(**arguments(based, inputs), find_package=only_gramine(based)).record
    said = provenance_of(record, builder_id="urn:x").resolved_dependencies
    uris = {item.get("uri"): item["digest"]["sha256"] for item in said}
    data = (based.pool / "pydemo_1%3a3.11-1_amd64.deb").read_bytes()
    assert uris["pkg:deb/debian/pydemo@1%3A3.11-1?arch=amd64"] == hashlib.sha256(data).hexdigest()
    assert "pkg:deb/debian/libdemo1@1.2-1?arch=all" in uris


def test_a_list_is_proven_by_its_packages(based):
    layer = prove(based)
    assert layer.files["usr/bin/python3"] == b"the interpreter"
    assert layer.libraries["libpal"] == based.libpal


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda t: t.replace("size = 15 }", "size = 16 }"),
            "usr/bin/python3 .package pydemo: usr/bin/python3.",
        ),
        (lambda t: t.replace('class = "program"', 'class = "data"'), "usr/bin/python3 .package pydemo"),
        (
            lambda t: t.replace(hashlib.sha256(b"the library").hexdigest(), "0" * 64),
            r"lib/libdemo.so.1 .package libdemo1: lib/libdemo.so.1.",
        ),
        (lambda t: t.replace(hashlib.sha256(b"import sys\n").hexdigest(), "0" * 64), "os.py .package pydemo"),
        (
            lambda t: t.replace(
                '    { to = "os.py"',
                f'    {{ to = "extra.py", package = "pydemo", from = "usr/lib/python3/extra.py", class = "data", '
                f'sha256 = "{"0" * 64}", size = 1 }},\n    {{ to = "os.py"',
            ),
            "extra.py .*listed, but nothing",
        ),
        (
            lambda t: "".join(line for line in t.splitlines(keepends=True) if 'to = "demo.py"' not in line),
            "demo.py .package libdemo1.* missing from the lock",
        ),
    ],
    ids=["size", "class", "digest", "member", "one more", "one less"],
)
def test_a_list_that_claims_something_else_is_refused_by_package_and_file(based, change, named):
    relock(based, change)
    with pytest.raises(UntrustedError, match=named) as refusal:
        prove(based)
    assert refusal.value.code == "base-mismatch"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace('version = "1:3.11-1"', 'version = "1:3.11-2"'),
        lambda t: t.replace('architecture = "all"', 'architecture = "amd64"'),
        lambda t: t.replace("pool/main/p/pydemo/", "pool/main/q/pydemo/"),
        lambda t: t.replace("pool/updates/main/d/demo/", "pool/updates/main/d/other/"),
    ],
    ids=range(4),
)
def test_a_package_that_says_it_is_another_is_refused(based, change):
    relock(based, change)
    with pytest.raises((UntrustedError, UnavailableError)) as refusal:
        prove(based)
    assert refusal.value.code in ("base-package", "package-missing")


@pytest.mark.parametrize(
    "name", ["pydemo_1%3a3.11-1_amd64.deb", "libdemo1_1.2-1_all.deb", "gramine_1.9_amd64.deb"]
)
def test_another_package_file_is_refused_by_name(based, name):
    with (based.pool / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UntrustedError, match=name.partition("_")[0]) as refusal:
        prove(based)
    assert refusal.value.code == "base-package"


def test_a_package_of_the_same_content_in_another_spelling_is_refused(based):
    lock = load_recipe(based.recipe).base_lock
    for locked in lock.packages:
        data = bytearray(package_finder([based.pool])(locked))
        assert base.open_package(locked, bytes(data)).name == locked.name
        data[8 + 16] = ord("1")  # the first member's time, of which nobody reads anything
        with pytest.raises(UntrustedError) as refusal:
            base.open_package(locked, bytes(data))
        assert refusal.value.code == "base-package"


def test_one_byte_of_one_packaged_file_is_another_measurement(based, inputs, debs, snapshot_time):
    before = prepare(**arguments(based, inputs), find_package=only_gramine(based)).record.mr_enclave
    path = based.pool / "libdemo1_1.2-1_all.deb"
    files = {"lib/libdemo.so.1": b"the librarz", "usr/lib/python3/demo.py": b"D = 1\n"}
    path.write_bytes(debs.make("libdemo1", files, version="1.2-1", architecture="all"))
    with pytest.raises(UntrustedError):
        prove(based)
    assert (
        main(["base", "lock", str(based.recipe), "--pool", str(based.pool), "--snapshot", snapshot_time]) == 0
    )
    prove(based)
    assert prepare(**arguments(based, inputs), find_package=only_gramine(based)).record.mr_enclave != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('to = "usr/bin/python3"', 'to = "usr/bin/python4"'),
        ('from = "lib/libdemo.so.1"', 'from = "lib/libdemo.so.1.2"'),
        ('archive = "debian-security"', 'archive = "debian"'),
        ('to = "usr/lib/python3.zip"', 'to = "usr/lib/python4.zip"'),
        ('from = "usr/lib/gramine/libsysdb.so"', 'from = "usr/lib/gramine/sgx/libpal.so"'),
        ('architecture = "amd64"', 'architecture = "arm64"'),
    ],
    ids=range(6),
)
def test_a_list_of_another_recipe_is_refused_without_any_package(based, inputs, old, new):
    path = based.recipe / "recipe.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UntrustedError) as refusal:
        prepare(**arguments(based, inputs), find_package=only_gramine(based))
    assert refusal.value.code == "base-mismatch"


@pytest.mark.parametrize("verify", [False, True])
def test_a_list_with_a_package_that_the_recipe_does_not_name_is_refused(based, inputs, verify):
    stranger = (
        '    { name = "stranger", version = "1.0-1", architecture = "amd64", archive = "debian", '
        f'path = "pool/main/s/stranger/stranger_1.0-1_amd64.deb", sha256 = "{"0" * 64}", size = 1 }},\n'
    )
    relock(based, lambda t: t.replace("]\nfile = [", stranger + "]\nfile = [", 1))
    with pytest.raises(UntrustedError) as refusal:
        prepare(**arguments(based, inputs), find_package=package_finder([based.pool]), verify_base=verify)
    assert refusal.value.code == "base-mismatch"


def test_a_base_file_in_the_place_of_a_source_is_refused(based, inputs, snapshot_time):
    path = based.recipe / "recipe.toml"
    path.write_text(path.read_text().replace('to = "lib/libdemo.so.1"', 'to = "app/top.py"', 1))
    assert (
        main(["base", "lock", str(based.recipe), "--pool", str(based.pool), "--snapshot", snapshot_time]) == 0
    )
    with pytest.raises(MalformedError) as refusal:
        prepare(**arguments(based, inputs), find_package=only_gramine(based))
    assert refusal.value.code == "tree-conflict"


def test_a_recipe_without_base_layer_has_nothing_to_verify(workshop, inputs):
    with pytest.raises(UntrustedError) as refusal:
        prepare(**arguments(workshop, inputs), verify_base=True)
    assert refusal.value.code == "no-base"


def test_the_zip_is_stored_sorted_dated_1980_and_python_imports_from_it(tmp_path):
    files = {"b/__init__.py": b"VALUE = 7\n", "a.py": b"import b\nprint(b.VALUE)\n", "b/c.py": b""}
    data = make_zip(files)
    assert data == make_zip(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted(files)
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    (tmp_path / "x.zip").write_bytes(data)
    code = f"import sys; sys.path[:0] = [{str(tmp_path / 'x.zip')!r}]; import a"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b"7\n"


def test_a_zip_with_two_members_of_one_name_or_none_is_refused(based, debs, snapshot_time):
    again = debs.make("libdemo1", {"lib/libdemo.so.1": b"", "usr/lib/python3/os.py": b""}, version="1.2-1")
    (based.pool / "libdemo1_1.2-1_all.deb").write_bytes(again)
    made = ["base", "lock", str(based.recipe), "--pool", str(based.pool), "--snapshot", snapshot_time]
    assert main(made) == 1
    path = based.recipe / "recipe.toml"
    path.write_text(path.read_text().replace('from = "usr/lib/python3" }', 'from = "usr/lib/nowhere" }'))
    assert main(made) == 1


def test_the_committed_list_of_the_agent_gives_a_measurement(
    repository, inputs, debs, standin, tmp_path, wheel
):
    """Real Debian packages, by their committed list; only Gramine's package is one of the test's own."""
    recipe = tmp_path / "agent"
    shutil.copytree(repository / "reproducible" / "agent", recipe)
    committed = parse_base_lock((recipe / "base.lock").read_bytes(), what="base.lock")
    libpal = (standin / "libpal-standin.so").read_bytes()
    names = ("usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so", "usr/lib/x86_64-linux-gnu/gramine/libsysdb.so")
    (tmp_path / "gramine_1.9_amd64.deb").write_bytes(
        debs.make("gramine", dict.fromkeys(names, libpal), version="1.9")
    )
    assert main(["base", "add-gramine", str(recipe), str(tmp_path / "gramine_1.9_amd64.deb")]) == 0
    fake = {w: wheel({}, name=w.name, version=w.version) for w in load_recipe(recipe).lock.wheels}
    built = prepare(
        recipe,
        repository,
        inputs,
        find_wheels=lambda locked: fake,
        report=lambda line: None,
        find_package=package_finder([tmp_path]),
    )
    trusted = built.record.trusted_files
    assert {f"rootfs/{to}": c.sha256 for to, c in committed.files.items()}.items() <= trusted.items()
    assert trusted["rootfs/usr/bin/python3.11"] == committed.files["usr/bin/python3.11"].sha256
    assert built.record.libpal_sha256 == hashlib.sha256(libpal).digest()
