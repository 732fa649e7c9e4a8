"""Line files: what is read is typed and frozen, and every mistake is told at once with file:line.

The project's own lines are only asked to load; everything else is tested on a small line made here.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import line_loader, line_model
from pipeline.core import resources
from pipeline.errors import FileProblems, Problem, UsageError

DIGEST, BLOB, FINGERPRINT = "ab" * 32, "cd" * 20, "EF" * 20

BASE = f"""\
schema = 1
name = "base"
title = "A line of one source and one patch"
kernel = "1.0"
kernel-source = "tar"

[keys.ours]
title = "A key"
fingerprint = "{FINGERPRINT}"
urls = ["https://example.org/key.asc"]

[sources.tar]
kind = "file"
file = "a.tar.gz"
size = 10
sha256 = "{DIGEST}"
urls = ["https://example.org/a.tar.gz", "https://example.net/a.tar.gz"]

[[sources.tar.members]]
path = "top/fix.patch"
size = 5
sha256 = "{DIGEST}"

[sources.srpm]
kind = "srpm"
file = "kernel-1.0-1.src.rpm"
nevra = "kernel-1.0-1"
signers = ["ours"]

[sources.srpm.spec]
path = "kernel.spec"
contains = ["Name: kernel"]

[sources.srpm.tree]
archive = "linux-1.0.tar.bz2"
git-tree = "{BLOB}"
entries = 3

[roles.director]
buildid = ".one"
series = ["fix"]
config = {{ CONFIG_ONE = "y", CONFIG_TWO = "2" }}

[roles.stock]
"""
SERIES = f"""\
[rules.director]
must-add = ["net/one.c"]
option-define = "OPTION"
option-number = 200

[patches.fix]
role = "director"
source = "tar"
member = "top/fix.patch"
sha256 = "{DIGEST}"

[[patches.fix.leave-out]]
file = ".config"
why = "the file is not there yet"
sha256-before = "{DIGEST}"
sha256-after = "{DIGEST}"

