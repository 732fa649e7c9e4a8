"""Builds that misbehave, by the real command line under every runtime: told, ended, and of no harm to the next run."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pipeline.errors import ExitCode
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.quickline import PACKAGE
from tests.fixtures.workshop import Workshop

PROCESSES = 200  # not few: the kernel counts a user's, and other builds of this host are of the same user
FORKS = 400  # where a bomb would stop by itself, so that a limit that fails does no harm
BOMB = (
    f"""perl -e 'for (1..{FORKS}) {{ defined(my $$p = fork) or die "refused at $$_: fork: $$!"; $$p or sleep 60 }}'"""
)


@dataclass(frozen=True)
class Hostile:
    """What a Makefile does, with which limits, and what the error must say: each of `said` is in it."""

    build: str
    said: tuple[str, ...]
    options: tuple[str, ...] = ()


HOSTILE = {
    "asks the network": Hostile(
        "exec 3<>/dev/tcp/192.0.2.1/80",
        ("failed (exit status 1)", "Network is unreachable", "a build has no network", "pinned source"),
    ),
    "asks for a name": Hostile(
        "(exec 3<>/dev/tcp/www.example.org/80)",
        ("Temporary failure in name resolution", "a build has no network"),
    ),
    "forks on and on": Hostile(
        BOMB,
        ("fork: Resource temporarily unavailable", f"{PROCESSES} processes at once", "--build-processes"),
        ("--build-processes", str(PROCESSES)),
    ),
    "writes many files": Hostile(
        "for n in $$(seq 100); do head -c 8m /dev/zero > big$$n; sleep 0.05; done",
        ("wrote more than 64.0 MiB", "size limit", "--build-disk"),
        ("--build-disk", "64"),
    ),
    "fills its own memory": Hostile(
        """perl -e '$$x = "x" x (1 << 30); print "had it\\n"'""",
        ("256.0 MiB of memory", "--build-memory"),
        ("--build-memory", "256"),
    ),
    "prints nothing": Hostile(
        "sleep 600",
        ("printed nothing for 2 s", "idle limit", "--build-silence"),
        ("--build-silence", "2"),
    ),
    "never ends": Hostile(
        "while :; do echo on and on; sleep 0.1; done",
        ("ran longer than 10 s", "wall-clock limit", "on and on", "--build-time"),
        ("--build-time", "10"),
    ),
    "prints what acts on a terminal": Hostile(
        r"printf 'error: \033]0;owned\007\342\200\256x\n'; exit 3",
        (r"error: \x1b]0;owned\x07\u202ex", "failed (exit status 1)"),
    ),
    "leaves processes behind": Hostile(
        "trap '' TERM; (setsid sleep 600 </dev/null >/dev/null 2>&1 &); exit 3",
        ("failed (exit status 1)", "Error 3"),
    ),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_build_is_told_and_ended_and_the_next_run_is_good(name: str, either: Workshop) -> None:
    hostile = HOSTILE[name]
    either.line.makefile(hostile.build)
    ended = either.build("ipvsadm", *hostile.options, expect=ExitCode.BUILD)
    assert [text for text in hostile.said if text not in ended.err] == [], ended.err
    assert either.left() == {}
    assert_it_leads_to_the_log(ended, either.inv)
    either.line.makefile()
    assert PACKAGE in either.build("ipvsadm").out
    assert not list(either.inv.artifacts.glob("steps/*/*/.[wof]*")), "what failed is removed once it succeeds"


def assert_it_leads_to_the_log(ended: Ended, inv: Inv) -> None:
    """The error names a log that is there, and its line; the log begins with the command that made it."""
    where = re.search(r"^  where: (.*):(\d+)$", ended.err, re.MULTILINE)
    assert where is not None, ended.err
    lines = (inv.cwd / where[1]).read_text().splitlines()
    assert int(where[2]) <= len(lines)
    assert lines[0].startswith("# reproduce: ./inv build-all --only ipvsadm --force ipvsadm --line-file ")


def test_the_network_of_the_host_hears_nothing_of_a_build(either: Workshop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        either.line.makefile(f"exec 3<>/dev/tcp/127.0.0.1/{server.getsockname()[1]}")
        either.build("ipvsadm", expect=ExitCode.BUILD)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_forks_are_refused_at_the_limit_not_later(either: Workshop) -> None:
    either.line.makefile(BOMB)
    either.build("ipvsadm", "--build-processes", str(PROCESSES), expect=ExitCode.BUILD)
    refused = re.search(r"refused at (\d+)", either.log())
    assert refused is not None and int(refused[1]) < PROCESSES


def test_a_write_is_held_close_to_the_limit(shop: Workshop) -> None:
    shop.line.makefile("while :; do n=$$((n + 1)); head -c 8m /dev/zero > big$$n; sleep 0.05; done")
    shop.build("ipvsadm", "--build-disk", "64", "--build-time", "60", expect=ExitCode.BUILD)
    written = sum(path.stat().st_size for path in shop.inv.artifacts.rglob("big*"))
    assert 64 << 20 <= written < 1 << 30


def test_what_a_build_may_keep_in_memory_has_an_end(either: Workshop) -> None:
    """Else a build could take the host's own memory, file by file."""
    either.line.makefile("touch /dev/x; df -k --output=avail,target /tmp /run /var/tmp /dev/shm; false")
    either.build("ipvsadm", expect=ExitCode.BUILD)
    rows = re.findall(r"^ *(\d+) (/tmp|/run|/var/tmp|/dev/shm)$", either.log(), re.MULTILINE)
    assert {place: int(free) for free, place in rows} == {
        **dict.fromkeys(("/tmp", "/run", "/var/tmp"), 2 << 20),
        "/dev/shm": 64 << 10,
    }
    assert re.search(r"/dev/x'?: (Read-only file system|Permission denied)", either.log())


