"""The one way to run a program: causes told apart, nothing left running, nothing inherited by accident.

These run small programs of the host (sh, sleep, env); each test starts what it needs and waits for facts, not for time.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.process import ProgramFailed, ProgramMissing, clean_environment, run
from pipeline.errors import ExitCode, PipelineError
from tests.fixtures.commandline import ROOT

PATIENCE = 10.0  # seconds for something that takes milliseconds


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes true while anybody would still wait."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_in(file: Path) -> int:
    assert eventually(lambda: file.is_file() and file.read_text().endswith("\n"))
    return int(file.read_text())


# --- Causes --------------------------------------------------------------------------------------------


def test_what_a_program_wrote_and_its_status_come_back() -> None:
    result = run(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin=b"in", accept=(0, 3))
    assert (result.status, result.out, result.err) == (3, b"in", b"oops\n")
    assert (result.text, result.error_text) == ("in", "oops\n")


def test_bytes_that_are_no_text_stay_visible() -> None:
    assert run(["printf", r"a\377b"]).text == "a\\xffb"


def test_a_missing_program_is_the_hosts_lack_and_names_the_doctor() -> None:
    with pytest.raises(ProgramMissing) as caught:
        run(["no-such-program", "x"])
    assert caught.value.what == "the program no-such-program is not installed"
    assert (caught.value.code, caught.value.hint) == (ExitCode.HOST, "./inv doctor")


def test_a_program_that_may_not_be_executed_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    with pytest.raises(ProgramMissing, match="may not be executed"):
        run([tmp_path / "plain"])


def test_a_host_without_what_binds_programs_to_us_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GUARD", ("/usr/bin/no-such-setpriv",))
    with pytest.raises(ProgramMissing, match="no-such-setpriv is not installed") as caught:
        run(["true"])
    assert caught.value.hint == "install util-linux"


def test_a_program_is_looked_for_where_its_own_environment_says(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("#!/bin/sh\necho ours\n")
    (tmp_path / "ours").chmod(0o755)
    assert run(["ours"], env={"PATH": str(tmp_path)}).text == "ours\n"
    with pytest.raises(ProgramMissing):
        run(["ours"], env={})
    assert run(["true"], env={}).status == 0


def test_a_working_directory_that_is_gone_is_not_blamed_on_the_program(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="working directory") as caught:
        run(["true"], cwd=tmp_path / "gone")
    assert not isinstance(caught.value, ProgramMissing)
    assert caught.value.where == str(tmp_path / "gone")


def test_an_exit_status_is_told_with_the_last_words_and_the_command_to_repeat() -> None:
    argv = ["sh", "-c", "for i in $(seq 40); do echo line $i >&2; done; exit 7"]
    with pytest.raises(ProgramFailed) as caught:
        run(argv)
    lines = caught.value.what.splitlines()
    assert lines[0] == "sh failed with exit status 7"
    assert lines[1:] == [f"line {number}" for number in range(29, 41)]
    assert caught.value.hint == shlex.join(argv)
    assert caught.value.result is not None and caught.value.result.status == 7


def test_standard_output_speaks_where_standard_error_is_silent() -> None:
    with pytest.raises(ProgramFailed, match="on the wrong stream"):
        run(["sh", "-c", "echo on the wrong stream; exit 1"])


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (11, "SIGSEGV"), (40, "signal 40|SIG")])
def test_a_signal_is_told_by_its_name_and_is_no_exit_status(number: int, name: str) -> None:
    with pytest.raises(ProgramFailed, match=f"sh was killed by ({name})"):
        run(["sh", "-c", f"kill -{number} $$"], accept=range(-64, 256))


def test_a_timeout_is_told_as_one_and_has_no_result() -> None:
    with pytest.raises(ProgramFailed, match=r"sleep did not finish within 0\.2 s") as caught:
        run(["sleep", "60"], timeout=0.2)
    assert caught.value.result is None


def test_the_four_causes_read_differently(tmp_path: Path) -> None:
    told = set()
    for argv, timeout in [(["no-such"], None), (["false"], None), (["sh", "-c", "kill -9 $$"], None), (["cat"], 0.0)]:
        with pytest.raises(PipelineError) as caught:
            run(argv, timeout=timeout, stdin=None)
        told.add(caught.value.what.replace(argv[0], "PROGRAM"))
    assert len(told) == 4


def test_the_reproducer_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    place = tmp_path / "a directory's name"
    place.mkdir()
    argv = ["printf", "%s|", "two words", "$HOME", "it's", "*"]
    command = process.reproducer(argv, place)
    assert run(["sh", "-c", command]).text == "two words|$HOME|it's|*|"
    assert run(["sh", "-c", process.reproducer(["pwd"], place)]).text.strip() == str(place)


# --- Environment ---------------------------------------------------------------------------------------


def test_a_program_gets_few_names_and_a_fixed_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PYTHONPATH", "/x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("no_proxy", "localhost")
    seen = dict(row.split("=", 1) for row in run(["env"]).text.splitlines())
    assert (seen["LC_ALL"], seen["TZ"], seen["PATH"]) == ("C.UTF-8", "UTC", os.environ["PATH"])
    assert (seen["HTTPS_PROXY"], seen["no_proxy"]) == ("http://proxy.example:1", "localhost")
    assert not {"SECRET", "PYTHONPATH", "LANG"} & set(seen)


def test_an_environment_that_is_given_is_the_whole_environment() -> None:
    path = os.environ["PATH"]
    assert run(["env"], env={"ONE": "1", "PATH": path}).text.splitlines() == ["ONE=1", f"PATH={path}"]


def test_extra_names_are_added_to_the_clean_environment() -> None:
    assert clean_environment(A="1")["A"] == "1"
    assert clean_environment(TZ="Asia/Tokyo")["TZ"] == "Asia/Tokyo"


def test_words_go_to_the_program_as_they_are_without_a_shell() -> None:
    assert run(["printf", "%s\n", "$(id)", "a;b", "*"]).text.splitlines() == ["$(id)", "a;b", "*"]


def test_a_program_that_reads_finds_no_terminal_and_an_end() -> None:
    assert run(["cat"]).out == b""


# --- Nothing is left -----------------------------------------------------------------------------------

GRANDCHILD = 'sleep 300 >/dev/null 2>&1 & echo $! > "$1"; {}'


def test_a_timeout_kills_grandchildren_too(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match="did not finish"):
        run(["sh", "-c", GRANDCHILD.format("wait"), "sh", tmp_path / "pid"], timeout=1.0)
    assert eventually(lambda: not alive(pid_in(tmp_path / "pid")))


@pytest.mark.parametrize("status", [0, 5])
def test_a_program_that_ends_leaves_no_grandchild_behind(tmp_path: Path, status: int) -> None:
    run(["sh", "-c", GRANDCHILD.format(f"exit {status}"), "sh", tmp_path / "pid"], accept=(status,))
    assert eventually(lambda: not alive(pid_in(tmp_path / "pid")))


def test_leaving_the_block_kills_what_was_started(tmp_path: Path) -> None:
    with process.start(["sh", "-c", GRANDCHILD.format("wait"), "sh", tmp_path / "pid"]) as child:
        grandchild = pid_in(tmp_path / "pid")
        assert alive(child.pid) and alive(grandchild)
    assert child.returncode == -signal.SIGKILL
    assert eventually(lambda: not alive(grandchild))


def test_an_exception_in_the_block_kills_what_was_started() -> None:
    with pytest.raises(RuntimeError, match="ours"), process.start(["sleep", "300"]) as child:
        raise RuntimeError("ours")
    assert not alive(child.pid)


def test_no_pipe_is_left_open() -> None:
    with process.start(["cat"], stdin=subprocess.PIPE) as child:
        pass
    pipes = [child.stdin, child.stdout, child.stderr]
    assert all(pipe is not None and pipe.closed for pipe in pipes)


def test_a_child_dies_when_we_are_killed_so_that_nothing_is_left(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.core import process\n"
        "with process.start(['sleep', '300']) as child:\n"
        "    Path(sys.argv[1]).write_text(f'{child.pid}\\n'); child.wait()\n"
    )
    file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", code, file], cwd=ROOT) as ours:
        child = pid_in(file)
        assert alive(child)
        ours.kill()
    assert eventually(lambda: not alive(child))


def test_a_program_whose_starter_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    guarded = [*process._GUARD, str(os.getppid()), "touch", str(tmp_path / "begun")]  # a parent it has not
    assert subprocess.run(guarded, check=False).returncode != 0
    assert not (tmp_path / "begun").exists()


def test_a_program_of_ours_does_not_get_the_signals_of_our_terminal() -> None:
    with process.start(["sleep", "300"]) as child:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        assert os.getsid(child.pid) != os.getsid(0)


def test_show_gives_the_status_and_passes_the_output_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.run_attached(["sh", "-c", "echo out; echo err >&2; exit 4"]) == 4
    assert capfd.readouterr() == ("out\n", "err\n")


STOPPING = """
import sys, threading, time
from pipeline.core import process
begun, ended = [], []
def step():
    try:
        with process.start(["sleep", "60"]) as child:
            begun.append(child)
            child.wait()
            process.raise_if_stopped()
            ended.append("went on")
    except process.Stopped:
        pass
    finally:
        ended.append("cleaned up")
