"""``[base]`` and its lock: one spelling, known keys, no file from nowhere."""

import tomllib

import pytest

from assay.builder.base_lock import parse_base_lock, parse_base_spec
from assay.builder.recipe import load_recipe, parse_recipe
from assay.tlog.errors import LogError, MalformedError, UntrustedError


@pytest.fixture
def lock(based):
    return (based.recipe / "base.lock").read_bytes()


@pytest.fixture
def table(based):
    return tomllib.loads((based.recipe / "recipe.toml").read_text())["base"]


def test_a_lock_is_toml_that_lists_packages_files_members_and_libraries(lock, snapshot_time):
    read = tomllib.loads(lock.decode())
    assert (read["snapshot"], read["architecture"]) == (snapshot_time, "amd64")
    assert [p["name"] for p in read["package"]] == ["gramine", "libdemo1", "pydemo"]
    assert [(f["to"], f["class"]) for f in read["file"]] == [
        ("lib/libdemo.so.1", "data"),
        ("usr/bin/python3", "program"),
        ("usr/lib/python3.zip", "data"),
    ]
    assert [m["to"] for m in read["member"]] == ["demo.py", "os.py", "sub/kept.py"]
    assert [m["to"] for m in read["library"]] == ["libpal", "libsysdb"]


def test_parsing_and_formatting_are_inverse(lock):
    assert parse_base_lock(lock, what="x").to_bytes() == lock


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("format = 1", "format = 2"),
        ("format = 1", "format =  1"),
        ("format = 1", "format = 1\nextra = 1"),
        ("# Made", "# made"),
        ('architecture = "amd64"\nsnapshot', 'architecture = "../amd64"\nsnapshot'),
        ("20261120T000000Z", "20261120"),
        ("20261120T000000Z", "2026-11-20"),
        ('name = "pydemo"', 'name = "Pydemo"'),
        ('name = "pydemo"', 'name = "adamo"'),
        ('version = "1:3.11-1"', 'version = "1:3.11/1"'),
        ('path = "pool/main/p', 'path = "/pool/main/p'),
        ('path = "pool/main/p', 'path = "../pool/main/p'),
        ('to = "usr/bin/python3"', 'to = "../usr/bin/python3"'),
        ('to = "usr/bin/python3"', 'to = "usr/bin/python3.pyc"'),
        ('to = "usr/bin/python3"', 'to = "a/first"'),
        ('to = "usr/bin/python3"', 'to = "lib/libdemo.so.1"'),
        ('class = "program"', 'class = "device"'),
        ('package = "pydemo", from = "usr/bin/python3"', 'package = "nowhere", from = "usr/bin/python3"'),
        ('package = "pydemo", from = "usr/bin/python3"', 'from = "usr/bin/python3"'),
        ('package = "pydemo", from = "usr/bin/python3"', 'package = "pydemo", from = "/usr/bin/python3"'),
        ("size = 15 }", "size = -15 }"),
        ("size = 15 }", "size = 15.0 }"),
        ("size = 15 }", 'size = 15, note = "x" }'),
    ],
    ids=range(23),
)
def test_another_spelling_or_form_of_a_lock_is_refused(lock, old, new):
    spoiled = lock.decode().replace(old, new, 1).encode()
    assert spoiled != lock
    with pytest.raises(MalformedError):
        parse_base_lock(spoiled, what="x")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[", b"format = 1\n"])
def test_what_is_no_lock_is_refused(data):
    with pytest.raises(MalformedError):
        parse_base_lock(data, what="x")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("lock"),
        lambda t: t.update(lock="sub/base.lock"),
        lambda t: t.update(lock="../base.lock"),
        lambda t: t.update(extra=1),
        lambda t: t.update(architecture="AMD64"),
        lambda t: t["packages"].append({"name": "unused", "archive": "debian"}),
        lambda t: t["packages"].append(dict(t["packages"][0])),
        lambda t: t["packages"].pop(),
        lambda t: t["packages"][0].update(archive="../debian"),
        lambda t: t["files"].append(dict(t["files"][0])),
        lambda t: t["files"][0].update(to="/abs"),
        lambda t: t["files"][0].update({"from": "../x"}),
        lambda t: t["files"][0].update(to="a/__pycache__/x"),
        lambda t: t["zip"].update(to=t["files"][0]["to"]),
        lambda t: t["zip"].update(exclude=["../x"]),
        lambda t: t["zip"].update(folder="x"),
        lambda t: t["libraries"].pop("libpal"),
        lambda t: t["libraries"].update(other=t["libraries"]["libpal"]),
    ],
    ids=range(18),
)
def test_a_choice_of_another_form_is_refused(table, change):
    parse_base_spec(table, what="x")
    change(table)
    with pytest.raises(MalformedError):
        parse_base_spec(table, what="x")


def test_a_recipe_knows_its_base_layer(based):
    recipe = load_recipe(based.recipe)
    assert recipe.base_lock is not None
    assert recipe.lock.base_sha256 == recipe.base_lock.sha256
    assert recipe.lock.libraries == {}


def test_a_base_layer_without_its_lock_is_refused_by_name(based):
    (based.recipe / "base.lock").unlink()
    with pytest.raises(MalformedError, match=r"base\.lock.*assay base lock") as refusal:
        load_recipe(based.recipe)
    assert refusal.value.code == "base-lock-missing"


def test_another_lock_than_the_pinned_one_is_refused(based):
    path = based.recipe / "base.lock"
    path.write_bytes(path.read_bytes().replace(b"size = 15", b"size = 16"))
    with pytest.raises(UntrustedError) as refusal:
        load_recipe(based.recipe)
    assert refusal.value.code == "lock-mismatch"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lock: lock.replace("[base]", "[basis]"),
        lambda lock: lock[: lock.index("[base]")] + lock[lock.index("[[wheel]]") :],
        lambda lock: lock.replace("[[wheel]]", f'[libpal]\nfile = "x"\nsha256 = "{"0" * 64}"\n[[wheel]]', 1),
    ],
    ids=["unknown", "unpinned", "two sources of libpal"],
)
def test_a_recipe_lock_that_does_not_fit_the_base_layer_is_refused(based, spoil):
    lock = (based.recipe / "recipe.lock").read_text()
    files = [(based.recipe / name).read_bytes() for name in ("recipe.toml", "base.lock")]
    parse_recipe(files[0], lock.encode(), files[1])
    with pytest.raises(LogError):
        parse_recipe(files[0], spoil(lock).encode(), files[1])


def test_a_pinned_base_layer_that_the_recipe_does_not_have_is_refused(workshop):
    path = workshop.recipe / "recipe.lock"
    path.write_text(path.read_text().replace("[libpal]", f'[base]\nsha256 = "{"0" * 64}"\n[libpal]', 1))
    with pytest.raises(MalformedError):
        load_recipe(workshop.recipe)