[patches.fix.effect]
"net/one.c" = "{BLOB}"
"net/two.c" = "{BLOB}"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only line is `base`."""
    root = tmp_path / "project"
    (root / "lines").mkdir(parents=True)
    (root / "patches" / "base").mkdir(parents=True)
    (root / "lines" / "base.toml").write_text(BASE)
    (root / "patches" / "base" / "series.toml").write_text(SERIES)
    monkeypatch.setattr(resources, "data_root", lambda: root)
    return root


def edit(file: Path, old: str, new: str) -> int:
    """Replaces the one place that says `old`; the line number of what is put there."""
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    file.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def house(project: Path, text: str) -> Path:
    """An override of `base` outside the project, called `house`; `text` begins in line 4."""
    file = project.parent / "house.toml"
    file.write_text(f'schema = 1\nextends = "base"\nname = "house"\n{text}')
    return file


def mistakes(name: str | None = "base", line_file: Path | None = None) -> tuple[Problem, ...]:
    with pytest.raises(FileProblems) as caught:
        line_loader.load(name, line_file)
    return caught.value.problems


def only_mistake(name: str | None = "base", line_file: Path | None = None) -> Problem:
    found = mistakes(name, line_file)
    assert len(found) == 1, found
    return found[0]


# --- What is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["el6", "lts61"])
def test_the_projects_own_lines_load(name: str) -> None:
    line = line_loader.load(name)
    assert (line.name, line.label, line.notice, line.override) == (name, name, "", None)
    assert line.release_tag == ""
    assert line_model.RoleName.STOCK in line.data.roles
    assert all(file.is_file() for file in line.files)


def test_el6_has_both_roles_each_with_its_patch_and_what_the_patch_must_leave() -> None:
    data = line_loader.load("el6").data
    assert {role.value: tuple(r.series) for role, r in data.roles.items()} == {
        "director": ("lvs",),
        "realserver": ("toa",),
        "stock": (),
    }
    assert data.roles[line_model.RoleName.DIRECTOR].buildid != data.roles[line_model.RoleName.REALSERVER].buildid
    assert all(patch.effect for patch in data.patches.values())


def test_a_line_and_its_series_file_are_one(project: Path) -> None:
    line = line_loader.load("base")
    assert [file.name for file in line.files] == ["base.toml", "series.toml"]
    assert line.data.patches["fix"].effect["net/one.c"] == BLOB
    assert line.lock_file == project / "lines" / "base.lock.toml"


def test_lock_files_are_no_lines(project: Path) -> None:
    (project / "lines" / "base.lock.toml").write_text("")
    assert line_loader.names() == ["base"]


def test_a_line_of_ones_own_needs_no_base_and_gets_no_series_of_the_project(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "base.toml"  # named as the project's line is
    own.write_text(BASE.replace('series = ["fix"]', "series = []").replace("[roles.director]", "[roles.stock]", 1))
    own.write_text(re.sub(r"(?s)\[roles\.stock\].*", "[roles.stock]\n", own.read_text()))
    edit(own, 'name = "base"', 'name = "own"')
    line = line_loader.load(None, own)
    assert (line.override, line.data.patches, line.files) == (None, {}, (own,))
    assert line.evidence() == {"line": "own", "kernel": "1.0", "override": None}


NAMES = [
    *(
        "base-small",
        "house-small",
        "base+again",
        "latest",
        "probe-kernel",
        "a" * 49,
        "a" * 300,
        "",
        "house.one",
        "house-",
    ),
    *("-house", "a--b", "House", "BASE", "a_b", "a b", "..", "a/b", "a\\nb", "a\\u0007", "h\u00e4us", "house\\n"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("extends", ['extends = "base"\n', ""])
def test_a_name_that_a_directory_cannot_bear_alone_is_a_mistake_with_its_line(
    project: Path, name: str, extends: str
) -> None:
    file = project.parent / "house.toml"
    file.write_text(f'schema = 1\nname = "{name}"\n{extends}')
    found = [problem for problem in mistakes(None, file) if "name" in problem.what and "lacks" not in problem.what]
    assert [(problem.file, problem.line) for problem in found] == [(str(file), 2)]
    assert "is not a name" in found[0].what and "no -small at the end" in found[0].allowed
    assert len(found[0].what) < 120


def test_no_file_outside_takes_the_name_of_a_line_of_the_project(project: Path) -> None:
    other = project / "lines" / "other.toml"
    other.write_text(BASE.replace('name = "base"', 'name = "other"'))
    file = project.parent / "house.toml"
    for text in ('schema = 1\nname = "other"\nextends = "base"\nkernel = "2"\n', BASE.replace('"base"', '"other"')):
        file.write_text(text)
        found = next(problem for problem in mistakes(None, file) if "the name other" in problem.what)
        assert (found.file, found.line) == (str(file), 2)
        assert found.allowed == "a name of its own, such as other-house"


def test_a_line_of_the_project_is_called_as_its_file_is(project: Path) -> None:
    file = project / "lines" / "base.toml"
    (project.parent / "link.toml").symlink_to(file)
    for way in (file, project.parent / "link.toml", project / "patches/../lines/base.toml"):
        assert line_loader.load(None, way).lock_file == project / "lines/base.lock.toml"
    file.rename(file.with_name("second.toml"))
    assert "the name 'base' is not the file's" in next(p.what for p in mistakes("second") if "name" in p.what)


@pytest.mark.parametrize("value", ["true", "5.0", '"5"'])
def test_a_size_of_another_type_is_not_bent_into_shape(project: Path, value: str) -> None:
    line = edit(project / "lines/base.toml", "size = 10", f"size = {value}")
    assert (only_mistake().line, only_mistake().what) == (line, "sources.tar.size: Input should be a valid integer")


@pytest.mark.parametrize("value", ["true", '"1"', "2.0"])
def test_a_schema_of_another_type_is_another_schema(project: Path, value: str) -> None:
    edit(project / "lines/base.toml", "schema = 1", f"schema = {value}")
    assert only_mistake().what == "schema: Input should be 1"


def test_a_byte_order_mark_is_named(project: Path) -> None:
    file = project / "lines/base.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert (only_mistake().line, "byte order mark" in only_mistake().what) == (1, True)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/proc", "/nowhere"])
def test_a_line_file_is_a_file_with_an_end(path: str) -> None:
    with pytest.raises(UsageError, match=r"the line file(?: cannot be read: expected a regular file|: not found)"):
        line_loader.load(None, Path(path))


def test_no_attribute_of_a_line_can_be_set(project: Path) -> None:
    line = line_loader.load("base")
    for thing, name in [
        (line.data, "name"),
        (line.data.sources["tar"], "sha256"),
        (line.data.patches["fix"].leave_out[0], "file"),
        (line.data.roles[line_model.RoleName.DIRECTOR], "series"),
    ]:
        with pytest.raises(ValidationError):
            setattr(thing, name, "other")
    with pytest.raises(AttributeError):
        line.data = line.data  # type: ignore[misc]


def test_no_table_of_a_line_can_be_changed(project: Path) -> None:
    data = line_loader.load("base").data
    tables: list[Any] = [
        data.keys,
        data.sources,
        data.roles,
        data.rules,
        data.patches,
        data.patches["fix"].effect,
        data.roles[line_model.RoleName.DIRECTOR].config,
        data.roles[line_model.RoleName.STOCK].config,  # not in the file: a default
    ]
    for table in tables:
        with pytest.raises(TypeError):
            table["new"] = "x"
    assert all(isinstance(source.urls, tuple) for source in data.sources.values() if hasattr(source, "urls"))


def test_defaults_are_not_shared_between_lines(project: Path) -> None:
    one, other = line_loader.load("base").data, line_loader.load("base").data
    assert one == other
    assert one.patches["fix"].effect is not other.patches["fix"].effect


# --- What is wrong: one mistake of each kind -----------------------------------------------------------

UNKNOWN_KEYS = [  # (file, what stands before the new line, table as told, a key that is allowed there)
    ("base", 'kernel = "1.0"\n', "the file", "extends"),
    ("base", 'title = "A key"\n', "keys.ours", "fingerprint"),
    ("base", "size = 10\n", "sources.tar", "members"),
    ("base", "size = 5\n", "sources.tar.members.0", "path"),
    ("base", 'nevra = "kernel-1.0-1"\n', "sources.srpm", "nevra"),
    ("base", 'path = "kernel.spec"\n', "sources.srpm.spec", "contains"),
    ("base", "entries = 3\n", "sources.srpm.tree", "git-tree"),
    ("base", 'buildid = ".one"\n', "roles.director", "series"),
    ("series", "option-number = 200\n", "rules.director", "must-touch"),
    ("series", 'member = "top/fix.patch"\n', "patches.fix", "leave-out"),
    ("series", 'file = ".config"\n', "patches.fix.leave-out.0", "sha256-after"),
]


@pytest.mark.parametrize(("which", "before", "table", "allowed"), UNKNOWN_KEYS, ids=[row[2] for row in UNKNOWN_KEYS])
def test_an_unknown_key_is_told_with_its_line_and_the_keys_allowed_there(
    project: Path, which: str, before: str, table: str, allowed: str
) -> None:
    file = project / {"base": "lines/base.toml", "series": "patches/base/series.toml"}[which]
    line = edit(file, before, f"{before}colour = 1\n")
    found = only_mistake()
    assert (found.file, found.line) == (str(file), line + 1)
    assert found.what == f"unknown key 'colour' in {table}"
    assert allowed in found.allowed.split(", ")
    assert "colour" not in found.allowed


def test_an_unknown_key_in_an_optional_table_is_told_with_what_is_allowed(project: Path) -> None:
    file = house(project, '[debian]\nsuites = ["one"]\nkeyring = ["ours"]\ncolour = 1\n')
    found = only_mistake(None, file)
    assert (found.line, found.what, found.allowed) == (7, "unknown key 'colour' in debian", "keyring, suites")


def test_an_unknown_key_in_an_inline_table_is_told_with_its_line(project: Path) -> None:
    file = house(project, '[sources]\nsrpm = { tree = { colour = 1 }, spec = { path = "k.spec", paint = 1 } }\n')
    found = mistakes(None, file)
    assert [(p.line, p.what) for p in found] == [
        (5, "unknown key 'colour' in sources.srpm.tree"),
        (5, "unknown key 'paint' in sources.srpm.spec"),
    ]


def test_the_second_element_of_an_array_of_tables_is_told_by_its_own_line(project: Path) -> None:
    tail = f'[[sources.tar.members]]\npath = "a"\nsize = 1\nsha256 = "{DIGEST}"\n'
    file = house(project, tail + tail.replace('"a"', '"../a"'))
    found = only_mistake(None, file)
    assert (found.line, found.what) == (9, "sources.tar.members.1.path: '../a' leaves its directory")


BAD_VALUES = [  # (file, old, new, what is said of it, what is allowed)
    ("base", "schema = 1", "schema = 2", "schema: Input should be 1", "1"),
    ("base", 'name = "base"', 'name = "Base Line"', "name: 'Base Line' is not a name", "lower-case letters"),
    ("base", FINGERPRINT, "ef" * 20, "is not a key fingerprint", "40 upper-case hexadecimal digits, no spaces"),
    ("base", 'size = 10\nsha256 = "ab', 'size = 10\nsha256 = "AB', "is not a SHA-256", "64 lower-case hexadecimal"),
    ("base", f'git-tree = "{BLOB}"', 'git-tree = "c0ffee"', "is not a git object id", "40 lower-case hexadecimal"),
    ("base", "https://example.org/key.asc", "example.org/key.asc", "keys.ours.urls.0: 'example.org", "http, https"),
    ("base", "https://example.net/a.tar.gz", "gopher://example.net/a", "sources.tar.urls.1: 'gopher", "ftp, file"),
    ("base", "https://example.net/a.tar.gz", "https://example.net/", "is not a URL of a file", "end in a file name"),
    ("base", "https://example.net/a.tar.gz", "https://[example/a", "is not a URL of a file", "end in a file name"),
    ("base", "https://example.net/a.tar.gz", "https://h:port/a", "is not a URL of a file", "end in a file name"),
    ("base", 'file = "a.tar.gz"', 'file = "a/b.tar.gz"', "'a/b.tar.gz' is not a file name", "one file name without"),
    ("base", "size = 10", "size = 0", "sources.tar.size: Input should be greater than 0", ""),
    ("base", 'kind = "file"', 'kind = "zip"', "the kind of a source is missing or unknown", "file, srpm, debian"),
    ("base", 'contains = ["Name: kernel"]', "contains = []", "sources.srpm.spec.contains", ""),
    ("base", "[roles.director]", "[roles.directer]", "roles.directer: Input should be 'director'", "'realserver'"),
    ("base", 'buildid = ".one"', 'buildid = "one"', "'one' is not a buildid", "empty, or '.'"),
    ("base", 'CONFIG_ONE = "y"', 'ONE = "y"', "'ONE' is not a kernel option", "CONFIG_ and upper-case letters"),
    ("base", 'path = "top/fix.patch"', 'path = "/top"', "'/top' leaves its directory", "a relative path without '..'"),
    ("series", 'role = "director"', 'role = "cook"', "patches.fix.role: Input should be 'director'", "'stock'"),
    ("series", "option-number = 200", "option-number = 256", "Input should be less than or equal to 255", ""),
    ("series", '"net/two.c" =', '"../two.c" =', "'../two.c' leaves its directory", "a relative path without '..'"),
    ("series", '"net/two.c" = "cd', '"net/two.c" = "XX', "is not a git object id", "40 lower-case hexadecimal"),
    ("series", 'why = "the file is not there yet"', 'why = "because"', "at least 10 characters", ""),
]


@pytest.mark.parametrize(("which", "old", "new", "what", "allowed"), BAD_VALUES, ids=[row[2] for row in BAD_VALUES])
def test_a_bad_value_is_told_with_its_line_and_what_is_allowed(
    project: Path, which: str, old: str, new: str, what: str, allowed: str
) -> None:
    file = project / {"base": "lines/base.toml", "series": "patches/base/series.toml"}[which]
    line = edit(file, old, new) + new.count("\n")
    found = [problem for problem in mistakes() if "lacks" not in problem.what]
    assert [(p.file, p.line) for p in found] == [(str(file), line)]
    assert what in found[0].what
    assert allowed in found[0].allowed


MISSING = [
    ("base", 'kernel = "1.0"\n', "the file lacks the key 'kernel'", 1),
    ("base", f'fingerprint = "{FINGERPRINT}"\n', "keys.ours lacks the key 'fingerprint'", 7),
    ("base", 'file = "a.tar.gz"\n', "sources.tar lacks the key 'file'", 12),
    ("base", "entries = 3\n", "sources.srpm.tree lacks the key 'entries'", 34),
    ("base", "size = 5\n", "sources.tar.members.0 lacks the key 'size'", 19),
    ("series", 'role = "director"\n', "patches.fix lacks the key 'role'", 6),
    ("series", f'sha256-after = "{DIGEST}"\n', "patches.fix.leave-out.0 lacks the key 'sha256-after'", 12),
    ("series", 'option-define = "OPTION"\n', "rules.director lacks the key 'option-define'", 1),
]


@pytest.mark.parametrize(("which", "row", "what", "line"), MISSING, ids=[row[2] for row in MISSING])
def test_a_missing_key_is_told_by_the_line_of_its_table(
    project: Path, which: str, row: str, what: str, line: int
) -> None:
    file = project / {"base": "lines/base.toml", "series": "patches/base/series.toml"}[which]
    edit(file, row, "")
    found = only_mistake()
    assert (found.file, found.what, found.line) == (str(file), what, line)


CROSS = [  # one key says something of another
    ("base", 'kernel-source = "tar"', 'kernel-source = "tra"', "the key kernel-source names no source", "tar, srpm"),
    ("base", 'signers = ["ours"]', 'signers = ["theirs"]', "no key 'theirs'", "ours"),
    ("base", 'series = ["fix"]', 'series = ["fix", "fox"]', "no patch 'fox'", "fix"),
    ("base", 'series = ["fix"]', "series = []", "the series of director is wrong", "empty for stock, else not"),
    ("base", "[roles.stock]\n", '[roles.stock]\nseries = ["fix"]\n', "the series of stock is wrong", "empty for stock"),
    ("series", 'source = "tar"', 'source = "rat"', "no source 'rat'", "tar, srpm"),
]


@pytest.mark.parametrize(("which", "old", "new", "what", "allowed"), CROSS, ids=[row[3] for row in CROSS])
def test_a_name_that_refers_to_nothing_is_told_with_what_there_is(
    project: Path, which: str, old: str, new: str, what: str, allowed: str
) -> None:
    file = project / {"base": "lines/base.toml", "series": "patches/base/series.toml"}[which]
    line = edit(file, old, new) + new.count("\n", 0, -1)
    found = next(problem for problem in mistakes() if problem.what == what)
    assert (found.file, found.line) == (str(file), line)
    assert allowed in found.allowed


def test_the_control_must_not_be_missing(project: Path) -> None:
    edit(project / "lines/base.toml", "\n[roles.stock]\n", "")
    found = only_mistake()
    assert "the role 'stock' is missing" in found.what
    assert found.allowed == "[roles.stock]"
    assert BASE.splitlines()[found.line - 1] == "[roles.director]"


def test_a_role_that_nothing_proves_is_refused(project: Path) -> None:
    file = project / "patches/base/series.toml"
    file.write_text(SERIES[SERIES.index("[patches.fix]") :])
    found = only_mistake()
    assert (found.what, found.allowed) == ("nothing proves the role director", "a [rules.director] table")


@pytest.mark.parametrize("alone", [f'sha256 = "{DIGEST}"', "size = 5"])
def test_a_digest_and_a_size_come_together(project: Path, alone: str) -> None:
    line = edit(project / "lines/base.toml", 'nevra = "kernel-1.0-1"\n', f'nevra = "kernel-1.0-1"\n{alone}\n')
    found = only_mistake()
    assert (found.what, found.allowed) == ("sha256 and size belong together", "both or neither")
    assert found.line < line  # the source's table


@pytest.mark.parametrize(
    "origin",
    ["", 'source = "tar"\n', 'member = "top/fix.patch"\n', 'source = "tar"\nmember = "m"\nfile = "f.patch"\n'],
)
def test_a_patch_has_exactly_one_origin(project: Path, origin: str) -> None:
    edit(project / "patches/base/series.toml", 'source = "tar"\nmember = "top/fix.patch"\n', origin)
    found = only_mistake()
    assert (found.what, found.allowed) == ("patch fix needs one origin", "source and member, or file")


def test_debian_sources_need_to_know_whose_index_to_believe(project: Path) -> None:
    file = house(project, '[sources.deb]\nkind = "debian"\npackage = "p"\nversion = "1"\n')
    found = only_mistake(None, file)
    assert (found.line, found.allowed) == (4, "a [debian] table")


def test_every_mistake_of_both_files_is_told_at_once_in_order(project: Path) -> None:
    edit(project / "lines/base.toml", "size = 10", "size = -1")
    edit(project / "lines/base.toml", FINGERPRINT, "x")
    edit(project / "lines/base.toml", 'buildid = ".one"', 'buildid = ".one"\nname = 3')
    edit(project / "patches/base/series.toml", 'role = "director"', "role = 1")
    found = mistakes()
    assert [Path(p.file).name for p in found] == ["base.toml"] * 3 + ["series.toml"]
    assert [p.line for p in found[:3]] == sorted(p.line for p in found[:3])


def test_the_message_names_each_mistake_as_file_and_line_and_where_to_read_on(project: Path) -> None:
    line = edit(project / "lines/base.toml", "size = 10", "size = 10\ncolour = 1") + 1
    with pytest.raises(FileProblems) as caught:
        line_loader.load("base")
    text = str(caught.value)
    assert f"{project}/lines/base.toml:{line}: unknown key 'colour' in sources.tar; allowed: file, kind" in text
    assert "docs/lines.md" in text
    assert caught.value.as_dict()["problems"] == [
        {"file": p.file, "line": p.line, "what": p.what, "allowed": p.allowed} for p in caught.value.problems
    ]


SYNTAX = {
    'schema = 1\nname "base"\n': 2,
    'schema = 1\n\n[keys\ntitle = "x"\n': 3,
    "a = 1\na = 2\n": 2,
    'title = "unfinished\n': 1,
    'title = """\nnever\nends\n': 4,
}


