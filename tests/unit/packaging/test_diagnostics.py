"""How a build's bad end is told: whose fault, which limit, where, and what to type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import next_command
from pipeline.errors import BuildFailed, ExitCode, HostLacks, PipelineError
from pipeline.packaging.diagnostics import BuildContext, build_error
from pipeline.packaging.graph import Step, Work
from pipeline.sandbox.runtime import EndReason, JobResult, Limits

LIMITS = Limits(free=0)
OPTIONS = ("--line-file", "my.toml", "--runtime", "docker")


def told(tmp_path: Path, ended: JobResult, log: str = "made it\n", limits: Limits = LIMITS) -> PipelineError:
    w = tmp_path / "w"
    step, commands = Step("tool", lambda _: None), next_command.command
    work = Work(step, w / "out", w / "scratch", w / "log", {}, 1, options=OPTIONS, format_command=commands)
    (work.scratch / "build").mkdir(parents=True)
    work.log.write_text(log)
    return build_error(work, ended, BuildContext(work.scratch / "build", limits, "Docker 27.1"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("curl: (6) Could not resolve host: example.org", "no network"),
        ("wget: unable to resolve host address 'example.org'", "no network"),
        ("bash: connect: Network is unreachable", "no network"),
        ("make: fork: Resource temporarily unavailable", "4096 processes"),
        ("make: fork: Cannot allocate memory", "4096 processes"),
        ("cc1: out of memory allocating 65536 bytes", "12.0 GiB of memory"),
        ("cat: write error: File too large", "16.0 GiB"),
        ("gcc: error writing to /tmp/x.s: No space left on device", "2.0 GiB each"),
        ("gcc: error writing to /tmp/x.s: No space left on device", "no disk space"),
        ("gcc: fatal error: Killed signal terminated program cc1", "killed for lack of memory"),
        ("gcc: internal compiler error: Killed (program cc1)", "12.0 GiB of memory: --build-memory"),
        ("a.c:1:1: error: expected declaration", ""),
    ],
)
def test_what_the_sandbox_has_to_do_with_an_error_is_told(tmp_path: Path, line: str, why: str) -> None:
    error = told(tmp_path, JobResult(EndReason.EXIT, 2), f"begun\n{line}\nmake: *** [Makefile:1: all] Error 2\n")
    assert isinstance(error, BuildFailed)
    assert line in error.what and (why in error.why if why else error.why == "")
    assert error.where == f"{tmp_path}/.failed/log:2"
    assert error.hint.endswith(f"./inv shell tool {' '.join(OPTIONS)}")


def test_a_build_killed_by_a_signal_says_which(tmp_path: Path) -> None:
    assert "(killed by SIGSEGV)" in told(tmp_path, JobResult(EndReason.EXIT, -11)).what


@pytest.mark.parametrize(
    ("reason", "said", "option"),
    [
        (EndReason.WALL, "ran longer than 14400 s", "--build-time"),
        (EndReason.IDLE, "printed nothing for 1800 s", "--build-silence"),
        (EndReason.LOG, "printed more than 256.0 MiB", ""),
        (EndReason.SIZE, "wrote more than 64.0 GiB", "--build-disk"),
        (EndReason.MEMORY, "used more than 12.0 GiB", "--build-memory"),
    ],
)
def test_a_limit_is_told_with_its_option_and_the_last_words(
    tmp_path: Path, reason: EndReason, said: str, option: str
) -> None:
    error = told(tmp_path, JobResult(reason, -9), "".join(f"line {n}\n" for n in range(1, 101)))
    assert said in error.what and reason.value in error.what and "line 100" in error.what
    assert option in error.why and error.code == ExitCode.BUILD
    assert error.where.endswith("log:95")


@pytest.mark.parametrize("ended", [JobResult(EndReason.DISK, -9), JobResult(EndReason.EXIT, 1)])
def test_a_full_disk_is_no_failed_build_and_what_was_written_is_removed(tmp_path: Path, ended: JobResult) -> None:
    error = told(tmp_path, ended, "cc1: No space left on device\n", replace(LIMITS, free=1 << 60))
    assert isinstance(error, HostLacks) and error.what.startswith("disk space: expected 1073741824.0 GiB free, got ")
    assert error.where == str(tmp_path) and "files, which were removed, " in error.why
    assert not (tmp_path / "w/scratch/build").exists()
    assert (tmp_path / "w/log").exists()


def test_an_engine_that_went_away_is_no_failed_build(tmp_path: Path) -> None:
    error = told(tmp_path, JobResult(EndReason.ENGINE_LOST, -9))
    assert isinstance(error, HostLacks) and error.what.startswith("Docker 27.1: connection to the container lost")
    assert error.hint.endswith("./inv build-all --runtime bubblewrap --line-file my.toml")
