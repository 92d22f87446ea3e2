"""Why two builds differ: each kind of change is named, and called what it is; and nothing is found where nothing is."""

import dataclasses
import json
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest.gramine.options import parse_manifest
from assay.attest.gramine.sigstruct import parse_sigstruct, sign_sigstruct
from assay.builder import diff_read
from assay.builder.build import build
from assay.builder.compose import Inputs
from assay.builder.diff import compare
from assay.builder.difference import MAX_CHANGES, MAX_VALUE_LENGTH, Measured, Topic, lines_of
from assay.builder.manifest_diff import compare_manifests
from assay.builder.output import load_build
from assay.builder.publish import ReleaseTerms, provenance_of, release_of
from assay.builder.side import side_of_manifest, side_of_release, side_of_sigstruct
from assay.builder.sigstruct_signing import key_signing
from assay.builder.wheels import wheel_finder
from assay.tlog.errors import LogError, MalformedError, UntrustedError

TERMS = ReleaseTerms((), 1, None, 1, None, None)


class Yard:
    """Two places to build the same or something else, and what the comparison finds."""

    def __init__(self, root: Path, maker, inputs: Inputs) -> None:
        self.root, self.inputs = root, inputs
        self.a, self.b = maker(root / "a"), maker(root / "b")

    def build(self, name: str, **options):
        workshop = getattr(self, name)
        inputs = options.pop("inputs", self.inputs)
        return build(
            workshop.recipe,
            workshop.source,
            inputs,
            self.root / f"out-{name}",
            find_wheels=wheel_finder(workshop.wheels),
            report=lambda line: None,
            force=True,
            **options,
        )

    def compare(self, *, a=None, b=None):
        self.build("a", **(a or {}))
        self.build("b", **(b or {}))
        return compare(self.read("a"), self.read("b"))

    def read(self, name: str):
        return diff_read.read_side(self.root / f"out-{name}", progress=lambda done, total: None)

    def recipe(self, old: str, new: str, file: str = "recipe.toml") -> None:
        path = self.b.recipe / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def yard(tmp_path, workshop_maker, log_policy, ca_pem):
    return Yard(tmp_path, workshop_maker, Inputs(log_policy, ca_pem))


def topics(found):
    return {str(section.topic): [change.what for change in section.changes] for section in found.sections}


def change_of(found, topic, what):
    [section] = [section for section in found.sections if section.topic is topic]
    [change] = [change for change in section.changes if change.what == what]
    return change


def test_equal_builds_are_the_same(yard):
    found = yard.compare()
    assert found.same
    assert found.sections == ()
    assert found.measured is Measured.EQUAL
    assert found.cause == "MRENCLAVE is equal, and nothing else differs."


MEASURED = {
    "src/top.py": ("rootfs/app/top.py", "from source top.py"),
    "src/lib/a/x.py": ("rootfs/app/pkg/a/x.py", "from source lib/a/x.py"),
    "recipe/main.py": ("rootfs/app/main.py", "from recipe file main.py"),
}


@pytest.mark.parametrize("path", MEASURED)
def test_one_changed_byte_of_one_trusted_file_is_another_mrenclave_and_the_file_is_named(yard, path):
    file = yard.b.recipe.parent / path
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    found = yard.compare()
    name, origin = MEASURED[path]
    assert found.a.mr_enclave != found.b.mr_enclave
    assert not found.same
    assert found.measured is Measured.DIFFERENT
    assert topics(found)["trusted files"] == [name]
    change = change_of(found, Topic.FILES, name)
    assert change.note == origin
    assert {change.a, change.b} == {
        load_build(yard.root / f"out-{which}").record.trusted_files[name].hex() for which in "ab"
    }
    assert found.cause == f"MRENCLAVE differs because the trusted file {name} differs ({origin})."
    assert not topics(found).keys() & {"manifest", "order only", "libpal", "enclave", "wheels", "folder"}


def test_a_file_that_is_only_in_one_is_named(yard):
    (yard.b.source / "lib" / "new.py").write_bytes(b"NEW = 1\n")
    found = yard.compare()
    change = change_of(found, Topic.FILES, "rootfs/app/pkg/new.py")
    assert change.a is None
    assert change.b is not None
    assert "rootfs/app/pkg/new.py is only in B (from source lib/new.py)" in found.cause


