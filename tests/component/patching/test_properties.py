"""Whatever bytes come in: a result or a refusal, never another traceback, never a write elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError, Refused
from pipeline.formats import git_tree
from pipeline.patching.apply import DELETED, apply_series, prove
from pipeline.patching.compare import compare
from pipeline.patching.parser import scan
from pipeline.patching.patch_file import PatchFile, parse
from pipeline.patching.role_rules import classify
from tests.fixtures import patches
from tests.fixtures.patches import (
    RULES,
    TREE,
    director,
    git_link,
    git_new,
    git_rename,
    plain,
    realserver,
)

QUICK = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
PROGRAMS = settings(QUICK, max_examples=60)  # each example starts several programs
SAMPLES = (
    director(),
    realserver(),
    git_rename("Makefile", "Kbuild") + git_link("lib/l", "../Makefile") + git_new("lib/e.sh", "x", mode="100755"),
    plain("Makefile", TREE["Makefile"], ""),
)
SECRET = "kept as it was\n"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good patch with a few lines lost, doubled, swapped, or bytes changed."""
    data = draw(st.sampled_from(SAMPLES))
    for _ in range(draw(st.integers(1, 3))):
        lines = data.splitlines(True) or [b""]
        at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        how = draw(st.sampled_from(["lose", "double", "swap", "byte", "cut", "name"]))
        if how == "lose":
            del lines[at]
        elif how == "double":
            lines.insert(at, lines[other])
        elif how == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        elif how == "byte":
            where = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:where] + draw(st.binary(max_size=2)) + lines[at][where + 1 :]
        elif how == "name":
            lines[at] = lines[at].replace(b"/net/", b"/" + draw(st.sampled_from(PARTS)).encode() + b"/")
        else:
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            del lines[at + 1 :]
        data = b"".join(lines)
    return data


PARTS = (
    "..",
    ".",
    "",
    "net",
    "a",
    "Makefile",
    ".git",
    "door",
    "\\",
    "~",
    "$HOME",
    "-x",
    "\u00e4",
    "\u202e",
    "x\ty",
    " ",
    "'",
)
GOOD = st.lists(st.sampled_from(["a", "net", "lib", "door", "Makefile"]), min_size=2, max_size=4).map("/".join)
HOSTILE = GOOD | st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Sections in both formats whose names, rename sources and link targets try to leave the tree."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        one, other = draw(HOSTILE), draw(HOSTILE)
        made.append(
            draw(
                st.sampled_from(
                    [
                        git_new(one, "owned"),
                        git_link(one, other),
                        git_link("door", other) + git_new("door/" + one, "owned"),
                        git_rename(one, other),
                        git_rename("Makefile", other),
                        plain(one, "", "owned\n"),
                        f"--- {one}\n+++ {other}\n@@ -0,0 +1 @@\n+owned\n".encode(),
                        f"Index: {one}\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+owned\n".encode(),
                    ]
                )
            )
        )
    return b"".join(made)


def outcome(data: bytes) -> PatchFile | None:
    """The parsed patch, or None where it was refused; anything else fails the test."""
    try:
        return parse(data, "p.patch")
    except Refused as error:
        assert "p.patch" in error.what and error.where.startswith("p.patch") and error.hint
        return None


def stays_inside(path: str) -> bool:
    parts = path.split("/")
    return not path.startswith("/") and not {"..", ".", "", ".git"} & set(parts) and path.isprintable()


@QUICK
@given(st.binary(max_size=400))
@example(b"--- a/x\n+++ b/x\n@@ -1 +1 @@")
@example(b"diff --git a/x b/x\n")
@example(b"\xff" * 100)
def test_random_bytes_are_refused_or_read(data: bytes) -> None:
    outcome(data)


@QUICK
@given(st.lists(st.sampled_from(b"".join(SAMPLES).splitlines(True)), max_size=30).map(b"".join))
def test_shuffled_lines_of_patches_are_refused_or_read(data: bytes) -> None:
    outcome(data)


