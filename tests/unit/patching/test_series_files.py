"""The directory of a series is replaced whole, or stays as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import HostLacks, Refused
from pipeline.patching import series_files
from pipeline.patching.series_files import Edit

NAMES = ("one.patch", "two.patch")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of two patches and a link, one of the patches executable."""
    directory = tmp_path / "patches" / "toy"
    directory.mkdir(parents=True)
    for name in NAMES:
        (directory / name).write_bytes(b"old " + name.encode())
    (directory / "two.patch").chmod(0o755)
    (directory / "link").symlink_to("one.patch")
    return directory


def edit() -> Edit:
    return Edit({name: b"old " + name.encode() for name in NAMES}, {name: b"new " + name.encode() for name in NAMES})


def test_the_new_files_are_there_and_all_else_is_as_it_was(place: Path) -> None:
    series_files.publish(place, edit())
    assert [(place / name).read_bytes() for name in NAMES] == [b"new one.patch", b"new two.patch"]
    assert (place / "two.patch").stat().st_mode & 0o777 == 0o755
    assert (place / "link").readlink() == Path("one.patch")
    assert list(place.parent.iterdir()) == [place], "nothing is left beside it"


def test_a_link_to_the_directory_stays_a_link(place: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place)
    series_files.publish(link, edit())
    assert link.is_symlink() and (place / "one.patch").read_bytes() == b"new one.patch"


def test_a_file_that_changed_meanwhile_stays_and_so_do_the_others(place: Path) -> None:
    (place / "two.patch").write_bytes(b"a person's")
    with pytest.raises(Refused, match=r"two\.patch: it changed while the series was made anew"):
        series_files.publish(place, edit())
    assert [(place / name).read_bytes() for name in NAMES] == [b"old one.patch", b"a person's"]
    assert list(place.parent.iterdir()) == [place]


def test_a_file_system_that_cannot_exchange_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(one))

    monkeypatch.setattr(series_files, "exchange", cannot)
    with pytest.raises(HostLacks, match="the patches cannot be replaced: Invalid argument"):
        series_files.publish(place, edit())
    assert [(place / name).read_bytes() for name in NAMES] == [b"old one.patch", b"old two.patch"]


def test_an_exchange_of_what_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        series_files.exchange(tmp_path / "one", tmp_path / "other")
