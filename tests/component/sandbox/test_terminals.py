"""A hostile program in a shell of a sandbox, in front of a person's terminal, which it must not reach."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.sandbox import seccomp
from pipeline.sandbox.runtime import Image
from pipeline.sandbox.syscalls import RESULT, Call, static_program
from tests.fixtures.commandline import ROOT
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.rootfs import busybox_image, record

RUNTIMES = [
    "bubblewrap",
    "docker",
]
_WAIT = 20.0  # seconds on a busy machine
COMMANDS = (seccomp.TIOCSTI, seccomp.TIOCLINUX)
HIGH = (0, 1 << 32, 1 << 63)


def thief() -> bytes:
    """A program that ends with 0 when no way of typing `!` is open: on what it was given, and opened anew."""
    again = [
        Call("openat", (-100, name, 2), any_result=True) for name in (b"/dev/tty", b"/proc/self/fd/0", b"/dev/console")
    ]
    tries = [
        Call("ioctl", (0, command | high, b"!"), expected_errno=errno.EPERM, failure="typed")
        for command in COMMANDS
        for high in HIGH
    ]
    anew = []
    for opened in again:
        anew += [opened, Call("dup2", (RESULT, 9), any_result=True)]
        anew += [
            Call("ioctl", (9, command | high, b"!"), errno.EPERM, failure="typed")
            for command in COMMANDS
            for high in HIGH
        ]
    return static_program([*tries, *anew])


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:
        Path(name).chmod(0o755)
        made = busybox_image(Path(name, "image"), key="0123456789abcdef")
        (made.rootfs / "bin/thief").write_bytes(thief())
        (made.rootfs / "bin/thief").chmod(0o755)
        yield record(made)


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    with Dockerd.running() as engine:
        yield engine


@pytest.fixture(params=RUNTIMES)
def address(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("dockerd").address if request.param == "docker" else "bubblewrap"


@dataclass
class Person:
    """In front of a terminal, in which a command runs. The test keeps the command's end of it open, too."""

    pid: int
    screen: int
    keyboard: int  # where what is typed comes out, for who reads from the terminal
    said: str = ""

    def type(self, text: str, wanted: str = "") -> str:
        """Types; what has come since, once `wanted` has."""
        os.write(self.screen, text.encode())
        seen, until = "", time.monotonic() + _WAIT
        while wanted not in seen:
            assert time.monotonic() < until, self.said + seen
            if select.select([self.screen], [], [], 0.1)[0]:
                seen += os.read(self.screen, 4096).decode(errors="replace")
        self.said += seen
        return seen

    def sleep(self, token: str, count: int = 1) -> None:
        """Types `sleep`; until it runs a key would act on the shell. `count` of them are there then."""
        self.type(f"sleep {token}\r", token)
        until = time.monotonic() + _WAIT
        while len(living(token)) < count:
            assert time.monotonic() < until, self.said
            time.sleep(0.02)

    def status(self) -> int:
        """How the command ended; it is given a while, and what it still says is taken."""
        until = time.monotonic() + _WAIT
        while time.monotonic() < until:
            if select.select([self.screen], [], [], 0.02)[0]:
                self.said += os.read(self.screen, 4096).decode(errors="replace")
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(self.said)

    def modes(self) -> list[object]:
        """As stty(1) shows them."""
        return termios.tcgetattr(self.keyboard)

    def typed(self) -> bytes:
        """What waits to be read from the terminal by whatever the person starts next."""
        return fcntl.ioctl(self.keyboard, termios.FIONREAD, bytes(4))

    def holders(self) -> list[str]:
        """Processes with the terminal as their own or open, but those that are this command or its parents."""
        mine, found = os.fstat(self.keyboard), []
        sessions: dict[str, str] = {}  # that say the terminal with this number is theirs: a command line of each
        elsewhere = set()  # sessions at a terminal of another mount of devpts, which has the same numbers
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(directory.name) in (self.pid, os.getpid()):
                    continue
                line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                session, terminal = (directory / "stat").read_text().rpartition(")")[2].split()[3:5]
                opened = [link.stat() for link in (directory / "fd").iterdir() if link.exists()]
                found += [
                    f"open: {line}" for file in opened if (file.st_dev, file.st_ino) == (mine.st_dev, mine.st_ino)
                ]
                if int(terminal) == mine.st_rdev:
                    sessions[session] = line
                if any(file.st_rdev == mine.st_rdev and file.st_dev != mine.st_dev for file in opened):
                    elsewhere.add(session)
        return found + [f"its own: {line}" for session, line in sessions.items() if session not in elsewhere]


@contextlib.contextmanager
def person(address: str, image: Image, *, redirect: str = "") -> Iterator[Person]:
    """A person who opened a shell; nothing of it is left."""
    screen, keyboard = os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    words = [sys.executable, "-m", "tests.fixtures.onejob", address, str(image.rootfs.parent), "-"]
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.login_tty(keyboard)
            os.chdir(ROOT)
            words = ["/bin/sh", "-c", f'"$@" {redirect}; exit $?', "sh", *words] if redirect else words
            os.execve(words[0], words, process.clean_environment(PYTHONPATH=str(ROOT), TERM="dumb"))
        os._exit(99)
    try:
        yield Person(pid, screen, keyboard)
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(screen)
        os.close(keyboard)


