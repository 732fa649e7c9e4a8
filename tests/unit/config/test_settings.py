"""Settings: one table, four places to set each row, and the order in which they count."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import HOME, ROWS, TABLE, Setting, Settings, load
from pipeline.errors import FileProblems, UsageError

# Of each kind: a value as the command line gives it, as the environment does, as TOML does, and what they mean.
WRITTEN: dict[str, tuple[tuple[Any, Any], tuple[str, Any], tuple[str, Any]]] = {
    "flag": ((True, True), ("yes", True), ("true", True)),
    "text": (("of-option", "of-option"), ("of-environment", "of-environment"), ('"of-file"', "of-file")),
    "whole": (("11", 11), ("12", 12), ("13", 13)),
    "seconds": (("1.5", 1.5), ("2.5", 2.5), ("3.5", 3.5)),
    "path": (("option/p", Path("option/p")), ("environment/p", Path("environment/p")), ('"file/p"', Path("file/p"))),
    "list": ((["a", "b"], ("a", "b")), ("c d", ("c", "d")), ('["e", "f"]', ("e", "f"))),
}
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


OPTION, ENVIRONMENT, FILE = range(3)  # places in a row of WRITTEN


def written(row: Setting, place: int, *, beaten: bool = False) -> tuple[Any, Any]:
    """A value for the row as it is written in `place`, and what it means. Where it is to be `beaten`, any other."""
    if not row.choices:
        return WRITTEN[row.kind][place]
    chosen = row.default if beaten else row.choices[-1]
    return (f'"{chosen}"' if place == FILE else chosen), chosen


def value(row: Setting, options: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> Any:
    return getattr(load(options or {}, environ or {}), row.attribute)


def test_the_table_and_the_typed_settings_have_the_same_names() -> None:
    assert [field.name for field in dataclasses.fields(Settings)] == [row.attribute for row in ROWS]
    assert list(TABLE) == [row.name for row in ROWS]


@each_row
def test_a_row_that_is_set_nowhere_has_its_default(row: Setting) -> None:
    assert value(row) == row.default


@each_row
def test_each_row_is_reached_through_the_settings_file(row: Setting) -> None:
    text, meant = written(row, FILE)
    Path("inv.toml").write_text(f"{row.name} = {text}\n")
    assert value(row) == meant != row.default


@each_row
def test_each_row_is_reached_through_the_environment_which_beats_the_file(row: Setting) -> None:
    Path("inv.toml").write_text(f"{row.name} = {written(row, FILE, beaten=True)[0]}\n")
    text, meant = written(row, ENVIRONMENT)
    assert value(row, environ={row.variable: text}) == meant != row.default


@each_row
def test_each_row_is_reached_through_its_option_which_beats_all(row: Setting) -> None:
    Path("inv.toml").write_text(f"{row.name} = {written(row, FILE, beaten=True)[0]}\n")
    given, meant = written(row, OPTION)
    environ = {row.variable: "no" if row.kind == "flag" else written(row, ENVIRONMENT, beaten=True)[0]}
    assert value(row, {row.attribute: given}, environ) == meant


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "flag"], ids=lambda row: row.name)
def test_the_environment_can_also_take_a_flag_of_the_file_back(row: Setting) -> None:
    Path("inv.toml").write_text(f"{row.name} = true\n")
    assert value(row, environ={row.variable: "0"}) is False


@each_row
def test_an_option_not_given_and_an_empty_variable_set_nothing(row: Setting) -> None:
    nothings: list[Any] = [None, False, (), []]
    for nothing in nothings:
        assert value(row, {row.attribute: nothing}, {row.variable: ""}) == row.default


FILE_LINE, FILE_FILE = 'line = "a"\n', 'line-file = "a.toml"\n'


@pytest.mark.parametrize(
    ("options", "environ", "file", "meant"),
    [
        ({"line_file": "b.toml"}, {"FNAT_LINE": "c"}, FILE_LINE, ("", "b.toml")),
        ({"line": "b"}, {"FNAT_LINE_FILE": "c.toml"}, FILE_FILE, ("b", None)),
        ({}, {"FNAT_LINE_FILE": "c.toml"}, FILE_LINE, ("", "c.toml")),
        ({}, {"FNAT_LINE": "c"}, FILE_FILE, ("c", None)),
        ({}, {}, FILE_FILE, ("", "a.toml")),
        ({}, {}, FILE_LINE + FILE_FILE, ("a", "a.toml")),
        ({"line": "b", "line_file": "b.toml"}, {}, FILE_LINE, ("b", "b.toml")),
        ({"line": "b"}, {"FNAT_LINE": "c", "FNAT_LINE_FILE": "c.toml"}, "", ("b", None)),
    ],
)
def test_line_and_line_file_are_one_choice_which_the_place_that_counts_first_makes(
    options: dict[str, Any], environ: dict[str, str], file: str, meant: tuple[str, str | None]
) -> None:
    Path("inv.toml").write_text(file)
    said = load(options, environ)
    assert (said.line, said.line_file and str(said.line_file)) == meant


def test_the_file_may_be_elsewhere_and_then_must_be_there(tmp_path: Path) -> None:
    Path("inv.toml").write_text("jobs = 2\n")
    (tmp_path / "other.toml").write_text("jobs = 3\n")
    assert load({}, {"FNAT_SETTINGS": str(tmp_path / "other.toml")}).jobs == 3
    with pytest.raises(UsageError, match="not found") as caught:
        load({}, {"FNAT_SETTINGS": str(tmp_path / "none.toml")})
    assert caught.value.where == str(tmp_path / "none.toml")


def test_the_environment_is_the_processs_own_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FNAT_JOBS", "9")
    assert load({}).jobs == 9
    assert load({}, {}).jobs == TABLE["jobs"].default


def test_a_path_may_begin_with_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert load({"artifacts": "~/artifacts"}, {}).store == Path("/home/someone/artifacts/store")


BAD = [
    ("jobs", "0", "a number, 1 or more"),
    ("jobs", "two", "a number, 1 or more"),
    ("jobs", "1.5", "a number, 1 or more"),
    ("retries", "-1", "a number, 1 or more"),
    ("stall", "0", "a number, 0.1 or more"),
    ("stall", "nan", "a number, 0.1 or more"),
    ("connect", "inf", "a number, 0.1 or more"),
    ("offline", "perhaps", "true or false"),
    ("runtime", "chroot", "one of auto, bubblewrap, docker"),
    ("kernel-config", "huge", "one of full, small"),
]


@pytest.mark.parametrize(("name", "bad", "wanted"), BAD)
def test_a_bad_value_is_told_with_where_it_came_from_and_what_it_must_be(name: str, bad: str, wanted: str) -> None:
    row = TABLE[name]
    for options, environ, said in [({row.attribute: bad}, {}, row.option), ({}, {row.variable: bad}, row.variable)]:
        with pytest.raises(UsageError) as caught:
            load(options, environ)
        assert caught.value.what == f"{said}: {bad!r}; expected {wanted}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "path"], ids=lambda row: row.name)
def test_an_empty_path_is_not_the_current_directory(row: Setting) -> None:
    with pytest.raises(UsageError, match=f"{row.option}: ''; expected a path"):
        load({row.attribute: ""}, {})
    Path("inv.toml").write_text(f'{row.name} = ""\n')
    with pytest.raises(FileProblems, match=f"{row.name}: ''; expected a path"):
        load({}, {})


def test_every_mistake_of_the_file_is_told_with_its_line_at_once() -> None:
    Path("inv.toml").write_text('# mine\njosb = 3\nretries = 0\n\noffline = "maybe"\n"mirrors" = ["x"]\nmirror = 3\n')
    with pytest.raises(FileProblems) as caught:
        load({}, {})
    assert [(p.file, p.line, p.what) for p in caught.value.problems] == [
        ("inv.toml", 2, "unknown setting 'josb'; did you mean jobs?"),
        ("inv.toml", 3, "retries: 0; expected a number, 1 or more"),
        ("inv.toml", 5, "offline: 'maybe'; expected true or false"),
        ("inv.toml", 6, "unknown setting 'mirrors'; did you mean mirror?"),
        ("inv.toml", 7, "mirror: 3; expected a list of texts"),
    ]
    assert caught.value.problems[0].allowed == ", ".join(TABLE)


@pytest.mark.parametrize(
    "text",
    ['artifacts = ["a"]', "artifacts = true", "debian-mirror = 3", "jobs = true", "stall = true", "mirror = [1]"],
)
def test_a_value_of_another_type_is_not_bent_into_shape(text: str) -> None:
    Path("inv.toml").write_text(f"{text}\n")
    with pytest.raises(FileProblems):
        load({}, {})


@pytest.mark.parametrize("content", [b"jobs = \n", b"jobs 3\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_the_persons_mistake(content: bytes) -> None:
    Path("inv.toml").write_bytes(content)
    with pytest.raises(UsageError, match="not TOML"):
        load({}, {})


@pytest.mark.parametrize("name", ["baseurl", "debian_mirror", "gpg_key", "artifacts", "mirror"])
def test_a_text_with_a_line_break_is_refused(name: str) -> None:
    """It would begin a line of its own in the file that it is written into."""
    text = "http://mirror.example\ngpgcheck=0"
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: "):
        load({name: [text] if name == "mirror" else text}, {})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/dev/zero", "expected a regular file, got a device"),
        ("fifo", "expected a regular file, got a FIFO"),
        ("/proc", "expected a regular file, got a directory"),
        ("large", "expected at most 1048576 bytes, got more"),
        ("absent", "not found"),
    ],
)
def test_a_settings_file_is_a_file_with_an_end(path: str, said: str) -> None:
    os.mkfifo("fifo")
    with Path("large").open("wb") as stream:
        stream.truncate(10 << 30)
    with pytest.raises(UsageError, match=said) as caught:
        load({}, {"FNAT_SETTINGS": path})
    assert caught.value.hint == "unset FNAT_SETTINGS or name a file"


def test_settings_cannot_be_changed_once_read() -> None:
    settings = load({}, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.jobs = 9  # type: ignore[misc]


def test_no_default_is_shared_and_changeable() -> None:
    assert json.dumps([row.default for row in ROWS if not isinstance(row.default, Path)])
    assert not any(isinstance(row.default, list | dict | set) for row in ROWS)


def test_artifacts_lie_in_the_checkout_unless_they_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = {HOME: str(tmp_path / "checkout")}
    assert load({}, home).artifacts == tmp_path / "checkout/artifacts"
    assert load({"artifacts": "own"}, home).artifacts == Path("own")
    assert load({}, {**home, "FNAT_ARTIFACTS": "own"}).artifacts == Path("own")
    assert load({}, {}).artifacts == Path("artifacts")
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    assert load({}, home).artifacts == Path("artifacts"), "as short as it can be typed"
