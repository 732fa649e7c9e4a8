"""What a build left is collected where it is what it must be, and refused by name where it is anything else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import BuildFailed
from pipeline.packaging import outputs
from pipeline.packaging.outputs import BuildOutputs, OutputLimits
from tests.fixtures.rpms import LEAD

SECRET = "hunter2"
GOOD = "a-1-1.x86_64.rpm"
NOBODY, FEW = 65534, OutputLimits(9, 9, 9)
PACKAGE, X = f"RPMS/x86_64/{GOOD}", "RPMS/x86_64/x.rpm"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A build's top directory with one good package, beside a key that only its owner may read."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "top" / "RPMS" / "x86_64").mkdir(parents=True)
    (tmp_path / "top" / PACKAGE).write_bytes(LEAD + b"good")
    return tmp_path / "top"


@pytest.fixture
def left(top: Path) -> BuildOutputs:
    return BuildOutputs("ipvsadm", top, "./inv shell ipvsadm")


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, chdir(path.parent):
        made.bind(path.name)


def sparse(path: Path) -> None:
    path.write_bytes(LEAD)
    os.truncate(path, 1 << 40)


def through_a_linked_directory(path: Path) -> None:
    path.parent.rename(path.parents[2] / "elsewhere")
    path.parent.symlink_to("../elsewhere")


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link to a key": (
        lambda path: path.symlink_to("../../../key"),
        f"{X}: a link; expected a regular file",
    ),
    "a link to a device without end": (
        lambda path: path.symlink_to("/dev/zero"),
        f"{X}: a link; expected",
    ),
    "a link to a terminal": (lambda path: path.symlink_to("/dev/tty"), f"{X}: a link; expected"),
    "a link to another package": (
        lambda path: path.symlink_to(GOOD),
        f"{X}: a link; expected",
    ),
    "another name of a package": (
        lambda path: path.hardlink_to(path.parent / GOOD),
        f"{PACKAGE}: a file with 2 names; expected",
    ),
    "a FIFO": (os.mkfifo, f"{X}: a FIFO; expected"),
    "a socket": (bind, f"{X}: a socket; expected"),
    "a directory": (lambda path: path.mkdir(), f"{X}: a directory; expected"),
    "a manifest": (
        lambda path: path.write_text("http://127.0.0.1/a.rpm\n"),
        f"{X}: no RPM lead; expected an RPM package",
    ),
    "a short lead": (
        lambda path: path.write_bytes(LEAD[:90]),
        f"{X}: no RPM lead; expected an RPM package",
    ),
    "a terabyte": (sparse, f"{X}: 1024.0 GiB or more; expected at most 2.0 GiB"),
    "a directory that is a link": (
        through_a_linked_directory,
        "RPMS/x86_64: neither a directory nor named as a package",
    ),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_what_is_no_package_is_refused_by_its_path_and_nothing_of_it_is_told(
    top: Path, left: BuildOutputs, kind: str, tmp_path: Path
) -> None:
    make, said = ODD[kind]
    make(top / X)
    with pytest.raises(BuildFailed) as failed:
        left.copy_packages(tmp_path / "out")
    text = str(failed.value)
    assert f"ipvsadm: {said}" in text and f"where: {top}/RPMS/x86_64" in text and "next: ./inv shell ipvsadm" in text
    assert SECRET not in text and "key" not in text.replace(str(top), "")
    assert list((tmp_path / "out").iterdir()) == [], "no part of it is kept"


NAMES = ("-x", ".x", "a\nb", "\x1b[2Jx", "a b", "%{lua:x}", "[a]", "ü", b"\xff".decode(errors="surrogateescape"))


@pytest.mark.parametrize("name", [f"{name}.rpm" for name in (*NAMES, "x" * 251)])
def test_a_name_that_no_package_has_is_refused_and_shown_without_what_is_odd(
    top: Path, left: BuildOutputs, name: str, tmp_path: Path
) -> None:
    (top / "RPMS" / "x86_64" / name).write_bytes(LEAD)
    with pytest.raises(BuildFailed, match="an unexpected name; expected letters") as failed:
        left.copy_packages(tmp_path / "out")
    assert failed.value.what.isprintable() and failed.value.what.isascii() and failed.value.where.isprintable()


def test_more_files_or_bytes_than_allowed_are_refused(top: Path, left: BuildOutputs, tmp_path: Path) -> None:
    for number in range(outputs.PACKAGES.count):
        (top / "RPMS" / f"b{number}.rpm").write_bytes(LEAD)
    with pytest.raises(BuildFailed, match="at most 32"):
        left.copy_packages(tmp_path / "out")
    names = tuple(f"RPMS/b{number}.rpm" for number in range(3))
    most = OutputLimits(file=1000, total=len(LEAD) * 2, count=9)
    with pytest.raises(BuildFailed, match=r"b2\.rpm: 96 B or more; expected at most 0 B"):
        left.copy_files(names, tmp_path / "out", most, mode=0o644)
    with pytest.raises(BuildFailed, match=r"b2\.rpm: one file too many; expected at most 2"):
        left.copy_files(names, tmp_path / "out", replace(most, total=1000, count=2), mode=0o644)


def test_two_packages_of_one_name_are_refused(top: Path, left: BuildOutputs, tmp_path: Path) -> None:
    (top / "RPMS" / GOOD).write_bytes(LEAD)
    with pytest.raises(BuildFailed, match="a second file of this name"):
        left.copy_packages(tmp_path / "out")


def test_what_is_collected_has_our_modes_whatever_the_build_gave_it(
    top: Path, left: BuildOutputs, tmp_path: Path
) -> None:
    (top / PACKAGE).chmod(0o6777)
    (top / "program").write_text("x")
    (top / "program").chmod(0o4100 if os.geteuid() == 0 else 0o4500)  # a user reads what allows it alone
    made = (
        left.copy_packages(tmp_path / "out"),
        left.copy_files(("program",), tmp_path / "out", outputs.PACKAGES, mode=0o755),
    )
    assert [(path.read_bytes()[-1:], path.stat().st_mode & 0o7777) for paths in made for path in paths] == [
        (b"d", 0o644), (b"x", 0o755),
    ]  # fmt: skip


def test_a_file_that_is_missing_is_told(left: BuildOutputs, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="ipvsadm: BUILD/bin/busybox: missing; expected a directory"):
        left.copy_files(("BUILD/bin/busybox",), tmp_path / "out", outputs.PACKAGES, mode=0o755)


def test_texts_for_hints_are_read_through_no_link_and_within_their_limits(top: Path) -> None:
    tree = top / "BUILD" / "linux"
    (tree / "net").mkdir(parents=True)
    (tree / "net" / "Kconfig.one").write_text("config A")
    (tree / "Kconfig.big").write_bytes(bytes(5000))
    (tree / "Kconfig.key").symlink_to(top.parent / "key")
    os.mkfifo(tree / "Kconfig.fifo")
    most = OutputLimits(file=100, total=1000, count=10)
    found = sorted(outputs.texts(top, "BUILD/linux", "Kconfig", most))
    assert found == ["\0" * 100, "config A"]
    assert list(outputs.texts(top, "BUILD/linux", "Kconfig", replace(most, total=0))) == []
    (top / "BUILD").rename(top / "elsewhere")
    (top / "BUILD").symlink_to("elsewhere")
    assert list(outputs.texts(top, "BUILD/linux", "Kconfig", most)) == []


def test_a_top_directory_that_the_build_closed_is_told_to_a_plain_user_whose_build_it_was(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = os.geteuid() == 0
    if root:
        os.chown(top, NOBODY, NOBODY)
    top.chmod(0)
    tmp_path.chmod(0o755)
    (tmp_path / "into").mkdir()
    monkeypatch.chdir(tmp_path)  # pytest's own directories let no other user pass
    os.seteuid(NOBODY if root else os.geteuid())
    try:
        assert (list(outputs.lines(Path("top"), "log", 9)), list(outputs.texts(Path("top"), "a", "K", FEW))) == ([], [])
        with pytest.raises(BuildFailed, match="ipvsadm: RPMS: below a directory that cannot be opened"):
            BuildOutputs("ipvsadm", Path("top")).copy_packages(Path("into"))
    finally:
        os.seteuid(0 if root else os.geteuid())
        top.chmod(0o700)
