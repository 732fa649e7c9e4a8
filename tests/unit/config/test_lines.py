"""Line files: what is read, and every mistake told with its file, its line and what is allowed there.

The project's own lines are only asked to load; everything else is tested on a small line made here.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import line_loader, line_model
from pipeline.core import resources
from pipeline.core.decoder import encode
from pipeline.errors import FileProblems, UsageError
from tests.fixtures.linefiles import BASE, BLOB, DIGEST, FINGERPRINT, SERIES, edit, house, mistakes, only_mistake

# --- What is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["el6", "lts61", "lts612"])
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
    assert resources.line_names() == ["base"]


def test_a_line_of_ones_own_needs_no_base_and_gets_no_series_of_the_project(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "base.toml"  # named as the project's line is
    own.write_text(BASE.replace('series = ["fix"]', "series = []").replace("[roles.director]", "[roles.stock]", 1))
    own.write_text(re.sub(r"(?s)\[roles\.stock\].*", "[roles.stock]\n", own.read_text()))
    edit(own, 'name = "base"', 'name = "own"')
    line = line_loader.load(None, own)
    assert (line.override, line.data.patches, line.files) == (None, {}, (own,))
    assert line.identity == ("own", "1.0", None)


NAMES = [
    *(
        "base-small",
        "house-small",
        "base+rebuild",
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
    assert (only_mistake().line, only_mistake().what) == (
        line,
        f"sources.tar.size: expected a whole number, got {value}",
    )


@pytest.mark.parametrize("value", ["true", '"1"', "1.0", "2.0", "[1]"])
def test_a_schema_of_another_type_is_another_schema(project: Path, value: str) -> None:
    edit(project / "lines/base.toml", "schema = 1", f"schema = {value}")
    assert only_mistake().what == f"schema: expected 1, got {'an array' if value == '[1]' else value}"


def test_a_byte_order_mark_is_named(project: Path) -> None:
    file = project / "lines/base.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert (only_mistake().line, only_mistake().what) == (1, "it begins with a byte order mark")
    with pytest.raises(FileProblems) as caught:
        line_loader.load("base")
    subprocess.run(["sh", "-ec", caught.value.hint], check=True)
    file.with_name(f"{file.name}.plain").rename(file)
    assert line_loader.load("base").name == "base"


@pytest.mark.parametrize(
    ("data", "line", "what"),
    [
        (BASE.encode("utf-16"), 1, "it is UTF-16"),
        (BASE.encode("utf-16-be"), 1, "it is UTF-16 or UTF-32 without a byte order mark, or no text"),
        (b'schema = 1\ntitle = "caf\xe9"\n', 2, "it is no text, or not UTF-8: byte 0xe9"),
        (b"\x1f\x8b\x08\0\0\0", 1, "it is no text, or not UTF-8: byte 0x8b"),
    ],
)
def test_another_character_set_is_told_with_its_line(project: Path, data: bytes, line: int, what: str) -> None:
    (project / "lines/base.toml").write_bytes(data)
    assert (only_mistake().line, only_mistake().what) == (line, what)


TYPES = [  # (file, old, new, what is said)
    ("base", "size = 10", f"size = {1 << 63}", f"expected a number below {1 << 63}, got {1 << 63}"),
    ("base", 'kernel = "1.0"', "kernel = 6.1", "kernel: expected a text in quotes, got 6.1"),
    ("base", 'series = ["fix"]', 'series = "fix"', 'roles.director.series: expected an array, got "fix"'),
    ("base", 'urls = ["https://example.org/key.asc"]', "sha1 = 1", "keys.ours.sha1: expected true or false, got 1"),
    (
        "base",
        'urls = ["https://example.org/key.asc"]',
        "expired = 2024",
        "expected a date such as 2024-01-31, got 2024",
    ),
    ("base", "[roles.stock]", "[[roles.stock]]", "roles.stock: expected a table, got an array"),
    ("base", 'file = "a.tar.gz"', 'file = "a b.tar.gz"', "sources.tar.file: 'a b.tar.gz' is not a file name"),
    ("base", "https://example.net/a.tar.gz", "https://example.net/a b.tar.gz", "is not a URL of a file"),
    ("series", "option-number = 200", "option-number = 200.0", "option-number: expected a whole number, got 200.0"),
]


@pytest.mark.parametrize(("which", "old", "new", "what"), TYPES, ids=[row[3] for row in TYPES])
def test_a_value_of_another_type_is_told_with_what_was_expected_and_what_is_there(
    project: Path, which: str, old: str, new: str, what: str
) -> None:
    file = project / {"base": "lines/base.toml", "series": "patches/base/series.toml"}[which]
    line = edit(file, old, new)
    assert what in only_mistake().what and only_mistake().line in (line, line + 1)


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


# --- What is wrong: one mistake of each kind -------------------------------------------------------------


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
        (5, "unknown key 'paint' in sources.srpm.spec; did you mean path?"),
    ]


def test_the_second_element_of_an_array_of_tables_is_told_by_its_own_line(project: Path) -> None:
    tail = f'[[sources.tar.members]]\npath = "a"\nsize = 1\nsha256 = "{DIGEST}"\n'
    file = house(project, tail + tail.replace('"a"', '"../a"'))
    found = only_mistake(None, file)
    assert (found.line, found.what) == (9, "sources.tar.members.1.path: '../a' leaves its directory")


BAD_VALUES = [  # (file, old, new, what is said of it, what is allowed)
    ("base", "schema = 1", "schema = 2", "schema: expected 1, got 2", "1"),
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
    ("base", "size = 10", "size = 0", "sources.tar.size: expected a number above 0, got 0", ""),
    ("base", 'kind = "file"', 'kind = "zip"', "the kind of a source is missing or unknown", "file, srpm, debian"),
    ("base", 'contains = ["Name: kernel"]', "contains = []", "sources.srpm.spec.contains", ""),
    (
        "base",
        "[roles.director]",
        "[roles.directer]",
        "roles.directer: expected 'director', 'realserver' or 'stock', got \"directer\"",
        "'realserver'",
    ),
    ("base", 'buildid = ".one"', 'buildid = "one"', "'one' is not a buildid", "empty, or '.'"),
    ("base", 'CONFIG_ONE = "y"', 'ONE = "y"', "'ONE' is not a kernel option", "CONFIG_ and upper-case letters"),
    ("base", 'path = "top/fix.patch"', 'path = "/top"', "'/top' leaves its directory", "a relative path without '..'"),
    (
        "series",
        'role = "director"',
        'role = "cook"',
        "patches.fix.role: expected 'director', 'realserver' or 'stock', got \"cook\"",
        "'stock'",
    ),
    ("series", "option-number = 200", "option-number = 256", "expected a number up to 255, got 256", ""),
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
    (
        "base",
        'series = ["fix"]',
        'series = ["fix", "fix"]',
        "the patch 'fix' is in the series twice",
        "each patch once",
    ),
    ("base", 'series = ["fix"]', "series = []", "the series of director is wrong", "one patch or more"),
    (
        "base",
        "[roles.stock]\n",
        '[roles.stock]\nseries = ["fix"]\n',
        "the series of stock is wrong",
        "none: nothing of the role is patched",
    ),
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


def test_a_wrong_value_hides_no_name_that_refers_to_nothing(project: Path) -> None:
    wrong = (("schema = 1", "schema = true"), ("size = 10", 'size = "10"'), ('file = "a.tar.gz"', 'file = "a b"'))
    lines = [edit(project / "lines/base.toml", *each) for each in wrong]
    names = (('series = ["fix"]', 'series = ["fix", "nope"]'), ('signers = ["ours"]', 'signers = ["theirs"]'))
    lines += [edit(project / "lines/base.toml", *each) for each in names]
    found = mistakes()
    assert [problem.line for problem in found] == sorted(lines)
    assert ["no patch 'nope'" in p.what or "no key 'theirs'" in p.what for p in found] == [False] * 3 + [True] * 2


def test_the_message_names_each_mistake_as_file_and_line_and_where_to_read_on(project: Path) -> None:
    line = edit(project / "lines/base.toml", "size = 10", "size = 10\ncolour = 1") + 1
    with pytest.raises(FileProblems) as caught:
        line_loader.load("base")
    text = str(caught.value)
    assert f"{project}/lines/base.toml:{line}: unknown key 'colour' in sources.tar; allowed: file, kind" in text
    assert "docs/lines.md" in text
    assert encode(caught.value)["problems"] == [
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
    with pytest.raises(UsageError, match="is not TOML"):
        line_loader.load(None, tmp_path / "latin.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        line_loader.load(None, tmp_path)


def test_a_line_that_is_not_there_is_told_with_those_that_are(project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        line_loader.load("bsae")
    assert "known: base" in str(caught.value)
    with pytest.raises(UsageError):
        line_loader.load("../lines/base")