# --- The way back in -----------------------------------------------------------------------------------

IN_THE_MIDDLE = r"""echo 'int x = y;' > middle.c; echo 'before it'
gcc -c middle.c || { for n in $$(seq 40); do echo "make: *** [Makefile:$$n: all] Error 2"; done; exit 2; }"""
ERROR = "middle.c:1:9: error: "
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_an_error_in_the_middle_is_what_is_shown(shop: Workshop) -> None:
    shop.line.makefile(IN_THE_MIDDLE)
    ended = shop.build("ipvsadm", expect=ExitCode.BUILD)
    said = ended.err[ended.err.index("error: ipvsadm failed") :].splitlines()
    assert said[1].strip().startswith(ERROR)
    where = re.search(r"where: (\S+):(\d+)$", ended.err, re.MULTILINE)
    assert where is not None
    log = (shop.inv.cwd / where[1]).read_text().splitlines()
    assert log[int(where[2]) - 1].startswith(ERROR)
    assert len(log) > int(where[2]) + 40, "a long tail of echoes came after it"
    assert f"next: less +{where[2]} {where[1]}; or " in ended.err


def test_the_shell_that_the_message_names_fails_in_the_same_way(either: Workshop) -> None:
    either.line.makefile(IN_THE_MIDDLE)
    ended = either.build("ipvsadm", expect=ExitCode.BUILD)
    command = re.search(r"sandbox: \./inv (shell .*)$", ended.err, re.MULTILINE)
    assert command is not None, ended.err
    with terminal(either.inv, *shlex.split(command[1])) as tty:
        tty.type("echo $((6*7))ready", "42ready")
        said = tty.type("eval $BUILD_COMMAND; echo status $?.", "status 1.")
        assert ERROR in said and "Bad exit status" in said
        tty.type("cat BUILD/ipvsadm-1.31/middle.c", "int x = y;")
        assert tty.leave() == 0
    assert either.left() == {}


def test_a_shell_where_nothing_failed_says_so(shop: Workshop) -> None:
    ended = shop.inv("shell", "ipvsadm", "--line-file", shop.line.file, expect=ExitCode.USAGE)
    assert "no failed build is kept there" in ended.err


class Terminal:
    """A person at a terminal, in front of a command."""

    def __init__(self, pid: int, handle: int) -> None:
        self.pid, self.handle = pid, handle

    def type(self, text: str, wanted: str) -> str:
        """Types a line; what came back when `wanted` had."""
        os.write(self.handle, f"{text}\r".encode())
        said, until = "", time.monotonic() + 60
        while wanted not in said:  # what is typed comes back too, and must not be what is waited for
            assert time.monotonic() < until, said
            if select.select([self.handle], [], [], 0.2)[0]:
                said += os.read(self.handle, 4096).decode(errors="replace")
        return _COLOURS.sub("", said)

    def leave(self) -> int:
        """The exit status after `exit`."""
        os.write(self.handle, b"exit 0\r")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(inv: Inv, *words: str) -> Iterator[Terminal]:
    """The command on a terminal of its own."""
    pid, handle = pty.fork()
    if pid == 0:
        os.chdir(inv.cwd)
        os.execve(inv.argv()[0], inv.argv(*words), inv.environment(TERM="dumb"))
    try:
        yield Terminal(pid, handle)
    finally:
        os.close(handle)  # whoever still is in front of it hears that it is gone
