"""`inv logs`: the log of a step, whether it runs, ended or failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.errors import BuildFailed, ExitCode
from pipeline.packaging.graph import Step, StepGraph, Work
from tests.fixtures.built import Built
from tests.fixtures.commandline import ROOT, Inv

# A run that writes a line of its log for each one that it reads, and ends with the input.
WRITES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.packaging.graph import StepGraph, Step
from tests.fixtures.built import Built
def action(work):
    with work.log.open("w", buffering=1) as log:
        log.write("begun\\n")
        print("begun", flush=True)
        for line in sys.stdin:
            log.write(line)
        log.write("without a last newline")
Built(Path(sys.argv[2])).runner("lts61").run(StepGraph([Step("kernel:stock", action)]))
"""


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    return Inv(tmp_path)


@pytest.fixture
def writer(inv: Inv) -> Iterator[subprocess.Popen[bytes]]:
    """Another process whose step writes what it is given into its log."""
    argv = [sys.executable, "-c", WRITES, str(ROOT), str(inv.artifacts)]
    with process.start(argv, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        yield child


def make(inv: Inv, step: str, text: str, *, line: str = "lts61", fails: bool = False) -> None:
    """A run of a step with this log."""

    def action(work: Work) -> None:
        work.log.write_text(text)
        if fails:
            raise BuildFailed("it failed")

    Built(inv.artifacts).runner(line).run(StepGraph([Step(step, action)]))


def test_without_a_word_all_logs_are_listed(inv: Inv) -> None:
    assert "no step has been built" in inv("logs").out
    make(inv, "kernel:stock", "one\n")
    make(inv, "ipvsadm", "two\n", fails=True)
    listed = {row["step"]: row for row in inv("logs", "--json").json}
    assert all(row.keys() == {"line", "step", "state", "begun", "log"} for row in listed.values())
    assert {step: row["state"] for step, row in listed.items()} == {"kernel:stock": "done", "ipvsadm": "failed"}
    assert (inv.cwd / listed["ipvsadm"]["log"]).read_text() == "two\n"
    shown = inv("logs").out
    assert all(row["log"] in shown for row in listed.values())


def test_a_steps_newest_log_is_printed_neutral(inv: Inv) -> None:
    make(inv, "kernel:stock", "gcc: \x1b[2Jerror\n\tindented\n")
    made = inv("logs", "kernel")
    assert made.out == "gcc: \\x1b[2Jerror\n\tindented\n"
    assert "lts61 kernel:stock, done" in made.err
    make(inv, "kernel:stock", "of the other line\n", line="el6", fails=True)
    assert inv("logs", "kernel:stock").out == "of the other line\n"
    assert inv("logs", "kernel:stock", "--line", "lts61").out.startswith("gcc:")


def test_a_running_step_is_followed_to_its_end(inv: Inv, writer: subprocess.Popen[bytes]) -> None:
    argv = [str(ROOT / "inv"), "logs", "--follow", "--artifacts", str(inv.artifacts)]
    with process.start(argv) as follower:
        assert follower.stdout is not None and writer.stdin is not None
        assert follower.stdout.readline() == b"begun\n"
        writer.stdin.write(b"more\n")
        writer.stdin.flush()
        assert follower.stdout.readline() == b"more\n"
        writer.stdin.close()
        assert follower.stdout.read() == b"without a last newline\n"
        assert follower.wait(60) == 0


def test_a_killed_run_ends_what_follows_it(inv: Inv, writer: subprocess.Popen[bytes]) -> None:
    writer.kill()
    writer.wait()
    made = inv("logs", "kernel:stock", "--follow")
    assert made.out == "begun\n" and "interrupted" in made.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [(("kernal",), "step with a log 'kernal': not found"), (("--follow",), "no step is running")],
)
def test_what_has_no_log_is_refused_with_what_has_one(inv: Inv, words: tuple[str, ...], problem: str) -> None:
    make(inv, "kernel:stock", "one\n")
    made = inv("logs", *words, expect=ExitCode.USAGE)
    assert problem in made.err and "kernel:stock" in made.err