def test_a_moved_file_is_named_with_where_its_content_was(yard):
    (yard.b.source / "lib" / "a.py").rename(yard.b.source / "lib" / "moved.py")
    found = yard.compare()
    assert topics(found)["trusted files"] == ["rootfs/app/pkg/a.py", "rootfs/app/pkg/moved.py"]
    assert (
        "the content of A's rootfs/app/pkg/a.py"
        in change_of(found, Topic.FILES, "rootfs/app/pkg/moved.py").note
    )
    assert (
        "the content of B's rootfs/app/pkg/moved.py"
        in change_of(found, Topic.FILES, "rootfs/app/pkg/a.py").note
    )


def test_another_wheel_is_named_and_so_are_its_files(yard, wheel):
    [path] = yard.b.wheels.iterdir()
    data = wheel({"demo_pkg/__init__.py": b"X = 2\n"})
    old = diff_read._sha256(path)
    path.write_bytes(data)
    new = diff_read._sha256(path)
    yard.recipe(old, new, "recipe.lock")
    found = yard.compare()
    change = change_of(found, Topic.WHEELS, "demo-pkg")
    assert old in change.a
    assert new in change.b
    assert (
        change_of(found, Topic.FILES, "rootfs/app/packages/demo_pkg/__init__.py").note
        == "from wheel demo-pkg 1.0"
    )
    assert "from wheel demo-pkg 1.0" in found.cause


def test_another_input_is_named(yard):
    found = yard.compare(b={"inputs": Inputs(yard.inputs.log_policy + b"#\n", yard.inputs.ca)})
    assert topics(found)["inputs"] == ["log_policy"]
    assert change_of(found, Topic.FILES, "rootfs/app/log-policy.txt").note == "from input log_policy"


KEYS = [
    ("threads = 4", "threads = 5", {"sgx.max_threads": ("4", "5")}, {"threads": ("4", "5")}, set()),
    (
        'size = "64M"',
        'size = "128M"',
        {"sgx.enclave_size": ('"64M"', '"128M"')},
        {"enclave size": ("67108864 bytes", "134217728 bytes")},
        set(),
    ),
    ("edmm = true", "edmm = false", {"sgx.edmm_enable": ("true", "false")}, {"EDMM": ("on", "off")}, set()),
    ("isv_svn = 3", "isv_svn = 4", {"sgx.isvsvn": ("3", "4")}, {}, {"isv_svn"}),
    ("use_exinfo = true", "use_exinfo = false", {"sgx.use_exinfo": ("true", "false")}, {}, {"misc_select"}),
    ('"C.UTF-8"', '"C"', {"loader.env.LANG": ('"C.UTF-8"', '"C"')}, {}, set()),
    (
        'avx = "unspecified"',
        'avx = "required"',
        {"sgx.cpu_features.avx": ('"unspecified"', '"required"')},
        {},
        {"attribute_xfrms", "attribute_xfrm_mask"},
    ),
    (
        '"file:state"',
        '"file:other"',
        {'fs.mounts["/state"].uri': ('"file:state"', '"file:other"')},
        {},
        set(),
    ),
    ('argv = ["python3", ', 'argv = ["python", ', {"loader.argv[0]": ('"python3"', '"python"')}, {}, set()),
    ('argv = ["python3", ', 'argv = ["python3", "-I", ', {"loader.argv[]": (None, '"-I"')}, {}, set()),
]


@pytest.mark.parametrize(("old", "new", "keys", "enclave", "fields"), KEYS, ids=[case[1] for case in KEYS])
def test_one_manifest_key_is_named_with_both_values(yard, old, new, keys, enclave, fields):
    yard.recipe(old, new)
    if "use_exinfo" in new:  # a finding of the linter, which the recipe must allow
        path = yard.b.recipe / "recipe.toml"
        path.write_text(f'{path.read_text()}\n[[allow]]\nrule = "use-exinfo"\nreason = "a test"\n')
    found = yard.compare()
    assert found.a.mr_enclave != found.b.mr_enclave
    sections = {section.topic: section for section in found.sections}
    assert {c.what: (c.a, c.b) for c in sections[Topic.MANIFEST].changes} == keys
    options = sections[Topic.ENCLAVE].changes if Topic.ENCLAVE in sections else ()
    assert {c.what: (c.a, c.b) for c in options} == enclave
    assert set(topics(found).get("sigstruct", [])) == fields
    assert f"the manifest's {next(iter(keys))}" in found.cause
    assert Topic.FILES not in sections
    assert Topic.ORDER not in sections


