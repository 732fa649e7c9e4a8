"""Limits of the shell are blamed by name, with the command that shows them; neither the disk nor the build is."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.core import disk_space, process, rlimits
from pipeline.core.process import ProgramFailed, Result
from pipeline.core.rlimits import CPU, FILE_SIZE, FILES, MEMORY, PROCESSES, Limit
from pipeline.errors import ExitCode, HostLacks
from tests.fixtures.commandline import Inv


@contextmanager
def held_to(limit: Limit, amount: int) -> Iterator[None]:
    """The limit as `ulimit -S` sets it, in bytes, seconds or pieces."""
    before = resource.getrlimit(limit.number)
    resource.setrlimit(limit.number, (amount, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit.number, before)


ERRORS = (
    (FILE_SIZE, OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/artifacts/log"), 1 << 40),
    (FILES, OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 1 << 10),
    (MEMORY, MemoryError(), 1 << 44),
    (MEMORY, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), 1 << 44),
    (MEMORY, RuntimeError("can't start new thread"), 1 << 44),
)


@pytest.mark.parametrize(("limit", "error", "amount"), ERRORS)
@pytest.mark.parametrize("how", [disk_space.host_errors, disk_space.writing])
def test_an_error_of_ours_is_put_down_to_the_limit(
    tmp_path: Path, limit: Limit, error: Exception, amount: int, how: object
) -> None:
    guard = how(tmp_path)  # type: ignore[operator]
    with held_to(limit, amount), pytest.raises(HostLacks) as caught, guard:
        raise error
    assert caught.value.what.startswith(f"the shell's limit `ulimit {limit.option}`")
    assert caught.value.hint.startswith(f"ulimit {limit.option} shows it") and "no disk space" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        (FILE_SIZE, -signal.SIGXFSZ, ""),
        (CPU, -signal.SIGXCPU, ""),
        (CPU, -signal.SIGKILL, ""),
        (FILES, 1, "tar: x: Cannot open: Too many open files"),
        (MEMORY, 2, "cc1: Cannot allocate memory"),
    ],
)
def test_so_is_the_end_of_a_program(tmp_path: Path, limit: Limit, status: int, said: str) -> None:
    result = Result(("tar",), status, b"", said.encode())
    amount = 1 << 40 if limit is not FILES else 1 << 10
    with held_to(limit, amount), pytest.raises(HostLacks) as caught, disk_space.writing(tmp_path):
        raise ProgramFailed("tar failed", ["tar"], result)
    assert f"ulimit {limit.option}" in caught.value.what


def test_a_limit_that_is_not_set_is_not_blamed(tmp_path: Path) -> None:
    error = OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(tmp_path / "log"))
    assert rlimits.exceeded(error) is None
    with pytest.raises(HostLacks) as caught, disk_space.host_errors(tmp_path):
        raise error
    assert "ulimit" not in str(caught.value) and os.strerror(errno.EFBIG) in str(caught.value)


def test_a_real_program_and_a_real_write_meet_the_limit(tmp_path: Path) -> None:
    with held_to(FILE_SIZE, 4096):
        with pytest.raises(HostLacks, match="ulimit -f"), disk_space.host_errors(tmp_path):
            (tmp_path / "big").write_bytes(bytes(10_000))
        with pytest.raises(HostLacks, match="ulimit -f"), disk_space.writing(tmp_path):
            process.run(["dd", "if=/dev/zero", f"of={tmp_path}/other", "bs=10000", "count=1"])


def test_what_a_build_needs_and_the_shell_forbids_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rlimits.require({FILES: 1}, "a build")
    monkeypatch.setattr(rlimits, "_may_raise", lambda: False)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(HostLacks, match=f"`ulimit -n`.*expected {hard + 1}, got") as caught:
        rlimits.require({PROCESSES: 1, FILES: hard + 1}, "a build")
    assert caught.value.why == "a build needs as much"


@pytest.mark.parametrize(
    ("ulimit", "words"),
    [
        ("-n 8", ("fetch", "lts61", "--offline")),
        ("-f 0", ("store", "verify")),
        ("-f 0", ("fetch", "lts61", "--offline")),
    ],
)
def test_the_command_line_blames_the_limit_that_its_shell_set(tmp_path: Path, ulimit: str, words: tuple[str]) -> None:
    inv = Inv(tmp_path)
    inv.before = ("bash", "-c", f'ulimit {ulimit}; exec "$@"', "bash")
    ended = inv(*words, expect=ExitCode.HOST)
    assert f"`ulimit {ulimit.split()[0]}`" in ended.err and "no disk space" not in ended.err


def test_a_run_out_of_cpu_time_ends_in_good_order(tmp_path: Path) -> None:
    inv = Inv(tmp_path)
    script = (
        "import tasks; from pipeline.cli import app; from pipeline.commands.task import verb\n"
        "def spin(context):\n    'Burn time.'\n    while True: pass\n"
        "tasks.spin = verb()(spin); app.main()"
    )
    argv = ["bash", "-c", 'ulimit -t 4; exec "$@"', "bash", inv.argv()[0], "-c", script, "spin"]
    ended = subprocess.run(argv, env=inv.environment(), cwd=inv.cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.HOST, ended.stderr
    assert "`ulimit -t` (CPU time)" in ended.stderr and "Traceback" not in ended.stderr
    assert list(inv.tmp.iterdir()) == []
