"""No room: which failures mean that, and that place and bytes are told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.core import disk_space
from pipeline.core.process import ProgramFailed, Result
from pipeline.errors import ExitCode, HostLacks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_place_and_bytes(tmp_path: Path, number: int) -> None:
    with pytest.raises(HostLacks, match="no disk space") as caught, disk_space.writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.where == str(tmp_path)
    assert os.strerror(number) in caught.value.why
    assert ("quota" if number == errno.EDQUOT else " are free") in caught.value.why
    assert caught.value.code == ExitCode.HOST


def test_a_program_that_says_so_is_believed(tmp_path: Path) -> None:
    result = Result(("tar",), 2, b"", b"tar: x: Cannot write: No space left on device\n")
    with pytest.raises(HostLacks, match="no disk space"), disk_space.writing(tmp_path):
        raise ProgramFailed("tar failed with exit status 2", ["tar"], result)


def test_any_other_failure_stays_what_it_was(tmp_path: Path) -> None:
    result = Result(("tar",), 2, b"", b"tar: x: not found\n")
    with pytest.raises(ProgramFailed), disk_space.writing(tmp_path):
        raise ProgramFailed("tar failed with exit status 2", ["tar"], result)
    with pytest.raises(FileNotFoundError), disk_space.writing(tmp_path):
        (tmp_path / "missing").read_text()


def test_what_is_needed_is_told_with_what_is_there(tmp_path: Path) -> None:
    disk_space.require(tmp_path, 1, "anything")
    with pytest.raises(HostLacks, match="no disk space") as caught:
        disk_space.require(tmp_path / "will/be", 1 << 60, "a build of everything")
    assert caught.value.why.startswith(f"a build of everything needs {1 << 30}.0 GiB, ")
    assert caught.value.where == str(tmp_path / "will/be")


# --- The artifacts ---------------------------------------------------------------------------------------


def told_below(root: Path, error: OSError) -> HostLacks:
    wanted = r"the artifacts directory .* cannot be used"
    with pytest.raises(HostLacks, match=wanted) as caught, disk_space.host_errors(root):
        raise error
    assert "--artifacts DIR" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR])
def test_what_may_not_be_written_below_the_artifacts_is_told_with_its_place(tmp_path: Path, number: int) -> None:
    place = tmp_path / "store" / "x"
    told = told_below(tmp_path, OSError(number, os.strerror(number), str(place)))
    assert told.where == str(place) and os.strerror(number) in told.what


@pytest.mark.parametrize("name", ["file", "file/deeper", "nowhere", "nowhere/deeper"])
def test_artifacts_that_cannot_be_made_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "no" / "such")
    root = tmp_path / name
    with pytest.raises(OSError, match=r"exists|No such|Not a directory") as caught:
        root.mkdir(parents=True, exist_ok=True)
    assert told_below(root, caught.value).where == caught.value.filename


def test_a_link_in_the_artifacts_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(tmp_path / "no" / "such")
    told_below(tmp_path, OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(tmp_path / "images")))


def test_a_mistake_of_ours_stays_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_space.host_errors(tmp_path / "artifacts"):
        Path("/nowhere/missing").read_text()
    for number in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
        with pytest.raises(OSError, match=os.strerror(number)), disk_space.host_errors(tmp_path):
            raise OSError(number, os.strerror(number))
    with pytest.raises(RecursionError), disk_space.host_errors(tmp_path):
        raise RecursionError


def test_what_is_gone_below_the_artifacts_was_removed_by_somebody(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="missing; expected a file") as caught, disk_space.host_errors(tmp_path):
        (tmp_path / "missing").read_text()
    assert caught.value.where == str(tmp_path / "missing")
    with pytest.raises(HostLacks, match="missing; expected a file"), disk_space.writing(tmp_path / "work"):
        raise ProgramFailed("make failed", ["make"], Result(("make",), 2, b"", b"make: x: No such file or directory\n"))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG])
@pytest.mark.parametrize("where", ["artifacts", "elsewhere"])
def test_what_the_disk_refuses_is_told_with_its_place_wherever_that_is(tmp_path: Path, number: int, where: str) -> None:
    place = tmp_path / where / "file"
    with pytest.raises(HostLacks, match=os.strerror(number)) as caught, disk_space.host_errors(tmp_path / "artifacts"):
        raise OSError(number, os.strerror(number), str(place))
    assert str(place) in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("wrong", ["a directory", "a file"])
def test_a_directory_for_a_file_and_the_other_way_round_are_told(tmp_path: Path, wrong: str) -> None:
    place = tmp_path / "artifacts" / "thing"
    place.parent.mkdir()
    if wrong == "a directory":
        place.mkdir()
        with (
            pytest.raises(HostLacks, match=r"thing: cannot be used.*Is a directory"),
            disk_space.host_errors(tmp_path / "artifacts"),
        ):
            place.read_text()
    else:
        place.touch()
        with (
            pytest.raises(HostLacks, match="cannot be used: Not a directory"),
            disk_space.host_errors(tmp_path / "artifacts"),
        ):
            (place / "below").read_text()


def test_no_room_is_told_wherever_it_was(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="no disk space") as caught, disk_space.host_errors(tmp_path / "elsewhere"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))
    assert caught.value.where == str(tmp_path)
