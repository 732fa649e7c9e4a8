"""Two builds compared: the same bytes, or which package differs and in what, with diffoscope and without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.core.fs import sha256_of
from pipeline.errors import BuildFailed, ExitCode
from pipeline.packaging import reproducible
from pipeline.packaging.reproducible import Comparison
from tests.fixtures.rpms import rpm

# Writes what it was called with where --text says, and ends as diffoscope does when there are differences.
DIFFOSCOPE = """#!/bin/sh
echo "compared $3 and $4" > "$2"
exit 1
"""


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path on which everything is but diffoscope; tests put their own into it."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("rpm", "gpgconf"):
        (directory / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(directory))
    return directory


def output(place: Path, *packages: Path) -> dict[str, Path]:
    """The output of a step that made these packages, all under the name a.rpm and so on."""
    (place / "rpms").mkdir(parents=True)
    for name, package in zip("ab", packages, strict=False):
        shutil.copy(package, place / "rpms" / f"{name}.rpm")
    return {"ipvsadm": place}


def compare(tmp_path: Path, first: tuple[Path, ...], second: tuple[Path, ...]) -> list[Comparison]:
    places = output(tmp_path / "first", *first), output(tmp_path / "second", *second)
    return reproducible.compare(*places, tmp_path / "reports")


@pytest.fixture(scope="module")
def one() -> Path:
    return rpm("ipvsadm", text="one")


@pytest.fixture(scope="module")
def other() -> Path:
    return rpm("ipvsadm", "URL: http://other.example", text="other")


@pytest.fixture(scope="module")
def named_otherwise() -> Path:
    return rpm("keepalived", text="one")


def test_packages_of_the_same_bytes_are_told_with_their_digest(tmp_path: Path, one: Path) -> None:
    [compared] = compare(tmp_path, (one,), (one,))
    assert compared == Comparison("ipvsadm", "a.rpm", sha256_of(one), sha256_of(one))
    assert compared.same and compared.to_json()["same"] is True
    reproducible.check([compared])
    assert not (tmp_path / "reports").exists()


def test_what_differs_is_named_by_file_and_by_tag_and_diffoscope_is_recommended(
    tmp_path: Path, one: Path, other: Path
) -> None:
    compared = compare(tmp_path, (one, one), (other, one))
    with pytest.raises(BuildFailed) as failed:
        reproducible.check(compared)
    assert failed.value.code is ExitCode.BUILD
    text = str(failed.value)
    assert text.startswith("1 of 2 packages differ between two builds")
    assert f"a.rpm (step ipvsadm): {sha256_of(one)[:16]}, {sha256_of(other)[:16]}" in text
    assert "files that differ: /usr/share/fnat/ipvsadm" in text
    tags = text.partition("header tags that differ: ")[2].splitlines()[0]
    assert "Filedigests" in tags and "Url" in tags and "Name" not in tags and "Sigmd5" not in tags
    assert "b.rpm" not in text
    assert "install diffoscope" in failed.value.hint


def test_a_file_that_only_one_build_has_is_named(tmp_path: Path, one: Path, named_otherwise: Path) -> None:
    [compared] = compare(tmp_path, (one,), (named_otherwise,))
    assert compared.differences[:2] == (
        "files in the first build only: /usr/share/fnat/ipvsadm",
        "files in the second build only: /usr/share/fnat/keepalived",
    )


def test_where_only_the_payload_differs_that_is_said(tmp_path: Path, one: Path) -> None:
    """As another order of the files would give it: the header cannot tell."""
    changed = tmp_path / "changed.rpm"
    changed.write_bytes(one.read_bytes()[:-1] + b"!")
    [compared] = compare(tmp_path, (one,), (changed,))
    assert compared.differences == (
        "files and header agree: their order, the compression, or times in the payload do not",
    )


def test_a_package_that_only_one_build_made_is_different(tmp_path: Path, one: Path) -> None:
    [_, compared] = compare(tmp_path, (one, one), (one,))
    assert (compared.file, compared.second, compared.same) == ("b.rpm", "", False)
    with pytest.raises(BuildFailed, match="only one of the two builds made it"):
        reproducible.check([compared])


def test_where_diffoscope_is_its_report_is_written_and_named(
    tmp_path: Path, one: Path, other: Path, programs: Path
) -> None:
    (programs / "diffoscope").write_text(DIFFOSCOPE)
    (programs / "diffoscope").chmod(0o755)
    stale = tmp_path / "reports" / "ipvsadm" / "z.rpm.txt"
    stale.parent.mkdir(parents=True)
    stale.touch()
    [compared] = compare(tmp_path, (one,), (other,))
    report = tmp_path / "reports" / "ipvsadm" / "a.rpm.txt"
    assert report.read_text() == f"compared {tmp_path}/first/rpms/a.rpm and {tmp_path}/second/rpms/a.rpm\n"
    assert compared.report == str(report)
    with pytest.raises(BuildFailed) as failed:
        reproducible.check([compared])
    assert failed.value.hint == f"less {report}" and f"report: {report}" in failed.value.what
    assert not stale.exists(), "a report of an earlier comparison would mislead"


def test_a_diffoscope_that_gives_up_leaves_what_it_said(tmp_path: Path, one: Path, other: Path, programs: Path) -> None:
    (programs / "diffoscope").write_text("#!/bin/sh\necho no room >&2\nexit 2\n")
    (programs / "diffoscope").chmod(0o755)
    [compared] = compare(tmp_path, (one,), (other,))
    assert "no room" in Path(compared.report).read_text()