def test_an_order_is_called_an_order(yard):
    mounts = '{ path = "/app", uri = "file:rootfs/app" },\n'
    yard.recipe(f"    {mounts}", "")
    yard.recipe('key_name = "_sgx_mrenclave" },\n', f'key_name = "_sgx_mrenclave" }},\n    {mounts}')
    found = yard.compare()
    assert topics(found).keys() == {"order only", "recipe"}
    assert topics(found)["order only"] == ["fs.mounts"]
    assert "the same content in another order (merkle-json fingerprint " in found.cause
    assert not found.same


def test_a_libpal_that_loads_otherwise_is_explained(yard, elf):
    yard.a.recipe.joinpath("lib.so").read_bytes()
    changed = elf((5, 0, 0, 0x800, 0x800), (6, 0x1F00, 0x2F00, 0x200, 0x2800), entry=0x20)
    path = yard.b.recipe / "own.so"
    path.write_bytes(changed)
    lock = (yard.b.recipe / "recipe.lock").read_text()
    old = diff_read._sha256(yard.b.recipe / "lib.so")
    lock = lock.replace(
        f'[libpal]\nfile = "lib.so"\nsha256 = "{old}"',
        f'[libpal]\nfile = "own.so"\nsha256 = "{diff_read._sha256(path)}"',
    )
    (yard.b.recipe / "recipe.lock").write_text(lock)
    found = yard.compare()
    assert topics(found)["libpal"][:1] == ["the file's SHA-256"]
    assert set(topics(found)["libpal"][1:]) == {
        "entry",
        "segment 0: SHA-256 of its bytes",
        "segment 1: size in memory",
    }
    assert found.measured is Measured.DIFFERENT
    assert found.cause == "MRENCLAVE differs because libpal's entry differs."


def test_a_libpal_that_loads_the_same_is_not_measured(yard):
    data = (yard.b.recipe / "lib.so").read_bytes() + b"a section that no segment loads"
    old = diff_read._sha256(yard.b.recipe / "lib.so")
    (yard.b.recipe / "own.so").write_bytes(data)
    new = diff_read._sha256(yard.b.recipe / "own.so")
    yard.recipe(
        f'[libpal]\nfile = "lib.so"\nsha256 = "{old}"',
        f'[libpal]\nfile = "own.so"\nsha256 = "{new}"',
        "recipe.lock",
    )
    found = yard.compare()
    assert found.a.mr_enclave == found.b.mr_enclave
    assert found.measured is Measured.EQUAL
    assert not found.same
    assert (
        "what is loaded, and so measured, is equal"
        in change_of(found, Topic.LIBPAL, "the file's SHA-256").note
    )
    assert "MRENCLAVE is equal; what differs is not measured: libpal" in found.cause


def test_the_epoch_is_no_part_of_the_measurement(yard):
    yard.recipe("1700000000", "1700000001")
    found = yard.compare()
    assert found.measured is Measured.EQUAL
    assert topics(found) == {"recipe": ["epoch_s", "recipe_sha256", "tree_sha256"]}
    assert found.cause == "MRENCLAVE is equal; what differs is not measured: recipe."


def test_a_signature_on_one_side_is_named(yard, signing_key):
    found = yard.compare(b={"signing": key_signing(signing_key)})
    assert topics(found) == {"sigstruct": ["signed"]}
    assert (change_of(found, Topic.SIGSTRUCT, "signed").a, change_of(found, Topic.SIGSTRUCT, "signed").b) == (
        "no",
        "yes",
    )


def test_a_file_changed_in_a_finished_build_is_named_although_its_manifest_is_the_same(yard):
    yard.build("a")
    yard.build("b")
    path = yard.root / "out-b" / "rootfs/app/main.py"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    found = compare(yard.read("a"), yard.read("b"))
    assert topics(found) == {"folder": ["B: rootfs/app/main.py"]}
    assert not found.same
    assert "a folder contradicts itself, B: rootfs/app/main.py" in found.cause


@pytest.mark.parametrize("name", ["rootfs/extra.py", "rt/libsysdb.so", "libpal.so"])
def test_any_other_contradiction_of_a_folder_is_named(yard, name, elf):
    yard.build("a")
    yard.build("b")
    path = yard.root / "out-b" / name
    if path.exists():
        path.chmod(0o644)
    path.write_bytes(elf((5, 0, 0, 0x900, 0x900)))
    found = compare(yard.read("a"), yard.read("b"))
    assert not found.same
    assert any(name.rpartition("/")[2][:6] in what for what in topics(found)["folder"])


