"""No room: which failures mean that, and that place and bytes are told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline import room
from pipeline.errors import ExitCode, HostLacks
from pipeline.process import ProgramFailed, Result


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_place_and_bytes(tmp_path: Path, number: int) -> None:
    with pytest.raises(HostLacks, match="no room") as caught, room.writing(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.where == str(tmp_path)
    assert os.strerror(number) in caught.value.why and " are free" in caught.value.why
    assert caught.value.code == ExitCode.HOST


def test_a_program_that_says_so_is_believed(tmp_path: Path) -> None:
    result = Result(("tar",), 2, b"", b"tar: x: Cannot write: No space left on device\n")
    with pytest.raises(HostLacks, match="no room"), room.writing(tmp_path):
        raise ProgramFailed("tar failed with exit status 2", ["tar"], result)


def test_any_other_failure_stays_what_it_was(tmp_path: Path) -> None:
    result = Result(("tar",), 2, b"", b"tar: x: not found\n")
    with pytest.raises(ProgramFailed), room.writing(tmp_path):
        raise ProgramFailed("tar failed with exit status 2", ["tar"], result)
    with pytest.raises(FileNotFoundError), room.writing(tmp_path):
        (tmp_path / "missing").read_text()


def test_what_is_needed_is_told_with_what_is_there(tmp_path: Path) -> None:
    room.require(tmp_path, 1, "anything")
    with pytest.raises(HostLacks, match="no room") as caught:
        room.require(tmp_path / "will/be", 1 << 60, "a build of everything")
    assert caught.value.why.startswith(f"a build of everything needs {1 << 30}.0 GiB, ")
    assert caught.value.where == str(tmp_path / "will/be")
