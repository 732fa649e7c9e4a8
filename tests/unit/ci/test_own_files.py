"""Files that people may edit: what is ours is kept up to date, what is theirs stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ci.own_files import WrittenFile, write_all
from pipeline.errors import UsageError

HINT = "./inv ci systemd --overwrite"


def write(directory: Path, *, overwrite: bool = False, **files: str) -> list[str]:
    found = write_all(directory, {f"deep/{name}": text for name, text in files.items()}, overwrite=overwrite, hint=HINT)
    assert [each.path for each in found] == [directory / "deep" / name for name in files]
    return [each.state for each in found]


def test_what_is_ours_is_written_updated_or_left_alone(tmp_path: Path) -> None:
    assert write(tmp_path, a="one\n", b="two\n") == ["new", "new"]
    first = (tmp_path / "deep/a").stat()
    assert write(tmp_path, a="one\n", b="three\n") == ["unchanged", "updated"]
    assert (tmp_path / "deep/a").stat().st_ino == first.st_ino
    assert (tmp_path / "deep/b").read_text().splitlines()[1:] == ["three"]


@pytest.mark.parametrize(
    ("found", "got"), [("mine\n", "got another"), ("", "got another"), (None, "got an edited one")]
)
def test_what_a_person_wrote_stays_and_so_does_everything_else(tmp_path: Path, found: str | None, got: str) -> None:
    write(tmp_path, a="one\n", b="two\n")
    edited = tmp_path / "deep/b"
    edited.write_text(edited.read_text() + "more\n" if found is None else found)
    kept = edited.read_text()
    with pytest.raises(UsageError, match=got) as caught:
        write(tmp_path, a="other\n", b="other\n")
    assert caught.value.hint == HINT
    assert edited.read_text() == kept
    assert (tmp_path / "deep/a").read_text().endswith("one\n")
    assert write(tmp_path, overwrite=True, a="other\n", b="other\n") == ["updated", "overwritten"]
    assert write(tmp_path, a="other\n", b="other\n") == ["unchanged", "unchanged"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep/a").mkdir(parents=True)
    with pytest.raises(UsageError, match="a regular file"):
        write(tmp_path, overwrite=True, a="one\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        write(tmp_path / "file", a="one\n")


def test_the_result_names_path_and_state(tmp_path: Path) -> None:
    assert write_all(tmp_path, {"a": "b\n"}, overwrite=False, hint=HINT) == (WrittenFile(tmp_path / "a", "new"),)