def release_side(yard, name, **changes):
    built = load_build(yard.root / f"out-{name}")
    release = dataclasses.replace(release_of(built, TERMS), **changes)
    return side_of_release(release, provenance_of(built.record, builder_id="urn:x"))


def test_a_release_and_its_rebuild_are_the_same(yard):
    yard.build("a")
    assert compare(release_side(yard, "a"), yard.read("a")).same


def test_a_release_and_another_build_differ_by_their_digests(yard):
    (yard.b.source / "top.py").write_bytes(b"TOP = 2\n")
    yard.build("a")
    yard.build("b")
    found = compare(release_side(yard, "a"), yard.read("b"))
    assert found.measured is Measured.DIFFERENT
    assert topics(found) == {
        "manifest": ["SHA-256"],
        "recipe": ["source_sha256", "tree_sha256", "trusted_files_sha256"],
    }
    assert found.cause == (
        "MRENCLAVE differs because the manifest's SHA-256 differs; source_sha256 differs; trusted_files_sha256 differs."
    )


def test_equal_inputs_with_another_mrenclave_point_to_the_layout(yard):
    yard.build("a")
    said = release_side(yard, "a")
    label = dataclasses.replace(said.label, mr_enclave=bytes(32))
    other = dataclasses.replace(said, label=label, facts={**said.facts, "gramine_version": "1.4"})
    found = compare(other, yard.read("a"))
    assert found.measured is Measured.EQUAL
    assert not found.same
    assert "although the manifest and libpal are equal: the layout differs" in found.cause
    assert "(A 1.4, B 1.9)" in found.cause


def test_only_mrenclave_differing_explains_nothing_more(signing_key, tiny):
    body = parse_sigstruct(tiny.sigstruct).body
    other = sign_sigstruct(dataclasses.replace(body, mr_enclave=bytes(32)), signing_key)
    a, b = side_of_sigstruct("a.sig", tiny.sigstruct), side_of_sigstruct("b.sig", other.to_bytes())
    found = compare(a, b)
    assert found.sections == ()
    assert not found.same
    assert "nothing else that both say" in found.cause


FIELDS = {
    "date": "2001-02-03",
    "attribute_flags": 6,
    "attribute_xfrms": 7,
    "isv_svn": 9,
    "isv_prod_id": 9,
    "misc_select": 1,
    "vendor": 0x8086,
    "isv_family_id": b"f" * 16,
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_sigstruct_is_named(signing_key, tiny, name):
    body = parse_sigstruct(tiny.sigstruct).body
    other = sign_sigstruct(dataclasses.replace(body, **{name: FIELDS[name]}), signing_key)
    found = compare(side_of_sigstruct("a", tiny.sigstruct), side_of_sigstruct("b", other.to_bytes()))
    assert topics(found) == {"sigstruct": [name]}
    assert found.measured is Measured.EQUAL
    assert not found.same


def test_another_signer_is_named(tiny, other_signing_key):
    body = parse_sigstruct(tiny.sigstruct).body
    other = sign_sigstruct(body, other_signing_key)
    found = compare(side_of_sigstruct("a", tiny.sigstruct), side_of_sigstruct("b", other.to_bytes()))
    assert topics(found) == {"sigstruct": ["mr_signer"]}


@pytest.fixture(scope="session")
def other_signing_key():
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(3, 3072)


def test_a_manifest_and_a_sigstruct_have_nothing_measured_in_common(tiny):
    found = compare(side_of_manifest("m", tiny.manifest), side_of_sigstruct("s", tiny.sigstruct))
    assert found.measured is Measured.UNKNOWN
    assert not found.same
    assert "nothing follows for MRENCLAVE" in found.cause


def manifests(a, b):
    return compare(
        *(side_of_manifest("m", m if isinstance(m, bytes) else tomli_w.dumps(m).encode()) for m in (a, b))
    )


BASE = {
    "sgx": {
        "enclave_size": "64M",
        "max_threads": 1,
        "trusted_files": [{"uri": f"file:{n}", "sha256": n * 64} for n in "abc"],
    },
    "fs": {"mounts": [{"path": "/a", "uri": "file:a"}, {"path": "/b", "uri": "file:b"}]},
}


def test_equal_manifests_are_the_same_as_far_as_they_go():
    found = manifests(BASE, BASE)
    assert found.same
    assert found.measured is Measured.UNKNOWN
    assert "so is MRENCLAVE if libpal is" in found.cause


def test_trusted_files_in_another_order_are_order_only():
    files = BASE["sgx"]["trusted_files"]
    found = manifests(BASE, {**BASE, "sgx": {**BASE["sgx"], "trusted_files": files[::-1]}})
    assert topics(found) == {"order only": ["sgx.trusted_files"]}
    assert found.cause.startswith("MRENCLAVE must differ")


def test_a_changed_and_reordered_list_is_named_as_both():
    first, second = BASE["fs"]["mounts"]
    found = manifests(BASE, {**BASE, "fs": {"mounts": [second, {**first, "uri": "file:c"}]}})
    assert topics(found) == {"manifest": ['fs.mounts["/a"].uri'], "order only": ["fs.mounts"]}


def test_keys_in_another_order_are_order_only():
    found = manifests(BASE, dict(reversed(BASE.items())))
    assert topics(found) == {"order only": ["the order of keys"]}


@pytest.mark.parametrize("ending", [b"\n", b"# a comment\n", b" \n"])
def test_another_spelling_of_the_same_content_is_named_as_that(ending):
    text = tomli_w.dumps(BASE).encode()
    found = manifests(text, text + ending)
    assert topics(found) == {"order only": ["the text"]}
    assert "in another spelling" in found.cause
    assert found.measured is Measured.DIFFERENT


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("file:a", "a bare URI without sha256"),
        ({"uri": "file:a"}, "sha256 absent"),
        ({"uri": "file:a", "sha256": 1}, "sha256 1"),
        ({"uri": "file:a", "sha256": "a" * 64, "more": 1}, f'{"a" * 64} {{"more": 1}}'),
    ],
    ids=str,
)
def test_odd_trusted_files_are_shown_as_they_are(entry, expected):
    files = [entry, *BASE["sgx"]["trusted_files"][1:]]
    found = manifests(BASE, {**BASE, "sgx": {**BASE["sgx"], "trusted_files": files}})
    [change] = found.sections[0].changes
    assert (change.what, change.a, change.b) == ("a", "a" * 64, expected)


