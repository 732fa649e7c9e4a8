"""What a running build says of how far it is."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.console import Console
from pipeline.packaging import progress, step_record
from pipeline.packaging.compilations import CompilationCounter
from pipeline.packaging.graph import Step, StepGraph, Work
from pipeline.packaging.progress import Progress
from pipeline.packaging.rpmbuild import CCACHE_LOG
from pipeline.packaging.scheduler import Scheduler


def build_place(work: Path) -> Path:
    """The top directory of a build in a step's directory."""
    top = work / "scratch" / "build"
    (top / CCACHE_LOG).parent.mkdir(parents=True)
    (top / "BUILD").mkdir()
    return top


def test_it_says_what_is_done_what_runs_and_how_long_it_still_takes(tmp_path: Path) -> None:
    said: list[str] = []
    runner = Scheduler(tmp_path, 1, lambda _: None)

    def plan(value: str) -> StepGraph:
        return StepGraph([Step("first", fill), Step("second", looks, {"value": value}, ("first",))])

    def fill(_: Work) -> None:
        """Done at once."""

    def looks(work: Work) -> None:
        begun = step_record.read(work.out.parent).begun
        said.append(Progress(plan(str(work.step.inputs["value"])), runner).line(begun + 3))

    assert Progress(plan("1"), runner).line(0.0) == ""
    runner.run(plan("1"))
    assert said == ["1 of 2 steps done; second 3 s"]
    place = next((tmp_path / "second").glob("[!.]*/meta.json")).parent
    replace(step_record.read(place), seconds=100.0).write(place)
    runner.run(plan("2"))
    assert said[1] == "1 of 2 steps done; second 3 s, about 1 min 37 s left"
    assert Progress(plan("2"), runner).line(0.0) == ""


def test_a_step_that_is_made_again_is_not_done(tmp_path: Path) -> None:
    said: list[str] = []
    runner = Scheduler(tmp_path, 1, lambda _: None, force=("only",))
    plan = StepGraph([Step("only", lambda work: said.append(Progress(plan, runner).line(time.time())))])
    runner.run(plan)
    runner.run(plan)
    assert [text.partition(";")[0] for text in said] == ["0 of 1 steps done"] * 2


def test_compilations_are_counted_and_the_time_left_follows_from_their_speed(tmp_path: Path) -> None:
    said: list[str] = []

    def compile_some(work: Work) -> None:
        now = step_record.read(work.out.parent).begun + 10
        top = build_place(work.out.parent)
        tree = top / "BUILD" / "linux-6.1"
        (tree / "kernel").mkdir(parents=True)
        (tree / ".config").write_text("CONFIG_SMP=y\n")
        (tree / "Makefile").write_text("core-y := kernel/\n")
        objects = " ".join(f"file{number}.o" for number in range(100))
        (tree / "kernel" / "Makefile").write_text(f"obj-$(CONFIG_SMP) += {objects}\n")
        shown = Progress(plan, runner)
        with (top / CCACHE_LOG).open("w") as log:
            for upto, at in ((10, now), (40, now + 30)):
                log.writelines(f"# kernel/file{number}.c\ncache_miss\n# -\ncache_miss\n" for number in range(upto))
                log.flush()
                said.append(shown.line(at))

    runner = Scheduler(tmp_path, 1, lambda _: None)
    plan = StepGraph([Step("kernel", compile_some)])
    outcome = runner.run(plan)["kernel"]
    assert said == [
        "0 of 1 steps done; kernel 10 s, 10 of 100 compiled, kernel/file9.c",
        "0 of 1 steps done; kernel 40 s, 50 of 100 compiled, about 38 s left, kernel/file39.c",
    ]
    assert outcome.record and outcome.record.facts.compilations == 50
    # The next run knows from this one how many there are.
    runner.force = ("kernel",)
    runner.run(plan)
    assert said[2].startswith("0 of 1 steps done; kernel 10 s, 10 of 50 compiled")