@pytest.mark.parametrize("text", SYNTAX)
def test_a_file_that_is_not_toml_is_told_with_its_line(project: Path, text: str) -> None:
    file = project / "lines/base.toml"
    file.write_text(text)
    found = only_mistake()
    assert (found.file, found.line) == (str(file), SYNTAX[text])


def test_a_file_that_is_not_there_or_no_text_is_the_persons_mistake(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not found") as missing:
        line_loader.load(None, tmp_path / "none.toml")
    assert missing.value.where == str(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'title = "caf\xe9"\n')
    with pytest.raises(UsageError, match="cannot be read"):
        line_loader.load(None, tmp_path / "latin.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        line_loader.load(None, tmp_path)


def test_a_line_that_is_not_there_is_told_with_those_that_are(project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        line_loader.load("bsae")
    assert "known: base" in str(caught.value)
    with pytest.raises(UsageError):
        line_loader.load("../lines/base")


# --- Overrides -----------------------------------------------------------------------------------------


def test_an_override_is_laid_over_its_base_key_by_key(project: Path) -> None:
    file = house(project, '[sources.tar]\nurls = ["https://house.example/a.tar.gz"]\n[sources.srpm.spec.known]\n')
    file.write_text(file.read_text() + f'ours = "{DIGEST}"\n')
    line = line_loader.load(None, file)
    tar, srpm = line.data.sources["tar"], line.data.sources["srpm"]
    assert isinstance(tar, line_model.FileSource) and isinstance(srpm, line_model.SrpmSource)
    assert tar.sha256 == DIGEST
    assert srpm.spec.contains == ("Name: kernel",)
    assert dict(srpm.spec.known) == {"ours": DIGEST}
    assert line.data.title == "A line of one source and one patch"
    assert [path.name for path in line.files] == ["house.toml", "base.toml", "series.toml"]


def test_an_override_replaces_arrays_whole(project: Path) -> None:
    file = house(project, '[sources.tar]\nurls = ["https://house.example/a.tar.gz"]\nmembers = []\n')
    tar = line_loader.load(None, file).data.sources["tar"]
    assert isinstance(tar, line_model.FileSource)
    assert (tar.urls, tar.members) == (("https://house.example/a.tar.gz",), ())


def test_an_override_replaces_what_a_patch_leaves_whole(project: Path) -> None:
    file = house(project, f'[patches.fix.effect]\n"net/three.c" = "{BLOB}"\n')
    assert dict(line_loader.load(None, file).data.patches["fix"].effect) == {"net/three.c": BLOB}


def test_an_overrides_config_is_laid_over_its_bases(project: Path) -> None:
    file = house(project, '[roles.director.config]\nCONFIG_TWO = "3"\n')
    role = line_loader.load(None, file).data.roles[line_model.RoleName.DIRECTOR]
    assert dict(role.config) == {"CONFIG_ONE": "y", "CONFIG_TWO": "3"}


def test_an_override_is_named_in_everything_said_of_its_line(project: Path) -> None:
    text = f'[sources.tar]\nsha256 = "{"0" * 64}"\n[keys.house]\ntitle = "h"\nfingerprint = "{FINGERPRINT}"\n'
    file = house(project, text + f'[patches.fix.effect]\n"net/one.c" = "{"1" * 40}"\n')
    line = line_loader.load(None, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    changed = ("keys.house", "patches.fix.effect", "sources.tar.sha256")
    assert (line.label, line.release_tag) == ("house (OVERRIDES base)", ".override_house")
    assert all(word in line.notice for word in ("not the line base", str(file), digest[:16], *changed))
    assert line.evidence() == {
        "line": "house",
        "kernel": "1.0",
        "override": {"base": "base", "file": str(file), "sha256": digest, "changes": changed},
    }
    json.dumps(line.evidence())


def test_the_digest_of_an_override_is_of_its_bytes(project: Path) -> None:
    file = house(project, "")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    override = line_loader.load(None, file).override
    assert override is not None
    assert override.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ['name = "base"\n', ""])
def test_an_override_must_not_bear_its_bases_name(project: Path, name: str) -> None:
    file = project.parent / "own.toml"
    file.write_text(f'schema = 1\nextends = "base"\n{name}')
    found = only_mistake(None, file)
    assert "must not bear the base's name" in found.what
    assert "base-house" in found.allowed


def test_an_override_of_a_line_that_is_not_there_is_told_with_those_that_are(project: Path) -> None:
    file = project.parent / "own.toml"
    file.write_text('schema = 1\nname = "own"\nextends = "bsae"\n')
    found = only_mistake(None, file)
    assert (found.line, found.what, found.allowed) == (3, "no line 'bsae'", "base")


def test_the_name_asked_for_must_be_the_overrides(project: Path) -> None:
    file = house(project, "")
    assert line_loader.load("house", file).name == "house"
    with pytest.raises(UsageError, match="holds the line house, not base"):
        line_loader.load("base", file)


def test_the_lock_file_of_an_override_lies_beside_it(project: Path) -> None:
    assert line_loader.load(None, house(project, "")).lock_file == project.parent / "house.lock.toml"


def test_a_mistake_of_an_override_is_told_in_its_own_file(project: Path) -> None:
    file = house(project, "[sources.tar]\nsize = -1\n[patches.fix]\nsource = 'rat'\n")
    found = only_mistake(None, file)
    assert (found.file, found.line) == (str(file), 5)
    file = house(project, "[patches.fix]\nsource = 'rat'\n[roles.director]\nseries = ['fix', 'fox']\n")
    assert [(p.file, p.line) for p in mistakes(None, file)] == [(str(file), 5), (str(file), 7)]


def test_a_key_that_a_replaced_array_lacks_is_the_overrides_mistake(project: Path) -> None:
    file = house(project, '[[patches.fix.leave-out]]\nfile = ".config"\nwhy = "another good reason"\n')
    assert {(p.file, p.line) for p in mistakes(None, file)} == {(str(file), 4)}


def test_a_table_that_begins_with_one_of_its_keys_is_told_by_that_keys_line(project: Path) -> None:
    file = house(project, '\nkeys.late.title = "no fingerprint"\n')
    assert only_mistake(None, file).line == 5


def test_a_mistake_of_the_base_is_told_in_the_bases_file(project: Path) -> None:
    base = project / "lines/base.toml"
    line = edit(base, "size = 10", "size = 10\ncolour = 1") + 1
    file = house(project, "[sources.tar]\npaint = 2\n")
    assert {(p.file, p.line, p.what) for p in mistakes(None, file)} == {
        (str(base), line, "unknown key 'colour' in sources.tar"),
        (str(file), 5, "unknown key 'paint' in sources.tar"),
    }


def test_a_base_that_is_not_toml_is_told_in_the_bases_file(project: Path) -> None:
    (project / "patches/base/series.toml").write_text("x = \n")
    found = only_mistake(None, house(project, ""))
    assert (Path(found.file).name, found.line) == ("series.toml", 1)


# --- Whatever is written in a line file ----------------------------------------------------------------

_WORDS = st.sampled_from([*re.findall(r"[\w.-]+", BASE + SERIES), "extends", "base", "debian", "[", "]", "{", "=", '"'])
_SCALARS = (
    st.sampled_from([1, -1, 0, True, "base", "file", "srpm", "debian", "director", DIGEST, BLOB, "../x", "http://["])
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
)
_KEYS = st.sampled_from(sorted(set(re.findall(r"[a-z][a-z0-9-]+", BASE + SERIES)))) | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=15
)


def toml(value: Any) -> str:
    """A value in TOML's inline form."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool | int | float):
        return repr(value).lower()
    return str(value)


def judged(root: Path, text: str) -> None:
    """Loads `text` as an override, and as a line of its own, and sees that only people's errors come."""
    for name in ("own.toml", "house.toml"):
        file = root.parent / name
        with file.open("w", encoding="utf-8", errors="replace", newline="") as stream:
            stream.write(text if name == "own.toml" else f'extends = "base"\nname = "house"\n{text}')
        try:
            assert isinstance(line_loader.load(None, file), line_model.Line)
        except FileProblems as error:
            assert error.problems
            for problem in error.problems:
                length = Path(problem.file).read_bytes().count(b"\n") + 1
                assert 1 <= problem.line <= length, problem
        except UsageError:
            pass


CAREFULLY = hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@CAREFULLY
@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
@example({"keys": {"a" * 3: [[[[]]]]}})
@example({"sources": {"file": {"kind": "file", "sha256": 1}}})
@example({"sources": {"x": {"kind": "file", "urls": ["{value}", "http://h:p/x"]}}})
@example({"": {"": 1}})
@example({"[key]": 1, "keys": {"[key]": 1}})
def test_no_structure_gives_anything_but_a_line_or_a_persons_error(project: Path, structure: dict[str, Any]) -> None:
    judged(project, "".join(f"{toml(key)} = {toml(value)}\n" for key, value in structure.items()))


@CAREFULLY
@given(st.integers(0, 2**32), st.lists(st.tuples(_WORDS, _WORDS | st.text(max_size=6)), min_size=1, max_size=4))
@example(0, [("size", "9" * 5000)])
@example(0, [("title", ".".join("a" * 3000))])
@example(0, [("10", "[" * 5000)])
def test_no_mutation_of_a_line_gives_anything_but_a_line_or_a_persons_error(
    project: Path, seed: int, edits: list[tuple[str, str]]
) -> None:
    text, chance = BASE + SERIES, random.Random(seed)
    for old, new in edits:
        places = [found.start() for found in re.finditer(re.escape(old), text)]
        if places:
            place = chance.choice(places)
            text = text[:place] + new + text[place + len(old) :]
    judged(project, text)


@CAREFULLY
@given(st.text(max_size=60) | st.lists(_WORDS | st.just("\n"), max_size=40).map(" ".join))
@example(f"x.{'.'.join('a' * 3000)} = 1\n")
@example("'a\\b' = 1\n")
@example("title = 1\r\nname = 2\r\n")
@example("a = 1\rb = 2\r")
def test_no_text_gives_anything_but_a_line_or_a_persons_error(project: Path, text: str) -> None:
    judged(project, text)


def test_the_generated_structures_are_toml_so_that_the_property_means_something() -> None:
    value = {"a": [1, {"b\n": 'c"\x7f', "d": [1.5, True]}]}
    assert tomllib.loads(f"x = {toml(value)}")["x"] == value
