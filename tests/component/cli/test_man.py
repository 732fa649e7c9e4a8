"""The manual page as man(1) reads it, and what it must name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from invoke.collection import Collection

import tasks
from pipeline.cli import docs
from pipeline.config.settings import ROWS
from pipeline.core import process
from pipeline.errors import ExitCode
from tests.fixtures.commandline import ROOT

PAGE = ROOT / "docs" / docs.FILES["man"]


def read(page: Path) -> tuple[str, str]:
    """The page as a terminal shows it, and what groff says against it."""
    shown = process.run(
        ["man", "--warnings", "--local-file", str(page)],
        env=process.clean_environment(LC_ALL="C.UTF-8", MANWIDTH="100", MAN_KEEP_FORMATTING=""),
    )
    return shown.text, shown.error_text


def test_the_page_has_no_mistake() -> None:
    assert read(PAGE)[1] == ""


def test_a_mistake_in_it_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "page.1").write_text(PAGE.read_text() + ".XX\n")
    assert read(tmp_path / "page.1")[1] != ""


def test_verbs_settings_and_exit_codes_are_all_on_it() -> None:
    shown = " ".join(re.sub("\u2010\n *", "", read(PAGE)[0]).split())
    verbs = [task.verb for task in Collection.from_module(tasks).tasks.values()]
    assert [verb.name for verb in verbs if f"./inv {verb.usage}" not in shown] == []
    assert [verb.name for verb in verbs if f"./inv {verb.example}" not in shown] == []
    assert [row.name for row in ROWS if row.variable not in shown or row.option not in shown] == []
    assert [code.name for code in ExitCode if f"{code.value} {code.meaning}" not in shown] == []


def test_a_dash_can_be_copied_into_a_shell() -> None:
    assert shlex.split("./inv build-all lts61 --kernel-config small")[1] in read(PAGE)[0]
