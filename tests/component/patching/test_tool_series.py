"""A tool's series: proven of the whole by what it changes and leaves, and every wrong part is named."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.line_model import Line, LineData
from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode, Refused, UsageError
from pipeline.formats import git_tree
from pipeline.patching import tool_series
from pipeline.patching.tool_series import PatchedTools, ToolProof
from pipeline.sources.records import Verified
from tests.fixtures.patches import changed, plain, source, write

MAIN, HEADER, PAGE = "tool.c", "lib/fullnat.h", "tool.8"
TREE = {MAIN: source("main"), PAGE: ".TH TOOL 8\n", "lib/other.c": source("other"), "tool.sh": "#!/bin/sh\n"}
HEADER_TEXT = "#define F_FULLNAT 5\n"
ONCE = changed(TREE[MAIN], "int main_20(void);", "int fullnat(int F_FULLNAT);")
TWICE = changed(ONCE, "int fullnat(int F_FULLNAT);", "int laddr(void);")
SERIES = {
    "0001-header.patch": plain(HEADER, "", HEADER_TEXT),
    "0002-method.patch": plain(MAIN, TREE[MAIN], ONCE) + plain(PAGE, TREE[PAGE], TREE[PAGE] + "fullnat\n"),
    "0003-laddr.patch": plain(MAIN, ONCE, TWICE),
}
Change = Callable[[dict[str, Any]], object]


class House:
    """A line whose tool has the patches of `series` beside it; `change` edits its table."""

    def __init__(
        self,
        place: Path,
        series: dict[str, bytes] = SERIES,
        change: Change = lambda _: None,
        tree: dict[str, str] = TREE,
    ) -> None:
        self.place = place
        for name, data in series.items():
            (place / name).write_bytes(data)
        table: dict[str, Any] = {
            "must-add": [HEADER],
            "must-touch": [MAIN],
            "must-contain": ["F_FULLNAT", "laddr"],
            "patches": [{"file": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in series.items()],
            "effect": blobs(place / "left", {MAIN: TWICE, HEADER: HEADER_TEXT, PAGE: TREE[PAGE] + "fullnat\n"}),
        }
        change(table)
        document = {
            "schema": 1,
            "name": "house",
            "title": "a patched tool",
            "kernel": "6.1",
            "roles": {"stock": {}},
            "sources": {},
            "tools": {"tool": table},
        }
        self.line = Line(LineData.model_validate(document), (place / "house.toml",), place / "house.lock.toml")
        tarball = place / "tool_1.orig.tar.gz"
        with tarfile.open(tarball, "w:gz") as packed:
            packed.add(write(place / "tool-1", tree), "tool-1")
        self.source = Verified("tool", tarball.name, tarball, sha256_of(tarball), 1, "here", "1", "", new=False)

    def prove(self) -> ToolProof:
        series = tool_series.verify(self.line)
        return PatchedTools(series, {"tool": self.source}, self.place / "artifacts").of("tool")

    def refusal(self) -> Refused:
        with pytest.raises(Refused) as caught:
            self.prove()
        assert caught.value.code is ExitCode.REFUSED
        return caught.value


def blobs(place: Path, files: dict[str, str]) -> dict[str, str]:
    """The blob ids of files, by path."""
    return {path: entry.blob for path, entry in git_tree.of_directory(write(place, files)).items()}


def test_a_series_is_proven_by_what_it_changes_and_leaves(tmp_path: Path) -> None:
    house = House(tmp_path)
    found = house.prove()
    assert (found.source, found.changed) == ("tool_1.orig.tar.gz", 3)
    assert (found.report.hunks, found.report.offsets) == (4, 0)
    assert found.by == f"by content: it adds {HEADER}; touches {MAIN}; adds 'F_FULLNAT'; adds 'laddr'"
    assert list((tmp_path / "artifacts" / "scratch").iterdir()) == [], "nothing is left of it"
    digests = tool_series.verify(house.line)["tool"].digests
    assert list(digests) == list(SERIES)
    assert digests["0001-header.patch"] == hashlib.sha256(SERIES["0001-header.patch"]).hexdigest()


def test_a_series_of_one_patch_is_that_patch(tmp_path: Path) -> None:
    whole = {"0001-all.patch": plain(HEADER, "", HEADER_TEXT) + plain(MAIN, TREE[MAIN], TWICE)}

    def change(table: dict[str, Any]) -> None:
        del table["effect"][PAGE]

    assert House(tmp_path, whole, change).prove().changed == 2


def test_a_tool_without_patches_is_upstreams(tmp_path: Path) -> None:
    house = House(tmp_path, {}, lambda table: table.update(effect={}))
    assert tool_series.verify(house.line)["tool"].patches == ()


def test_every_patch_with_another_digest_is_named(tmp_path: Path) -> None:
    house = House(tmp_path)
    for name in ("0001-header.patch", "0003-laddr.patch"):
        (tmp_path / name).write_bytes(SERIES[name] + b"\n")
    told = str(house.refusal())
    assert "patch 0001-header.patch of tool: its SHA-256 is" in told
    assert "patch 0003-laddr.patch of tool: its SHA-256 is" in told
    assert "0002-method.patch" not in told


def test_a_patch_that_is_not_there_is_the_persons_mistake(tmp_path: Path) -> None:
    house = House(tmp_path)
    (tmp_path / "0002-method.patch").unlink()
    with pytest.raises(UsageError, match=r"patch 0002-method\.patch: the file 0002-method\.patch is not there"):
        house.prove()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"must-contain": ["synproxy"]}, "it does not add 'synproxy'"),
        ({"must-add": [PAGE]}, f"it does not add {PAGE} (modified instead)"),
        ({"must-touch": ["lib/other.c"]}, "it does not touch lib/other.c"),
        ({"must-not-touch": ["lib/"]}, f"it touches {HEADER}, though nothing in lib/ may be"),
    ],
)
def test_a_series_that_is_not_for_what_its_table_says_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    found = House(tmp_path, change=lambda table: table.update(change)).refusal()
    assert found.what == f"the series of tool: {said}"


@pytest.mark.parametrize("effect", [{MAIN: "0" * 39 + "1"}, {"lib/other.c": "0" * 40}])
def test_a_series_that_leaves_other_files_than_recorded_is_refused(tmp_path: Path, effect: dict[str, str]) -> None:
    found = House(tmp_path, change=lambda table: table["effect"].update(effect)).refusal()
    assert found.what.startswith("the series leaves another tree than recorded: 1 path(s) differ")
    assert next(iter(effect)) in found.what


def test_a_hunk_that_needs_fuzz_is_refused(tmp_path: Path) -> None:
    """As with a source of another version."""
    moved = TREE[MAIN].replace("int main_18(void);\n", "int other_18(void);\n")
    found = House(tmp_path, tree={**TREE, MAIN: moved}).refusal()
    assert f"{MAIN}: hunk #1" in found.what and "applies only with fuzz" in found.what


def test_patches_in_another_order_are_refused(tmp_path: Path) -> None:
    found = House(tmp_path, dict(reversed(SERIES.items()))).refusal()
    assert "0003-laddr.patch" in found.what
    assert "check the order of the series" in str(found.hint)
