"""Wheels: what is kept, and every way in which an archive and its RECORD can lie."""

import contextlib
import io
import zipfile

import pytest

from assay.builder.unpack import normalized, unpack_wheel, wheel_paths
from assay.tlog.errors import LogError, MalformedError, UntrustedError

INFO = "demo_pkg-1.0.dist-info"


def unpack(data):
    return unpack_wheel(data, name="demo-pkg", version="1.0")


def test_code_is_kept_and_installer_files_are_left_out(wheel):
    files = {
        "demo_pkg/__init__.py": b"1",
        "demo_pkg-1.0.data/purelib/extra.py": b"2",
        "demo_pkg-1.0.data/platlib/lib/native.so": b"3",
        "demo_pkg-1.0.data/scripts/tool": b"4",
        "demo_pkg-1.0.data/headers/x.h": b"5",
        "demo_pkg-1.0.data/data/etc/x.conf": b"6",
        f"{INFO}/INSTALLER": b"pip",
        f"{INFO}/REQUESTED": b"",
        f"{INFO}/direct_url.json": b"{}",
        f"{INFO}/uv_cache.json": b"{}",
    }
    assert sorted(unpack(wheel(files))) == [
        f"{INFO}/METADATA",
        f"{INFO}/WHEEL",
        "demo_pkg/__init__.py",
        "extra.py",
        "lib/native.so",
    ]


@pytest.mark.parametrize("ending", [".jws", ".p7s"])
def test_signatures_of_record_need_no_row(wheel, ending):
    signed = unpack(wheel({}, unrecorded={f"{INFO}/RECORD{ending}": b"x"}))
    assert sorted(signed) == [f"{INFO}/METADATA", f"{INFO}/WHEEL"]


@pytest.mark.parametrize(
    "path",
    ["/etc/x.py", "../x.py", "a/../../x.py", "a//x.py", "./x.py", "a\\x.py", "C:\\x.py", "a\0.py", "a\n.py"],
    ids=ascii,
)
def test_unsafe_member_names_are_refused(wheel, path):
    with pytest.raises(MalformedError) as refusal:
        unpack(wheel({}, unrecorded={path: b"x"}))
    assert refusal.value.code == "unsafe-path"


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644, 0o060644])
def test_links_and_devices_are_refused(wheel, mode):
    with pytest.raises(MalformedError, match="not a regular file"):
        unpack(wheel({"a.py": b"x"}, external_attr=mode << 16))


def test_an_unrecorded_member_is_refused(wheel):
    with pytest.raises(UntrustedError) as refusal:
        unpack(wheel({}, unrecorded={"evil.py": b"x"}))
    assert refusal.value.code == "bad-record"


def test_unrecorded_code_cannot_hide_as_a_signature(wheel):
    with pytest.raises(UntrustedError):
        unpack(wheel({}, unrecorded={"evil/RECORD.jws": b"x"}))


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"a.py,sha256=AAAA,1\n",
        b"a.py,md5=AAAA,1\n",
        b"a.py,,\n",
        b"a.py\n",
        b"\xff",
        b'"a.py,x,1',
    ],
    ids=range(7),
)
def test_a_record_that_says_something_else_is_refused(wheel, record):
    with pytest.raises(LogError):
        unpack(wheel({"a.py": b"x"}, record=record))


def good_rows(wheel):
    with zipfile.ZipFile(io.BytesIO(wheel({"a.py": b"x"}))) as archive:
        return archive.read(f"{INFO}/RECORD").decode().splitlines(keepends=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: [*rows, rows[0]],
        lambda rows: [*rows, "missing.py,sha256=x,1\n"],
        lambda rows: [row.replace("sha256=", "sha512=") for row in rows],
        lambda rows: [row.replace(",1\n", ",2\n") for row in rows],
        lambda rows: [row.replace("=L", "=M").replace(",1\n", ",01\n") for row in rows],
    ],
    ids=range(6),
)
def test_every_disagreement_of_record_and_archive_is_refused(wheel, change):
    rows = good_rows(wheel)
    changed = change(rows)
    assert changed != rows
    with pytest.raises(LogError):
        unpack(wheel({"a.py": b"x"}, record="".join(changed).encode()))


def test_a_record_without_its_own_row_is_accepted(wheel):
    rows = good_rows(wheel)[:-1]
    assert "a.py" in unpack(wheel({"a.py": b"x"}, record="".join(rows).encode()))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_member_is_refused(wheel):
    with pytest.raises(MalformedError, match="twice"):
        unpack(wheel({"a.py": b"x"}, duplicate="a.py"))


@pytest.mark.parametrize(
    ("name", "version"), [("other", "1.0"), ("demo-pkg", "1.1"), ("demo-pkg", "1.0.0"), ("demo", "pkg-1.0")]
)
def test_another_package_or_version_is_refused(wheel, name, version):
    with pytest.raises(MalformedError):
        unpack_wheel(wheel({}), name=name, version=version)


def test_two_dist_infos_are_refused(wheel):
    with pytest.raises(MalformedError, match=r"2 \.dist-info"):
        unpack(wheel({"other-1.0.dist-info/METADATA": b"x"}))


def test_purelib_cannot_override_a_member(wheel):
    with pytest.raises(MalformedError, match="two contents"):
        unpack(wheel({"a.py": b"x", "demo_pkg-1.0.data/purelib/a.py": b"y"}))


def test_every_truncation_is_refused(wheel):
    data = wheel({"a.py": b"x" * 50})
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            unpack(data[:size])


def test_every_flipped_byte_of_the_content_is_refused_or_changes_nothing(wheel):
    data = wheel({"a.py": bytes(range(256))})
    expected = unpack(data)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        with contextlib.suppress(LogError):
            assert unpack(changed) == expected


def test_encrypted_and_exotic_members_are_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.py", b"x")
    with pytest.raises(MalformedError, match="unknown way"):
        unpack(out.getvalue())


@pytest.mark.parametrize(("name", "form"), [("A.B__c", "a-b-c"), ("x", "x"), ("X-._Y", "x-y")])
def test_names_are_compared_normalized(name, form):
    assert normalized(name) == form


def test_the_paths_of_a_wheel_are_those_that_it_unpacks_to(wheel):
    files = {
        "demo_pkg/__init__.py": b"1",
        "demo_pkg-1.0.data/purelib/demo_pkg/pure.py": b"2",
        "demo_pkg-1.0.data/scripts/run": b"3",
        "demo_pkg-1.0.dist-info/INSTALLER": b"pip",
    }
    data = wheel(files)
    paths = wheel_paths(data, name="demo-pkg", version="1.0")
    assert sorted(paths) == sorted(unpack_wheel(data, name="demo-pkg", version="1.0"))


@pytest.mark.parametrize(("name", "version"), [("other", "1.0"), ("demo-pkg", "2.0")])
def test_the_paths_of_another_wheel_are_refused(wheel, name, version):
    with pytest.raises(MalformedError):
        wheel_paths(wheel({}), name=name, version=version)


def test_what_is_no_archive_has_no_paths():
    with pytest.raises(MalformedError):
        wheel_paths(b"PK", name="demo-pkg", version="1.0")