def test_a_tree_that_is_configured_again_is_counted_again(tmp_path: Path) -> None:
    tree = build_place(tmp_path) / "BUILD" / "kernel-2.6.32" / "linux-2.6.32"
    (tree / "kernel").mkdir(parents=True)
    (tree / "Makefile").write_text("core-y := kernel/\n")
    (tree / "kernel" / "Makefile").write_text("obj-y += fork.o\nobj-$(CONFIG_DRIVERS) += a.o b.o c.o\n")
    counter = CompilationCounter(tmp_path)
    assert counter.planned() == 0
    (tree / ".config").write_text("CONFIG_DRIVERS=m\n")
    assert counter.planned() == 4
    (tree / ".config").write_text("# CONFIG_DRIVERS is not set\n")
    assert counter.planned() == 1


def test_what_is_shown_follows_a_tree_that_is_configured_again(tmp_path: Path) -> None:
    said: list[str] = []

    def compile_some(work: Work) -> None:
        top = build_place(work.out.parent)
        tree = top / "BUILD" / "linux"
        (tree / "kernel").mkdir(parents=True)
        (tree / "Makefile").write_text("core-y := kernel/\n")
        (top / CCACHE_LOG).write_text("# scripts/conf.c\ncache_miss\n")
        shown = Progress(plan, runner)
        for objects in ("a.o b.o c.o", "a.o b.o"):
            (tree / "kernel" / "Makefile").write_text(f"obj-y += {objects}\n")
            (tree / ".config").write_text(f"# {objects}\n")
            said.append(shown.line(step_record.read(work.out.parent).begun))

    runner = Scheduler(tmp_path, 1, lambda _: None)
    plan = StepGraph([Step("kernel", compile_some)])
    runner.run(plan)
    assert [text.split(", ")[1] for text in said] == ["1 of 3 compiled", "1 of 2 compiled"]


@pytest.mark.parametrize(
    ("text", "count", "last"),
    [
        ("  CC      kernel/fork.o\n  LD      vmlinux.o\n  CC [M]  fs/ext4.o\n  AS      entry.o\n", 3, "entry.o"),
        ("gcc -O2 -Wall -c -o ipvsadm.o ipvsadm.c\ngcc -o ipvsadm ipvsadm.o -lnl\n", 1, "ipvsadm.c"),
        ("  CC      kernel/fork.o\n  CC      kernel/half", 1, "kernel/fork.o"),
        ("checking for gcc... gcc\n", 0, ""),
    ],
)
def test_without_a_compiler_cache_the_log_is_counted(tmp_path: Path, text: str, count: int, last: str) -> None:
    build_place(tmp_path)
    (tmp_path / "log").write_text(text)
    counter = CompilationCounter(tmp_path)
    assert counter.finish() == count
    assert counter.last == last


def test_a_link_in_place_of_the_caches_log_is_not_followed(tmp_path: Path) -> None:
    top = build_place(tmp_path)
    (tmp_path / "elsewhere").write_text("# kernel/fork.c\n")
    (top / CCACHE_LOG).symlink_to(tmp_path / "elsewhere")
    assert CompilationCounter(tmp_path).finish() == 0


def test_a_line_without_end_is_passed_over(tmp_path: Path) -> None:
    build_place(tmp_path)
    (tmp_path / "log").write_bytes(b"x" * (3 << 20) + b"\n  CC      kernel/fork.o\n")
    assert CompilationCounter(tmp_path).finish() == 1


def test_lines_come_by_the_minute_where_none_is_refreshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PERIOD", 0.05)
    console = Console(err=io.StringIO())
    runner = Scheduler(tmp_path, 1, console.note)
    seen = threading.Event()

    def wait(_: Work) -> None:
        until = time.monotonic() + 60
        while "1 steps done" not in console.err.getvalue() and time.monotonic() < until:  # type: ignore[attr-defined]
            time.sleep(0.01)
        seen.set()

    plan = StepGraph([Step("only", wait)])
    with progress.progress_reported(plan, runner, console):
        runner.run(plan)
    assert seen.is_set()
    assert "0 of 1 steps done; only" in console.err.getvalue()  # type: ignore[attr-defined]
