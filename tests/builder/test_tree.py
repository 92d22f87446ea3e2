"""Trees: order, modes and times are fixed; odd paths and odd files are refused."""

import hashlib
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.builder import tree
from assay.tlog.errors import MalformedError

FILES = {"z.txt": b"1", "z-a": b"2", "z/q": b"3", "a/b/c": b"", "a/b.py": b"4", "Z": b"5", "ü": b"6"}


def test_order_is_gramines_not_that_of_whole_paths():
    ordered = tree.depth_first(FILES)
    assert ordered == ["Z", "a/b/c", "a/b.py", "z/q", "z-a", "z.txt", "ü"]
    assert ordered != sorted(FILES)


PARTS = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("Cc", "Cs")), min_size=1
)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), unique=True))
def test_order_equals_a_recursive_expansion(paths):
    def expand(names):
        folders = {}
        for name in names:
            folders.setdefault(name[0], []).append(name[1:])
        for name in sorted(folders):
            if () in folders[name]:
                yield (name,)
            yield from ((name, *rest) for rest in expand([inner for inner in folders[name] if inner]))

    assert tree.depth_first(paths) == [
        "/".join(parts) for parts in expand([tuple(p.split("/")) for p in paths])
    ]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "..",
        "a\\b",
        "a\nb",
        "a\0b",
        "a\x7f",
        "\udcff",
    ],
    ids=ascii,
)
def test_unsafe_paths_are_refused(path):
    with pytest.raises(MalformedError) as refusal:
        tree.check_path(path, what="test")
    assert refusal.value.code == "unsafe-path"
    with pytest.raises(MalformedError):
        tree.merge([{path: b""}])


def test_merging_sorts_and_accepts_the_same_bytes_twice():
    merged = tree.merge([{"b": b"1", "a/x": b"2"}, {"b": b"1"}])
    assert list(merged.items()) == [("a/x", b"2"), ("b", b"1")]


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([{"a": b"1"}, {"a": b"2"}], "tree-conflict"),
        ([{"a": b"1"}, {"a/b": b"2"}], "tree-conflict"),
        ([{"a/b/c": b"1", "a/b": b"2"}], "tree-conflict"),
        ([{"x.pyc": b""}], "bytecode"),
        ([{"__pycache__/x.py": b""}], "bytecode"),
    ],
    ids=str,
)
def test_conflicts_and_bytecode_are_refused(parts, code):
    with pytest.raises(MalformedError) as refusal:
        tree.merge(parts)
    assert refusal.value.code == code


def test_the_tar_digest_is_that_of_a_canonical_gnu_tar(tmp_path):
    out = tmp_path / "tree.tar"
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in ("a", "a/b", "z"):
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            tar.addfile(info)
        for path in sorted(FILES):
            (tmp_path / "content").write_bytes(FILES[path])
            info = tarfile.TarInfo(path)
            info.mode, info.mtime, info.size = 0o444, 1_700_000_000, len(FILES[path])
            with (tmp_path / "content").open("rb") as content:
                tar.addfile(info, content)
    assert tree.tar_sha256(FILES, epoch_s=1_700_000_000) == hashlib.sha256(out.read_bytes()).digest()


@given(st.permutations(list(FILES)))
def test_digests_do_not_depend_on_insertion_order(order):
    shuffled = {path: FILES[path] for path in order}
    assert tree.tar_sha256(shuffled, epoch_s=1) == tree.tar_sha256(FILES, epoch_s=1)
    assert tree.tree_json(tree.measure_files(shuffled), {}) == tree.tree_json(tree.measure_files(FILES), {})


@pytest.mark.parametrize(
    "change",
    [{"z.txt": b"x"}, {"new": b""}, {"z.txt": b"1\0"}, {"a" * 200 + "/" + "b" * 200: b""}],
    ids=range(4),
)
def test_every_change_of_a_tree_changes_its_digest(change):
    assert tree.tar_sha256({**FILES, **change}, epoch_s=1) != tree.tar_sha256(FILES, epoch_s=1)


def test_the_epoch_is_part_of_the_digest():
    assert tree.tar_sha256(FILES, epoch_s=1) != tree.tar_sha256(FILES, epoch_s=2)


@pytest.mark.parametrize("umask", [0, 0o22, 0o77, 0o777 & ~0o700])
def test_written_trees_have_fixed_modes_and_times(tmp_path, umask):
    old = os.umask(umask)
    try:
        tree.write_files(FILES, tmp_path / "out", epoch_s=1_700_000_000)
    finally:
        os.umask(old)
    found = {path: path.stat() for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]}
    assert {status.st_mtime_ns for status in found.values()} == {1_700_000_000 * 10**9}
    for path, status in found.items():
        assert status.st_mode & 0o7777 == (0o755 if path.is_dir() else 0o444)


def test_what_is_written_reads_back(tmp_path):
    tree.write_files(FILES, tmp_path / "out", epoch_s=1)
    assert list(tree.read_files(tmp_path / "out").items()) == [(p, FILES[p]) for p in tree.depth_first(FILES)]


def test_bytecode_is_left_out_when_reading(tmp_path):
    tree.write_files({"a.py": b"1"}, tmp_path / "out", epoch_s=1)
    (tmp_path / "out" / "__pycache__").mkdir()
    (tmp_path / "out" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (tmp_path / "out" / "b.pyc").write_bytes(b"x")
    assert tree.read_files(tmp_path / "out") == {"a.py": b"1"}


def test_links_and_special_files_are_refused_not_followed_or_skipped(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    makers = {
        "file-link": lambda path: path.symlink_to(tmp_path / "real" / "x"),
        "folder-link": lambda path: path.symlink_to(tmp_path / "real"),
        "broken-link": lambda path: path.symlink_to("nowhere"),
        "fifo": os.mkfifo,
    }
    for name, make in makers.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder / "odd")
        with pytest.raises(MalformedError) as refusal:
            tree.read_files(folder)
        assert refusal.value.code == "unsafe-path"


def test_a_file_name_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"bad-\xff")).write_bytes(b"")
    with pytest.raises(MalformedError):
        tree.read_files(tmp_path)


def test_an_unreadable_file_stops_the_build(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionError):
        tree.read_files(tmp_path)


def test_digest_lists_are_what_sha256sum_prints():
    digest = hashlib.sha256(b"1").hexdigest()
    assert tree.digest_list({"a b": b"1"}) == f"{digest}  a b\n".encode()
