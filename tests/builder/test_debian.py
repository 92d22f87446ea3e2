"""Packages: names, files and links as Debian makes them; whatever could leave the tree is refused."""

import contextlib
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.builder.debian import unpack_package
from assay.tlog.errors import LogError, MalformedError, UntrustedError


def unpack(data):
    return unpack_package(data, what="x.deb")


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
def test_a_package_says_who_it_is_and_what_it_holds(debs, packing):
    package = unpack(
        debs.make(
            "libz1",
            {"usr/bin/z": b"run", "usr/lib/libz.so.1.2": b"lib"},
            links={"usr/lib/libz.so.1": "libz.so.1.2", "usr/lib/libz.so": "/usr/lib/libz.so.1"},
            version="1:1.2-3+deb12u1",
            packing=packing,
        )
    )
    assert (package.name, package.version, package.architecture) == ("libz1", "1:1.2-3+deb12u1", "amd64")
    assert {path: (f.content, f.program) for path, f in package.files.items()} == {
        "usr/bin/z": (b"run", True),
        "usr/lib/libz.so.1.2": (b"lib", False),
    }
    assert package.file("usr/lib/libz.so").content == b"lib"
    assert package.pool_path("debian") == "pool/main/libz/libz1/libz1_1.2-3+deb12u1_amd64.deb"


@pytest.mark.parametrize(
    ("name", "source", "archive", "path"),
    [
        ("zlib1g", "Source: zlib\n", "debian", "pool/main/z/zlib/zlib1g_1.0-1_amd64.deb"),
        ("libgcc-s1", "Source: gcc-12 (12.2)\n", "debian", "pool/main/g/gcc-12/libgcc-s1_1.0-1_amd64.deb"),
        (
            "libssl3",
            "Source: openssl\n",
            "debian-security",
            "pool/updates/main/o/openssl/libssl3_1.0-1_amd64.deb",
        ),
        ("libffi8", "Source: libffi\n", "debian", "pool/main/libf/libffi/libffi8_1.0-1_amd64.deb"),
    ],
)
def test_a_packages_place_in_the_archive_follows_from_its_source(debs, name, source, archive, path):
    assert unpack(debs.make(name, {"x": b""}, fields=source)).pool_path(archive) == path


def test_hard_links_are_the_file_they_name(debs):
    tar = debs.tar(
        [("./a", {"mode": 0o755}, b"1"), ("./b", {"type": tarfile.LNKTYPE, "linkname": "./a"}, b"")]
    )
    package = unpack(debs.make("p1", tar))
    assert package.file("b") == package.file("a")


LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/passwd", {}, b"")],
        [("../x", {}, b"")],
        [("./../x", {}, b"")],
        [("./a/../../x", {}, b"")],
        [("./a//b", {}, b"")],
        [("././a", {}, b"")],
        [("./a\\b", {}, b"")],
        [("./a\nb", {}, b"")],
        [("", {}, b"")],
        [("./a", {}, b"1"), ("./a", {}, b"1")],
        [("./a", {}, b"1"), ("a", {}, b"2")],
        [("./a", {}, b"1"), ("./a/", {"type": FOLDER}, b"")],
        [("./a", {}, b"1"), ("./a", {"type": LINK, "linkname": "b"}, b"")],
        [("./a/", {"type": FOLDER}, b""), ("./a/", {"type": FOLDER}, b"")],
        [("./../a/", {"type": FOLDER}, b"")],
        [("./a", {"type": LINK, "linkname": "../x"}, b"")],
        [("./a/b", {"type": LINK, "linkname": "../../x"}, b"")],
        [("./a/b", {"type": LINK, "linkname": "../c/../../x"}, b"")],
        [("./a", {"type": LINK, "linkname": "/../x"}, b"")],
        [("./a", {"type": HARD, "linkname": "../x"}, b"")],
        [("./a", {"type": HARD, "linkname": "./later"}, b""), ("./later", {}, b"")],
        [("./a", {"type": HARD, "linkname": "/etc/passwd"}, b"")],
        [("./a", {"type": LINK, "linkname": "/tmp"}, b""), ("./a/b", {}, b"through the link")],
        [("./a/b", {}, b""), ("./a", {"type": LINK, "linkname": "/tmp"}, b"")],
        [("./a", {}, b""), ("./a/b", {}, b"below a file")],
        [("./a", {}, b""), ("./a/b/", {"type": FOLDER}, b"")],
    ],
    ids=range(26),
)
def test_paths_and_links_that_leave_the_tree_or_repeat_are_refused(debs, members):
    with pytest.raises(MalformedError) as refusal:
        unpack(debs.make("p1", debs.tar(members)))
    assert refusal.value.code == "unsafe-path"
    assert "x.deb" in str(refusal.value)