threads = [threading.Thread(target=step) for _ in range(2)]
for thread in threads:
    thread.start()
while len(begun) < 2:
    time.sleep(0.01)
process.stop_all()
for thread in threads:
    thread.join(10)
try:
    process.run(["true"])
except process.Stopped:
    ended.append("begins nothing")
print(ended)
"""


def test_a_run_told_to_stop_ends_every_program_cleans_up_and_begins_none() -> None:
    """In a process of its own, which can be told only once."""
    ended = run([sys.executable, "-c", STOPPING], env=clean_environment(PYTHONPATH=str(Path.cwd())))
    assert ended.text.strip() == "['cleaned up', 'cleaned up', 'begins nothing']"
    assert ended.error_text == ""


# --- What has no end -------------------------------------------------------------------------------------

# Runs what is given in a process that may have little memory more than it has, and says how that ended.
SMALL = """
import resource, sys
from pipeline.core import process
room = int(open('/proc/self/statm').read().split()[0]) * 4096 + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    process.run(sys.argv[1:])
except process.ProgramFailed as error:
    print(error.what)
"""


@pytest.mark.parametrize("to", ["", " >&2"])
def test_a_program_that_prints_without_end_is_ended_within_little_memory(to: str) -> None:
    argv = [sys.executable, "-c", SMALL, "sh", "-c", f"exec cat /dev/zero{to}"]
    said = run(argv, env=clean_environment(PYTHONPATH=str(Path.cwd()))).text
    assert said == f"sh printed more than {process.OUTPUT_MOST} bytes and was ended\n"


def test_as_much_as_may_be_printed_comes_back_whole_with_its_input() -> None:
    data = bytes(range(256)) * 8000
    assert run(["cat"], stdin=data, most=len(data)).out == data
    with pytest.raises(ProgramFailed, match="printed more than"):
        run(["cat"], stdin=data, most=len(data) - 1)
    assert run(["true"], stdin=data).status == 0, "who reads nothing of its input is no failure"
    assert run(["cat"], stdin=b"").out == b""
