"""The series of a tool in a series file: its keys against each other, and an override that leaves it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import line_loader
from tests.fixtures.linefiles import DIGEST, SERIES, house, only_mistake

TOOLS = f"""
[tools.tar]
must-contain = ["fullnat"]
patches = [{{ file = "one.patch", sha256 = "{DIGEST}" }}]
effect = {{ "tool.c" = "{"a" * 40}" }}
"""


@pytest.mark.parametrize(
    ("old", "new", "what", "allowed"),
    [
        ("tools.tar]", "tools.rat]", "no source 'rat'", "tar"),
        ('must-contain = ["fullnat"]\n', "", "nothing proves the series of tar", "must-contain"),
        ("effect = {", "program-contains = {} # {", "nothing says what the series of tar leaves", "[tools.tar.effect]"),
        (
            '" }]',
            f'" }}, {{ file = "one.patch", sha256 = "{DIGEST}" }}]',
            "the patch one.patch is in the series twice",
            "",
        ),
        ("one.patch", "../one.patch", "tools.tar.patches.0.file: '../one.patch' leaves its directory", "'..'"),
    ],
)
def test_a_series_of_a_tool_says_what_it_is_and_leaves(
    project: Path, old: str, new: str, what: str, allowed: str
) -> None:
    file = project / "patches/base/series.toml"
    assert TOOLS.count(old) == 1
    file.write_text(SERIES + TOOLS.replace(old, new))
    found = only_mistake()
    assert (found.file, found.what) == (str(file), what)
    assert allowed in found.allowed


def test_an_override_leaves_a_tools_series_out(project: Path) -> None:
    (project / "patches/base/series.toml").write_text(SERIES + TOOLS)
    assert len(line_loader.load("base").data.tools["tar"].patches) == 1
    file = house(project, "[tools.tar]\npatches = []\n")
    assert line_loader.load(line_file=file).data.tools["tar"].patches == ()