@pytest.mark.parametrize("path", ["nowhere", "usr", "loop", "dangling"])
def test_what_a_package_does_not_hold_is_named(debs, path):
    package = unpack(debs.make("p1", {"usr/x": b""}, links={"loop": "pool", "pool": "loop", "dangling": "y"}))
    with pytest.raises(UntrustedError, match=f"package p1 .*{path}") as refusal:
        package.file(path)
    assert refusal.value.code == "base-missing"


def parts(
    debs, *, version=b"2.0\n", names=("debian-binary", "control.tar", "data.tar"), control=b"Package: p1\n"
):
    return debs.ar(
        [
            (names[0], version),
            (names[1], debs.files({"control": control})),
            (names[2], debs.files({"x": b""})),
        ]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"version": b"2.1\n"},
        {"version": b"3.0\n"},
        {"names": ("debian-binary", "data.tar", "control.tar")},
        {"names": ("control.tar", "debian-binary", "data.tar")},
        {"names": ("debian-binary", "control.tar", "extra.tar")},
        {"names": ("debian-binary", "control.tar", "data")},
        {"names": ("debian-binary", "control", "data.tar")},
        {"control": b"Package: p1\nVersion: 1\n"},
        {"control": b"Package: P1\nVersion: 1\nArchitecture: all\n"},
        {"control": b"Package: ../p1\nVersion: 1\nArchitecture: all\n"},
        {"control": b"Package: p1\nVersion: 1/2\nArchitecture: all\n"},
        {"control": b"Package: p1\nPackage: p2\nVersion: 1\nArchitecture: all\n"},
        {"control": b"Package: p1\nVersion: 1\nArchitecture: a b\n"},
        {"control": b"Package: p1\nVersion: 1\nArchitecture: all\nSource: ../s\n"},
        {"control": b"nonsense\n"},
        {"control": b"\xff"},
    ],
    ids=range(16),
)
def test_a_package_of_another_form_is_refused(debs, change):
    good = unpack(parts(debs, control=b"Package: p1\nVersion: 1\nArchitecture: all\n"))
    assert good.file_name == "p1_1_all.deb"
    with pytest.raises(MalformedError):
        unpack(parts(debs, **{"control": b"Package: p1\nVersion: 1\nArchitecture: all\n", **change}))


def test_a_package_without_control_file_is_refused(debs):
    data = debs.ar([("debian-binary", b"2.0\n"), ("control.tar", debs.tar([])), ("data.tar", debs.tar([]))])
    with pytest.raises(MalformedError):
        unpack(data)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_package_is_refused_or_read_and_nothing_else_happens(debs, data):
    files = {"usr/bin/x": b"1", "n" * 150: b"2"}
    good = debs.make("p1", files, links={"usr/l": "bin/x"}, packing="")
    at = data.draw(st.integers(0, len(good) - 1))
    bad = (
        good[:at] + data.draw(st.binary(min_size=1, max_size=12)) + good[at + data.draw(st.integers(0, 12)) :]
    )
    with contextlib.suppress(LogError):
        package = unpack(bad)
        assert all(".." not in path.split("/") for path in package.files)


def test_a_long_name_without_its_end_is_refused(debs):
    tar = debs.tar([("n" * 150, {}, b"")])
    at = tar.index(b"n" * 100)
    with pytest.raises(MalformedError):
        unpack(debs.make("p1", tar[:at] + tar[at:].replace(b"n\0", b"nn", 1)))


def test_every_truncation_is_refused(debs):
    data = debs.make("p1", {"usr/bin/x": b"1"})
    for length in range(0, len(data), 3):
        with pytest.raises(LogError):
            unpack(data[:length])