def test_a_file_that_is_listed_twice_is_not_lost():
    twice = [*BASE["sgx"]["trusted_files"], {"uri": "file:a", "sha256": "0" * 64}]
    found = manifests(BASE, {**BASE, "sgx": {**BASE["sgx"], "trusted_files": twice}})
    assert topics(found) == {"trusted files": ["a"]}


@pytest.mark.parametrize(
    ("a", "b"), [(1, "1"), (1, True), (0, False), ("True", True), ([], {}), ([1], ["1"])]
)
def test_types_count(a, b):
    found = manifests({**BASE, "x": {"y": a}}, {**BASE, "x": {"y": b}})
    assert [what.split("[")[0] for what in topics(found)["manifest"]] == ["x.y"]
    assert Topic.ORDER not in {section.topic for section in found.sections}


TABLES = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from(["", "0", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "uri", "a.b"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(a=TABLES, b=TABLES)
@settings(max_examples=300)
def test_no_difference_is_missed_and_none_invented(a, b):
    left, right = {"sgx": {}, "x": a}, {"sgx": {}, "x": b}
    files, keys, order = compare_manifests(left, right)
    assert files.count == 0
    different = json.dumps(left) != json.dumps(right)
    assert bool(keys.count or order.count) is different
    if keys.count == 0 and order.count:
        assert sorted(json.dumps(left)) == sorted(json.dumps(right))


FILES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["0" * 64, "1" * 64])).map(
        lambda pair: {"uri": f"file:{pair[0]}", "sha256": pair[1]}
    ),
    max_size=4,
)


@given(a=FILES, b=FILES)
def test_no_difference_of_trusted_files_is_missed_and_none_invented(a, b):
    files, keys, order = compare_manifests({"sgx": {"trusted_files": a}}, {"sgx": {"trusted_files": b}})
    assert keys.count == 0
    assert bool(files.count or order.count) is (a != b)
    as_sets = [sorted((item["uri"], item["sha256"]) for item in items) for items in (a, b)]
    assert bool(files.count) is (as_sets[0] != as_sets[1])


def test_a_comparison_is_bounded_whatever_is_compared():
    many = {**BASE, "x": {f"key{n}": "\x1b" * 1000 for n in range(MAX_CHANGES + 7)}}
    found = manifests(BASE | {"x": {}}, many)
    [section] = found.sections
    assert (len(section.changes), section.omitted, section.count) == (MAX_CHANGES, 7, MAX_CHANGES + 7)
    assert all(len(change.b) <= MAX_VALUE_LENGTH for change in section.changes)
    assert "\x1b" not in json.dumps(found.to_json())
    lines = lines_of(found, max_lines=5)
    assert len(lines) == 5
    assert lines[-1] == f"and {MAX_CHANGES + 7 - 3} more"