@QUICK
@given(mutated())
def test_a_mutated_patch_is_refused_or_read_within_its_bounds(data: bytes) -> None:
    patch = outcome(data)
    if patch is None:
        return
    end = 0
    for change in patch.files:
        assert all(stays_inside(path) for path in change.paths)
        assert end <= change.span[0] < change.span[1] <= len(data)
        end = change.span[1]
        section = data[slice(*change.span)]
        (alone,) = scan(section, "section").files
        assert (alone.path, alone.kind, alone.added, alone.removed) == (
            *(change.path, change.kind),
            *(change.added, change.removed),
        )
    classify(patch, RULES)
    assert compare(patch, patch, RULES).same_effect


@QUICK
@given(hostile())
def test_no_hostile_name_is_ever_accepted(data: bytes) -> None:
    patch = outcome(data)
    event("refused" if patch is None else "read")
    assert patch is None or all(stays_inside(path) for change in patch.files for path in change.paths)


@pytest.fixture(scope="module")
def house() -> Iterator[Path]:
    """A directory with a pristine tree, a scratch directory, and things around both that must not change."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        patches.write(root / "house/toy")
        for secret in ("secret", "house/secret", "house/work/secret"):
            (root / secret).parent.mkdir(parents=True, exist_ok=True)
            (root / secret).write_text(SECRET)
        (root / "house/toy/door").symlink_to("../work")
        yield root


def applied_leaves_all_else_alone(house: Path, data: bytes) -> None:
    around = git_tree.of_directory(house)
    with tempfile.TemporaryDirectory(dir=house / "house/work") as scratch:
        try:
            report = apply_series(house / "house/toy", [("p.patch", data)], Path(scratch) / "s")
        except PipelineError as error:
            assert isinstance(error, Refused), error
            event("refused")
        else:
            listing = git_tree.of_directory(house / "house/toy")
            effect = {path: item.blob if item else DELETED for path, item in report.changed.items()}
            assert prove(report, listing, effect).changed == len(effect)
            named = {path for change in parse(data, "p").files for path in change.paths}
            assert set(effect) <= named
            event("applied")
        inside = Path(scratch).relative_to(house).as_posix()
        after = git_tree.of_directory(house)
        assert {path: item for path, item in after.items() if not path.startswith(f"{inside}/s/")} == around


@PROGRAMS
@given(data=hostile())
@example(data=git_new("door/secret", "owned"))
@example(data=git_rename("door/secret", "stolen"))
@example(data=git_link("out", "../../secret") + b"--- a/out\n+++ b/out\n@@ -1 +1 @@\n-kept as it was\n+owned\n")
@example(data=git_link("d", "..") + git_new("d/secret", "owned"))
def test_applying_hostile_patches_writes_nowhere_else(house: Path, data: bytes) -> None:
    applied_leaves_all_else_alone(house, data)


@PROGRAMS
@given(data=mutated())
@example(data=director())
@example(data=director() + realserver())
def test_applying_mutated_patches_gives_a_proof_or_a_refusal(house: Path, data: bytes) -> None:
    applied_leaves_all_else_alone(house, data)


TEXTS = st.lists(
    st.sampled_from(["a", "b", "c", "", " x", "--- a", "+++ b", "@@ -1 +1 @@", "\\"]), min_size=1, max_size=12
)


@PROGRAMS
@given(old=TEXTS, new=TEXTS, context=st.integers(0, 3))
def test_a_diff_of_any_two_texts_leaves_exactly_the_new_one(old: list[str], new: list[str], context: int) -> None:
    """What difflib writes is read, applied by both programs, and gives the text it was made from."""
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    data = plain("f", before, after, context)
    with tempfile.TemporaryDirectory() as name:
        root = patches.write(Path(name) / "toy", {"f": before})
        if before == after:
            assert outcome(data) is None
            return
        try:
            report = apply_series(root, [("p", data)], Path(name) / "scratch")
        except Refused as error:
            # Without context git insists on the line number; it and GNU patch may then disagree.
            assert context == 0, error
            return
        entry = report.changed["f"]
        assert entry is not None and entry.blob == git_tree.blob_id(after.encode())
        assert report.offsets == 0