def test_a_hostile_program_in_a_shell_types_nothing_for_the_person(address: str, image: Image) -> None:
    with person(address, image) as someone:
        before = someone.modes()
        someone.type("echo $((6*7))ready\r", "42ready")
        assert "\n0 of 42" in someone.type("thief; echo $? of $((6*7))\r", "of 42")
        assert someone.holders() == []
        someone.type("exit 7\r")
        assert someone.status() == 7
        assert (someone.typed(), someone.modes()) == (bytes(4), before)


def test_what_a_job_makes_the_terminal_answer_is_not_typed_for_the_persons_shell(image: Image) -> None:
    """A terminal answers some sequences by typing; here the test is the terminal."""
    with person("bubblewrap", image) as someone:
        someone.type("echo $((6*7))ready\r", "42ready")
        someone.type("printf 'ask%s' ed; sleep 2; kill -9 $$\r", "asked")
        os.kill(someone.pid, signal.SIGSTOP)  # the answer comes when the job has ended, and nobody has read it
        time.sleep(2.5)
        os.write(someone.screen, b"rm -r everything\r")
        os.kill(someone.pid, signal.SIGCONT)
        someone.status()
        assert someone.typed() == bytes(4)


def test_the_shell_has_a_terminal_of_its_own_with_jobs_keys_and_size(address: str, image: Image) -> None:
    with person(address, image) as someone:
        someone.type("echo $((6*7))ready\r", "42ready")
        assert "33 101" in someone.type("stty size\r", "101")
        fcntl.ioctl(someone.screen, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 77, 0, 0))
        os.kill(someone.pid, signal.SIGWINCH)
        someone.type("until [ \"$(stty size)\" = '44 77' ]; do sleep 0.05; done; echo $((5*5))sized\r", "25sized")
        someone.sleep(f"300{someone.pid}")
        someone.type("\x03", "^C")
        someone.type("echo $((7*9))ok\r", "63ok")
        someone.sleep(f"301{someone.pid}")
        someone.type("\x1a", "Stopped")
        someone.type("kill %1; exec 3<>/dev/tty && echo $((8*8))tty\r", "64tty")
        someone.type("exit 8\rexit 8\r")  # the first is refused where a job is still stopped
        assert someone.status() == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_shell_ends_with_everything_in_it_when_we_are_killed(address: str, image: Image, number: int) -> None:
    with person(address, image) as someone:
        before = someone.modes()
        token = f"300{someone.pid}"
        someone.type(f"trap '' HUP TERM INT; (setsid sleep {token} &) ; echo $((6*7))ready\r", "42ready")
        someone.sleep(token, 2)
        os.kill(someone.pid, number)
        assert someone.status() != 0
        if number != signal.SIGKILL:  # which nothing can be done before
            assert someone.modes() == before
        until = time.monotonic() + _WAIT
        while (left := living(token)) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == []


def living(token: str) -> list[bytes]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (directory / "cmdline").read_bytes()
            found += [line] if f"sleep\0{token}".encode() in line else []
    return found


def test_a_person_who_goes_away_ends_the_shell(address: str, image: Image) -> None:
    """The terminal is closed, and whoever was in front of it hears of it or not."""
    pid, screen = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        words = [sys.executable, "-m", "tests.fixtures.onejob", address, str(image.rootfs.parent), "-"]
        os.chdir(ROOT)
        os.execve(words[0], words, process.clean_environment(PYTHONPATH=str(ROOT), TERM="dumb"))
    someone = Person(pid, screen, -1)
    someone.type("echo $((6*7))ready\r", "42ready")
    os.close(screen)
    until = time.monotonic() + _WAIT
    while not os.waitpid(pid, os.WNOHANG)[0]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_input_that_is_no_terminal_leaves_the_terminal_out_of_the_sandbox(address: str, image: Image) -> None:
    with person(
        address, image, redirect="<<'END'\nthief; echo $? of thief\nsleep 1\necho err >&2; exit 6\nEND\n:"
    ) as someone:
        someone.type("", "of thief\r\n")
        assert [row for row in someone.holders() if "onejob" not in row] == []
        someone.type("", "err\r\n")


def test_input_that_is_closed_is_at_its_end(address: str, image: Image) -> None:
    words = [sys.executable, "-m", "tests.fixtures.onejob", address, str(image.rootfs.parent), "-"]
    env = process.clean_environment(PYTHONPATH=str(ROOT))
    ended = process.run(["/bin/sh", "-c", '"$@" <&-', "sh", *words], env=env, cwd=ROOT, timeout=60)
    assert ended.text == ""


def test_much_input_and_much_output_at_a_time_do_not_stand_in_each_others_way(address: str, image: Image) -> None:
    words = [sys.executable, "-m", "tests.fixtures.onejob", address, str(image.rootfs.parent), "-"]
    env = process.clean_environment(PYTHONPATH=str(ROOT))
    lines = [f"{number} {'-' * 60}\n" for number in range(30000)]
    ended = process.run(words, env=env, cwd=ROOT, stdin="".join(f"echo {line}" for line in lines).encode(), timeout=100)
    assert ended.text == "".join(lines)