def test_lines_that_fit_are_all_there(yard):
    (yard.b.source / "top.py").write_bytes(b"TOP = 2\n")
    found = yard.compare()
    lines = lines_of(found, max_lines=32)
    assert lines[0] == found.cause
    assert len(lines) == 1 + sum(section.count for section in found.sections)
    assert lines[1].startswith("trusted files: rootfs/app/top.py: ")


def read(path):
    return diff_read.read_side(path, progress=lambda done, total: None)


def refused(path, kind=LogError, code=None):
    with pytest.raises(kind) as caught:
        read(path)
    assert code is None or caught.value.code == code


def test_kinds_are_told_by_content(tmp_path, tiny):
    for name, data, kind in (("a.json", tiny.manifest, "manifest"), ("b.toml", tiny.sigstruct, "sigstruct")):
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name).label.kind == kind


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\xff", b"{", b"{}", b"[", b"x", b"= 1", b"[sgx]\nx = 1.5", b"sgx = 1", b"[sgx]\ntrusted_files = 1",
     b"[sgx]\ntrusted_files = [1]", b"[sgx]\ntrusted_files = [{sha256 = '0'}]", b"\x7fELF", b"{\n}\n"],
    ids=repr,
)  # fmt: skip
def test_files_of_no_kind_are_refused(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    refused(tmp_path / "file", MalformedError)


def test_nesting_without_end_is_refused(tmp_path):
    (tmp_path / "deep").write_text(".".join("a" * 200) + " = 1\n")
    refused(tmp_path / "deep", MalformedError, "too-deep")
    (tmp_path / "deep").write_text(".".join("a" * 3000) + " = 1\n")
    refused(tmp_path / "deep", MalformedError)
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    refused(tmp_path / "deep", MalformedError)


def test_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(diff_read, "MAX_MANIFEST_SIZE", 100)
    (tmp_path / "large").write_bytes(b"#" * 101)
    refused(tmp_path / "large", MalformedError, "too-large")


def test_a_folder_without_a_record_is_no_build(tmp_path):
    refused(tmp_path, MalformedError, "not-a-build")


def test_a_forged_sigstruct_is_refused(tmp_path, tiny):
    for at in (20, 130, 600, 904, 1100, 1500):
        data = bytearray(tiny.sigstruct)
        data[at] ^= 1
        (tmp_path / "x.sig").write_bytes(data)
        refused(tmp_path / "x.sig", UntrustedError)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("build.json", b"{}"),
        ("tiny.manifest.sgx", b"x"),
        ("libpal.so", b"\x7fELF"),
        ("tiny.sig", b"short"),
        ("tree.json", b"["),
        ("tree.json", b"[]"),
        ("tree.json", b'{"files": []}'),
        ("tree.json", b"[" * 100_000),
    ],
)
def test_a_build_with_a_malformed_file_is_refused(yard, signing_key, name, data):
    yard.build("a", signing=key_signing(signing_key))
    path = yard.root / "out-a" / name
    path.chmod(0o644)
    path.write_bytes(data)
    refused(yard.root / "out-a", MalformedError)


def test_a_link_in_a_tree_is_refused(yard):
    yard.build("a")
    (yard.root / "out-a" / "rootfs" / "link").symlink_to("/etc/hostname")
    refused(yard.root / "out-a", MalformedError, "unsafe-path")


def test_odd_origins_are_left_out(yard):
    yard.build("a")
    path = yard.root / "out-a" / "tree.json"
    value = json.loads(path.read_bytes())
    value["files"]["app/top.py"] = 1
    value["files"]["app/main.py"]["from"] = ["x"]
    path.chmod(0o644)
    path.write_text(json.dumps(value))
    assert not {"rootfs/app/top.py", "rootfs/app/main.py"} & read(yard.root / "out-a").origins.keys()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_differs(tiny, data):
    text = bytearray(tiny.manifest)
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != tiny.manifest[at]))
    try:
        side = side_of_manifest("m", bytes(text))
    except MalformedError:
        return
    found = compare(side_of_manifest("m", tiny.manifest), side)
    assert not found.same
    assert found.measured is Measured.DIFFERENT
    assert found.sections
    parse_manifest(bytes(text))
