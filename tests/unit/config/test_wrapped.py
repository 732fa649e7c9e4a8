"""Wrapped copies in a line file: what is read, each mistake with its line; and addresses that hold a digest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import FileSource
from pipeline.core import resources
from tests.fixtures.linefiles import DIGEST, edit, only_mistake

TABLE = f"""\
[[sources.tar.wrapped]]
url = "https://example.org/at/0123abcd/install.sh"
unwrap = "base64"
after = "  DATA=$(cat << EOF"
before = "EOF"
size = 20
sha256 = "{DIGEST}"

[[sources.tar.members]]
"""


@pytest.fixture
def base(project: Path) -> Path:
    """The file of a line with a wrapped copy."""
    file = project / "lines/base.toml"
    edit(file, "[[sources.tar.members]]\n", TABLE)
    return file


def tar(name: str = "base") -> FileSource:
    source = line_loader.load(name).data.sources["tar"]
    assert isinstance(source, FileSource)
    return source


def test_a_wrapped_copy_is_read_beside_the_addresses(base: Path) -> None:
    [found] = tar().wrapped
    assert (found.url, found.unwrap, found.size) == ("https://example.org/at/0123abcd/install.sh", "base64", 20)
    assert (found.after, found.before, found.sha256) == ("  DATA=$(cat << EOF", "EOF", DIGEST)
    assert len(tar().urls) == 2


def test_an_override_can_drop_it(base: Path, project: Path) -> None:
    house = project.parent / "house.toml"
    house.write_text('schema = 1\nextends = "base"\nname = "house"\n[sources.tar]\nwrapped = []\n')
    source = line_loader.load(None, house).data.sources["tar"]
    assert isinstance(source, FileSource) and source.wrapped == ()


BAD = [  # (old, new, what is said of it, what is allowed)
    ('"base64"', '"uuencode"', "wrapped.0.unwrap: expected 'base64'", "'base64'"),
    ("https://example.org/at", "example.org/at", "wrapped.0.url: 'example.org", "http, https"),
    ('before = "EOF"', 'before = " "', "wrapped.0.before: ' ' is not a line of a text", "not blank"),
    ('before = "EOF"', r'before = "E\nOF"', r"wrapped.0.before: 'E\nOF' is not a line of a text", "one line"),
    ("size = 20", "size = 0", "wrapped.0.size: expected a number above 0, got 0", ""),
    ("size = 20", "size = 67108865", "wrapped.0.size: expected a number up to 67108864, got 67108865", ""),
    ("size = 20", 'size = "20"', 'wrapped.0.size: expected a whole number, got "20"', ""),
    (f'size = 20\nsha256 = "{DIGEST}', f'size = 20\nsha256 = "{DIGEST[:-1]}', "is not a SHA-256", "64 lower-case"),
]


@pytest.mark.parametrize(("old", "new", "what", "allowed"), BAD, ids=[row[1] for row in BAD])
def test_a_bad_value_is_told_with_its_line(base: Path, old: str, new: str, what: str, allowed: str) -> None:
    line = edit(base, old, new) + new.count("\n")
    found = only_mistake()
    assert (found.file, found.line) == (str(base), line)
    assert what in found.what and allowed in found.allowed


@pytest.mark.parametrize("key", ["url", "unwrap", "after", "before", "size", "sha256"])
def test_every_key_is_required(base: Path, key: str) -> None:
    table = re.sub(rf"(?m)^{key} = .*\n", "", TABLE)
    line = edit(base, TABLE, table)
    found = only_mistake()
    assert (found.what, found.line) == (f"sources.tar.wrapped.0 lacks the key '{key}'", line)


def test_an_unknown_key_is_told_with_those_that_there_are(base: Path) -> None:
    edit(base, 'unwrap = "base64"\n', 'unwrap = "base64"\nlines = 3\n')
    found = only_mistake()
    assert found.what == "unknown key 'lines' in sources.tar.wrapped.0"
    assert found.allowed == "after, before, sha256, size, unwrap, url"


def test_what_has_no_digest_of_its_own_in_the_line_has_no_wrapped_copies(base: Path) -> None:
    edit(base, "[[sources.tar.wrapped]]", "[[sources.srpm.wrapped]]")
    assert only_mistake().what == "unknown key 'wrapped' in sources.srpm"


def test_an_archive_that_is_asked_by_digest_is_asked_for_that_of_the_source() -> None:
    sources = [source for name in resources.line_names() for source in line_loader.load(name).data.sources.values()]
    asked = [
        (found[1], source.sha256)
        for source in sources
        if isinstance(source, FileSource)
        for url in source.urls
        if (found := re.search(r"/content/sha256:([^/]*)/raw/$", url))
    ]
    assert asked and all(named == pinned for named, pinned in asked)
