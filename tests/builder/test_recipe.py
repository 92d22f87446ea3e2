"""Recipes and locks: strict TOML, no second meaning for anything."""

import re

import pytest

from assay.builder.recipe import LockedWheel, load_recipe, parse_lock, parse_recipe
from assay.tlog.errors import MalformedError

DIGEST = "ab" * 32
LIBRARIES = "".join(f'[{n}]\nfile = "lib.so"\nsha256 = "{DIGEST}"\n' for n in ("libpal", "libsysdb"))
WHEEL = (
    f'[[wheel]]\nname = "demo"\nversion = "1.0"\nfile = "demo-1.0-py3-none-any.whl"\nsha256 = "{DIGEST}"\n'
)
LOCK = "format = 1\n" + LIBRARIES + WHEEL


@pytest.fixture
def text(workshop):
    return (workshop.recipe / "recipe.toml").read_text()


def test_a_recipe_is_read_with_its_lock(workshop):
    recipe = load_recipe(workshop.recipe)
    assert (recipe.name, recipe.product, recipe.release, recipe.epoch_s) == (
        "tiny", "tiny-product", "1.2.3", 1_700_000_000
    )  # fmt: skip
    assert [copy.target for copy in recipe.sources] == ["app/top.py", "app/pkg"]
    assert recipe.exclude == ("cli.py", "lib/left/", "lib/out.py")
    assert [wheel.name for wheel in recipe.lock.wheels] == ["demo-pkg"]


@pytest.mark.parametrize("name", ["recipe.toml", "recipe.lock"])
def test_a_missing_file_is_an_error(workshop, name):
    (workshop.recipe / name).unlink()
    with pytest.raises(FileNotFoundError):
        load_recipe(workshop.recipe)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("format = 1\n", ""),
        ("format = 1\n", "format = 2\n"),
        ("format = 1\n", "format = true\n"),
        ("format = 1\n", "format = 1\nsurprise = 1\n"),
        ("format = 1\n", "format = 1\nformat = 1\n"),
        ('name = "tiny"', 'name = "../tiny"'),
        ('name = "tiny"', 'name = "Tiny"'),
        ('name = "tiny"', 'name = ""'),
        ('name = "tiny"', "name = 1"),
        ('product = "tiny-product"', 'product = "tiny@product"'),
        ('release = "1.2.3"', 'release = "1.2.3\\n"'),
        ('gramine_version = "1.9"', 'gramine_version = "1.4"'),
        ('gramine_version = "1.9"', 'gramine_version = "2.0"'),
        ("epoch_s = 1700000000", "epoch_s = 0"),
        ("epoch_s = 1700000000", "epoch_s = -1"),
        ("epoch_s = 1700000000", "epoch_s = 1.5"),
        ("epoch_s = 1700000000", f"epoch_s = {2**33}"),
        ('to = "app/pkg"', 'to = "/app/pkg"'),
        ('from = "lib"', 'from = "../lib"'),
        ('from = "lib"', 'from = "lib/"'),
        ('from = "lib"', 'from = "."'),
        ('"lib/out.py"', '"../out.py"'),
        ('"lib/out.py"', '""'),
        ('"lib/out.py"', '"/"'),
        ('"lib/out.py"', "7"),
        ('from = "main.py"', 'from = "/main.py"'),
        ('ca = "app/llm-ca.pem"', ""),
        ('ca = "app/llm-ca.pem"', 'ca = "app/llm-ca.pem"\nmore = "x"'),
        ('log_policy = "app/', 'log_policy = "../app/'),
        ("threads = 4", "threads = 0"),
        ("threads = 4", "threads = 4097"),
        ("threads = 4", 'threads = "4"'),
        ("edmm = true", "edmm = 1"),
        ("isv_svn = 3", "isv_svn = 65536"),
        ("isv_svn = 3", "isv_svn = 3\ndebug = true"),
        ('avx = "unspecified"\n', ""),
        ('pkru = "disabled"', 'pkru = "disabled"\nsse = "required"'),
        ('pkru = "disabled"', "pkru = false"),
        ('env = { LANG = "C.UTF-8" }', "env = { LANG = { passthrough = true } }"),
        ('env = { LANG = "C.UTF-8" }', "env = []"),
        ('argv = ["python3", "/app/main.py"]', 'argv = "python3"'),
        ('argv = ["python3", "/app/main.py"]', 'argv = ["python3", 1]'),
        ('{ path = "/app", uri = "file:rootfs/app" }', '{ path = "/app" }'),
        (
            '{ path = "/app", uri = "file:rootfs/app" }',
            '{ path = "/app", uri = "file:x", insecure__x = "1" }',
        ),
        ("[inputs]", "[inputs"),
    ],
    ids=lambda value: re.sub(r"\s+", " ", value)[:40],
)
def test_recipes_in_another_form_are_refused(text, old, new):
    assert old in text
    with pytest.raises(MalformedError):
        parse_recipe(text.replace(old, new, 1).encode(), LOCK.encode())


ALLOW = '[[allow]]\nrule = "debug"\nreason = "a test"\n'


def test_allowances_are_read_with_their_reasons(text):
    assert parse_recipe(text.encode(), LOCK.encode()).allow == {}
    assert parse_recipe((text + ALLOW).encode(), LOCK.encode()).allow == {"debug": "a test"}


@pytest.mark.parametrize(
    "allow",
    [
        ALLOW + ALLOW,
        ALLOW.replace('reason = "a test"\n', ""),
        ALLOW.replace('"a test"', '""'),
        ALLOW.replace('"a test"', "1"),
        ALLOW.replace('rule = "debug"\n', ""),
        ALLOW + "where = 1\n",
        ALLOW.replace("[[allow]]", "[allow]"),
    ],
    ids=range(7),
)
def test_allowances_in_another_form_are_refused(text, allow):
    with pytest.raises(MalformedError):
        parse_recipe((text + allow).encode(), LOCK.encode())


def test_a_lock_is_read():
    lock = parse_lock(LOCK.encode())
    assert lock.wheels == (LockedWheel("demo", "1.0", "demo-1.0-py3-none-any.whl", bytes.fromhex(DIGEST)),)
    assert lock.libraries["libpal"].file == "lib.so"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "format = 1\n",
        "format = 1\n" + WHEEL,
        LOCK + WHEEL,
        LOCK + WHEEL.replace('"demo"', '"Demo"'),
        LOCK.replace('"demo"', '"de_mo"'),
        LOCK.replace('"demo"', '"de--mo"'),
        LOCK.replace('"1.0"', '">=1.0"'),
        LOCK.replace("demo-1.0-py3-none-any.whl", "demo-1.0.tar.gz"),
        LOCK.replace("demo-1.0-py3-none-any.whl", "../demo-1.0-py3-none-any.whl"),
        LOCK.replace("demo-1.0-py3-none-any.whl", "https://host/demo-1.0-py3-none-any.whl"),
        LOCK.replace(DIGEST, DIGEST.upper()),
        LOCK.replace(DIGEST, DIGEST[:-2]),
        LOCK.replace(DIGEST, "sha256:" + DIGEST),
        LOCK.replace('file = "lib.so"', 'file = "/usr/lib/libpal.so"'),
        LOCK + 'url = "x"\n',
        LOCK + "[python]\n",
    ],
    ids=range(17),
)
def test_locks_in_another_form_are_refused(text):
    with pytest.raises(MalformedError):
        parse_lock(text.encode())


def test_not_utf_8_is_refused(text):
    with pytest.raises(MalformedError):
        parse_recipe(text.encode() + b"#\xff", LOCK.encode())
