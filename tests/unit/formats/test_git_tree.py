"""Git's names for trees, against git itself."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import line_loader, line_model
from pipeline.core import resources
from pipeline.core.process import clean_environment, run
from pipeline.errors import PipelineError, UsageError
from pipeline.formats import git_tree
from pipeline.formats.git_tree import EXECUTABLE, FILE, SYMLINK, Difference, Entry

# Names whose order as bytes, as directories and as text differ, and names git would leave out by itself.
TREE = {
    "a-b": "1",
    "a/file": "2",
    "a.b": "3",
    "a/deep/er/file": "4",
    "a0": "5",
    "ab": "6",
    "ab-": "7",
    "ä/ü.c": "8",
    "Z": "9",
    "z": "",
    ".gitignore": "*.o\nignored/\n",
    "left.o": "an object\n",
    "ignored/file": "10",
    ".gitattributes": "*.txt text eol=crlf ident\n",
    "dos.txt": "one\r\ntwo\r\n$Id$\n",
    "with space": "11",
    "quote\"'": "12",
}


def git(work: Path, *words: str, stdin: bytes | None = None) -> str:
    """git in `work`, with nobody's settings and its repository beside the tree."""
    where = {"GIT_DIR": str(work.with_name("repository")), "GIT_WORK_TREE": str(work), "HOME": str(work.parent)}
    exact = ["-c", "core.autocrlf=false", "-c", "core.fileMode=true"]
    return run(["git", *exact, *words], cwd=work, env=clean_environment(**where), stdin=stdin).text.strip()


