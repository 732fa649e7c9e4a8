"""`./inv patches` and `./inv lines` of a line whose tool is patched."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from pipeline.formats.git_tree import blob_id
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.quickline import QuickLine, good_files

NAME, FILE = "0001-Know-FULLNAT.patch", "ipvsadm.c"
OLD = good_files()[FILE]
NEW = OLD.replace('"ipvsadm v1.31"', '"ipvsadm v1.31", "IPVS_FULLNAT"')
PATCH = "".join(difflib.unified_diff(OLD.splitlines(True), NEW.splitlines(True), f"a/{FILE}", f"b/{FILE}")).encode()
EFFECT = {FILE: blob_id(NEW.encode())}


@pytest.fixture
def line(tmp_path: Path) -> Iterator[QuickLine]:
    with QuickLine(tmp_path / "line") as made:
        made.patch(NAME, PATCH, must_contain=["IPVS_FULLNAT"], effect=EFFECT)
        yield made


def patches(inv: Inv, line: QuickLine, *more: str, expect: int = ExitCode.OK) -> Ended:
    """The verb, which asks the index again: its own option of that name would make the patches anew."""
    words = [word for word in line.words if word != "--refresh"]
    return inv("patches", *words, *more, expect=expect, FNAT_REFRESH="1")


def test_a_tools_patches_are_shown_and_proven(line: QuickLine, inv: Inv) -> None:
    done = patches(inv, line)
    assert "ipvsadm: by content: it adds 'IPVS_FULLNAT'" in done.out
    assert "name claims" not in done.out, "no role has a patch, and a table of none is shown"
    file = "ipvsadm_1.31.orig.tar.xz"
    applied = "ipvsadm: 1 hunks applied, 0 at an offset, none with fuzz"
    assert f"{applied}; 1 paths differ from {file}, each as recorded" in done.out
    document = patches(inv, line, "--json").json
    assert json.loads((inv.artifacts / "evidence" / line.name / "patches.json").read_text()) == document
    [found] = document["tools"].values()
    assert (found["source"], [item["patch"] for item in found["patches"]]) == (file, [NAME])
    [changed] = found["files"]
    assert (changed["path"], changed["after"], changed["hunks"]) == (
        *(FILE, EFFECT[FILE]),
        [{"number": 1, "offset": 0, "fuzz": 0}],
    )
    assert NAME in inv("lines", *line.words[:2]).out


def test_a_patch_that_was_changed_is_refused(line: QuickLine, inv: Inv) -> None:
    (line.place / NAME).write_bytes(PATCH.replace(b"IPVS_FULLNAT", b"IPVS_FULLNOT"))
    done = patches(inv, line, expect=ExitCode.REFUSED)
    assert f"patch {NAME} of ipvsadm: its SHA-256 is" in done.err


def test_a_series_that_leaves_another_file_is_refused(line: QuickLine, inv: Inv) -> None:
    line.patch(NAME, PATCH, must_contain=["IPVS_FULLNAT"], effect={FILE: "0" * 39 + "1"})
    done = patches(inv, line, expect=ExitCode.REFUSED)
    assert "the series leaves another tree than recorded" in done.err and EFFECT[FILE] in done.err
