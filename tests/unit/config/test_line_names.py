"""One line file to a name in one artifacts directory: a second of the same name takes nobody's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import line_loader, line_names
from pipeline.config.line_model import Line
from pipeline.errors import ExitCode, UsageError


def override(file: Path, text: str = "", name: str = "mine") -> Line:
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'schema = 1\nextends = "lts61"\nname = "{name}"\n{text}')
    return line_loader.load(None, file)


def test_another_file_of_the_same_name_is_refused_with_both_and_what_to_do(tmp_path: Path) -> None:
    line_names.claim(override(tmp_path / "one/mine.toml"), tmp_path)
    second = override(tmp_path / "two/mine.toml", 'title = "Another"\n')
    for write in (True, False):
        with pytest.raises(UsageError) as caught:
            line_names.claim(second, tmp_path, write=write)
    error = caught.value
    assert error.code == ExitCode.USAGE
    assert f"expected {tmp_path}/one/mine.toml, got {tmp_path}/two/mine.toml" in error.what
    assert "--artifacts DIR" in error.hint and str(tmp_path / "lines/mine.json") in error.why
    line_names.claim(second, tmp_path / "elsewhere")
    line_names.claim(override(tmp_path / "one/mine.toml"), tmp_path)


def test_the_same_file_changed_copied_or_moved_is_the_same_line_until_a_copy_says_something_else(
    tmp_path: Path,
) -> None:
    line_names.claim(override(tmp_path / "one/mine.toml"), tmp_path)
    line_names.claim(override(tmp_path / "one/mine.toml", 'title = "New"\n'), tmp_path)
    line_names.claim(override(tmp_path / "two/mine.toml", 'title = "New"\n'), tmp_path)
    other = override(tmp_path / "two/mine.toml", 'title = "Another"\n')
    with pytest.raises(UsageError):
        line_names.claim(other, tmp_path)
    line_names.claim(override(tmp_path / "one/mine.toml", 'title = "Another"\n'), tmp_path)
    (tmp_path / "one/mine.toml").unlink()
    line_names.claim(other, tmp_path)
    line_names.claim(override(tmp_path / "two/mine.toml", 'title = "Newer"\n'), tmp_path)


def test_another_name_the_projects_own_and_a_damaged_record_hinder_nobody(tmp_path: Path) -> None:
    line_names.claim(override(tmp_path / "one/mine.toml"), tmp_path)
    line_names.claim(override(tmp_path / "two/other.toml", name="other"), tmp_path)
    line_names.claim(line_loader.load("lts61"), tmp_path)
    assert not (tmp_path / "lines/lts61.json").exists()
    (tmp_path / "lines/mine.json").write_text("[")
    line_names.claim(override(tmp_path / "two/mine.toml"), tmp_path)


def test_a_name_is_the_projects_line_or_the_file_that_has_it_here(tmp_path: Path) -> None:
    line_names.claim(override(tmp_path / "one/house.toml"), tmp_path)
    assert line_names.load("mine", tmp_path).override is not None
    assert line_names.load("el6", tmp_path).name == "el6"
    (tmp_path / "lines/other.json").write_text("[")
    for name in ("mines", "other"):
        with pytest.raises(UsageError, match=f"line '{name}': not found; did you mean ") as caught:
            line_names.load(name, tmp_path)
        assert "lts61, lts612, mine, other" in caught.value.why
    (tmp_path / "one/house.toml").unlink()
    with pytest.raises(UsageError, match="the line file: not found"):
        line_names.load("mine", tmp_path)


def test_who_only_looks_leaves_nothing(tmp_path: Path) -> None:
    line_names.claim(override(tmp_path / "one/mine.toml"), tmp_path / "artifacts", write=False)
    assert not (tmp_path / "artifacts").exists()