def write(work: Path, tree: dict[str, str]) -> None:
    for name, text in tree.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A tree with everything that makes trees difficult."""
    place = tmp_path / "work"
    write(place, TREE)
    (place / "a-b").chmod(0o755)
    (place / "a0").chmod(0o654)  # executable for others only
    (place / "link").symlink_to("a/file")
    (place / "a/up").symlink_to("../nowhere/ä")
    (place / "dirlink").symlink_to("a")
    (place / "empty/emptier").mkdir(parents=True)
    return place


def written_by_git(work: Path) -> str:
    """The tree id that git gives when everything is added: as blobs of exactly these bytes."""
    git(work, "init", "-q", "--template=", ".")
    rows = []
    for path in sorted(work.rglob("*")):
        name = str(path.relative_to(work))
        if path.is_symlink():
            blob = git(work, "hash-object", "-w", "--stdin", stdin=os.fsencode(path.readlink()))
            rows.append(f"120000 {blob}\t{name}")
        elif path.is_file():
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            rows.append(f"{mode} {git(work, 'hash-object', '-w', '--no-filters', name)}\t{name}")
    git(work, "update-index", "-z", "--index-info", stdin="\0".join(rows).encode() + b"\0")
    return git(work, "write-tree")


def test_the_tree_id_is_gits_own(work: Path) -> None:
    assert git_tree.tree_id(git_tree.of_directory(work)) == written_by_git(work)


def test_the_tree_id_is_that_of_adding_everything_with_force(tmp_path: Path) -> None:
    place = tmp_path / "work"
    write(place, {name: text for name, text in TREE.items() if name not in (".gitattributes", "dos.txt")})
    (place / "run").symlink_to("a-b")
    (place / "Z").chmod(0o755)
    git(place, "init", "-q", "--template=", ".")
    git(place, "add", "--force", "--all")
    assert git_tree.tree_id(git_tree.of_directory(place)) == git(place, "write-tree")


def test_a_tree_of_nothing_is_gits_empty_tree(tmp_path: Path) -> None:
    assert git_tree.tree_id({}) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    (tmp_path / "only/directories").mkdir(parents=True)
    assert git_tree.of_directory(tmp_path) == {}


_PART = st.text(st.sampled_from("ab.-_0/ä~"), min_size=1, max_size=4).map(lambda text: text.strip("/.") or "x")
_NAMES = st.lists(_PART, min_size=1, max_size=3).map("/".join)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(_NAMES, st.sampled_from([FILE, EXECUTABLE]), min_size=1, max_size=8))
def test_no_choice_of_names_gives_another_id_than_git(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, str]
) -> None:
    place = tmp_path_factory.mktemp("tree") / "work"
    place.mkdir()
    for name, mode in wanted.items():
        names = [name, *(str(parent) for parent in Path(name).parents)]
        if not any((place / part).is_file() for part in names) and not (place / name).is_dir():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(name)
            (place / name).chmod(int(mode[3:], 8))
    git(place, "init", "-q", "--template=", ".")
    git(place, "add", "--force", "--all")
    assert git_tree.tree_id(git_tree.of_directory(place)) == git(place, "write-tree")


def test_a_listing_holds_mode_and_blob_of_each_path(work: Path) -> None:
    listing = git_tree.of_directory(work)
    assert listing["a-b"] == Entry(EXECUTABLE, git_tree.blob_id(b"1"))
    assert listing["a0"].mode == FILE
    assert listing["link"] == Entry(SYMLINK, git_tree.blob_id(b"a/file"))
    assert listing["dirlink"] == Entry(SYMLINK, git_tree.blob_id(b"a"))
    assert "dirlink/file" not in listing
    assert listing["dos.txt"].blob == git(work, "hash-object", "--no-filters", "dos.txt")


def test_a_listing_of_some_paths_leaves_out_what_is_not_there(work: Path) -> None:
    assert set(git_tree.of_directory(work, ["a/file", "gone", "link"])) == {"a/file", "link"}


def test_a_change_anywhere_gives_another_id(work: Path) -> None:
    ids = [git_tree.tree_id(git_tree.of_directory(work))]
    (work / "a/deep/er/file").write_text("4 ")
    ids.append(git_tree.tree_id(git_tree.of_directory(work)))
    (work / "Z").chmod(0o755)
    ids.append(git_tree.tree_id(git_tree.of_directory(work)))
    (work / "z").rename(work / "zz")
    ids.append(git_tree.tree_id(git_tree.of_directory(work)))
    assert len(set(ids)) == 4


def test_two_trees_are_compared_path_by_path_in_order() -> None:
    one, other = Entry(FILE, "1" * 40), Entry(FILE, "2" * 40)
    expected = {"same": one, "gone": one, "other": one, "mode": one}
    actual = {"same": one, "new": one, "other": other, "mode": Entry(EXECUTABLE, "1" * 40)}
    assert git_tree.compare(expected, actual) == [
        Difference("gone", "missing", one, None),
        Difference("mode", "changed", one, actual["mode"]),
        Difference("new", "extra", None, one),
        Difference("other", "changed", one, other),
    ]
    assert git_tree.compare(actual, actual) == []


def test_the_committed_manifest_of_el6_has_the_tree_id_and_the_entries_the_line_pins() -> None:
    source = line_loader.load("el6").data.sources["kernel-srpm"]
    assert isinstance(source, line_model.SrpmSource) and source.tree.manifest is not None
    listing = git_tree.read_manifest(resources.lines_dir() / source.tree.manifest)
    assert git_tree.tree_id(listing) == source.tree.git_tree
    assert len(listing) == source.tree.entries


def test_what_el6s_patches_touch_is_in_the_manifest_or_new() -> None:
    data = line_loader.load("el6").data
    listing = git_tree.read_manifest(resources.lines_dir() / "el6.tree.xz")
    for role, patches in data.roles.items():
        added = data.rules[role].must_add if role in data.rules else ()
        for name in patches.series:
            effect = data.patches[name].effect
            assert set(added) <= set(effect) - set(listing)
            assert all(listing[path].blob != blob for path, blob in effect.items() if path in listing)


def test_a_manifest_is_read_with_any_name_in_it(tmp_path: Path) -> None:
    rows = f"{FILE} {'1' * 40} a name with  blanks\n{SYMLINK} {'2' * 40} ä\n"
    (tmp_path / "m.xz").write_bytes(lzma.compress(rows.encode()))
    assert git_tree.read_manifest(tmp_path / "m.xz") == {
        "a name with  blanks": Entry(FILE, "1" * 40),
        "ä": Entry(SYMLINK, "2" * 40),
    }


def test_a_manifest_that_is_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "m.xz").write_bytes(lzma.compress(bytes(200 << 20), preset=0))
    with pytest.raises(UsageError, match="truncated, or more than"):
        git_tree.read_manifest(tmp_path / "m.xz")


@pytest.mark.parametrize(
    "content",
    [b"", b"no xz", lzma.compress(b"1 2 3\n")[:-9], lzma.compress(b"one two\n"), lzma.compress(b"\xff \xff \xff\n")],
)
def test_a_manifest_that_cannot_be_read_is_an_error_with_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.xz").write_bytes(content)
    with pytest.raises(PipelineError, match="manifest cannot be read") as caught:
        git_tree.read_manifest(tmp_path / "m.xz")
    assert caught.value.where == str(tmp_path / "m.xz")
