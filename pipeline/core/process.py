"""Run programs: with a clean environment, limits, and an error for each kind of failure.

Argument vectors only, an explicit environment, the whole process group killed when we stop
waiting, and an error whose text differs by cause: not found, killed by a signal, timed out,
or a non-zero exit status. Knows nothing of what it runs.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.core import neutral
from pipeline.errors import ExitCode, HostLacks, PipelineError

_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the launcher says the same
_KEPT = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "SSL_CERT_FILE")
# In front of every program: setpriv has it killed when the starting thread dies, and the shell does not start it when
# that thread is dead already. Programs, since a fork of this process for it takes ten times as long.
_GUARD = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", 'unset PWD; [ "$PPID" = "$0" ] && exec "$@"')
# Bytes of one output that are kept in memory. The longest meant are what git says of a whole tree and diffoscope of two
# packages, a few MiB each; what has no end goes to a file, by `start`.
OUTPUT_MOST = 64 << 20
_running: set[subprocess.Popen[bytes]] = set()
_stop_requested = threading.Event()


@dataclass(frozen=True)
class Result:
    """Exit status of a finished program and both its outputs, as bytes."""

    argv: tuple[str, ...]
    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output as text; undecodable bytes are escaped."""
        return self.out.decode(errors="backslashreplace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.err.decode(errors="backslashreplace")


class ProgramFailed(PipelineError):
    """A program that failed. `result` is None when it never started or this program stopped it."""

    code = ExitCode.BUG

    def __init__(self, what: str, argv: Sequence[str], result: Result | None = None, cwd: Path | None = None) -> None:
        tail = "" if result is None else "\n".join((result.error_text or result.text).strip().splitlines()[-12:])
        super().__init__(what + (f"\n{tail}" if tail else ""), hint=reproducer(argv, cwd))
        self.argv, self.result = tuple(argv), result


class Stopped(BaseException):
    """A request to stop the run; no failure, so that no failure handler catches it. Ends its thread."""


class ProgramMissing(HostLacks):
    """A program that is not on the path."""


def absolute(search: str) -> str:
    """Return the absolute elements of a search path, or the system's default.

    An empty or relative element would run programs of the working directory.
    """
    return os.pathsep.join(part for part in search.split(os.pathsep) if part.startswith("/")) or _SYSTEM


def clean_environment(**extra: str) -> dict[str, str]:
    """Return the environment of every program: a few inherited names, the C.UTF-8 locale, and `extra`."""
    names = [*_KEPT, *(name.upper() for name in _KEPT)]
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC", **extra}


def reproducer(argv: Sequence[str], cwd: Path | None = None) -> str:
    """Return the command line to copy and paste."""
    command = neutral.command(argv)
    return f"(cd {neutral.word(cwd)} && {command})" if cwd else command


def stop_all() -> None:
    """Stop the run: end every program and let none start, so that every waiting thread unwinds."""
    _stop_requested.set()
    for child in list(_running):
        _kill_group(child)


def raise_if_stopped() -> None:
    """Raise `Stopped` once the run is to stop; for threads that wait for anything but a program."""
    if _stop_requested.is_set():
        raise Stopped


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | IO[bytes] | None = None,
    timeout: float | None = None,
    accept: Iterable[int] = (0,),
    most: int = OUTPUT_MOST,
) -> Result:
    """Run `argv` to its end and return its outputs.

    `timeout` in seconds; `accept` are the exit statuses that are no error; a program that prints more than `most`
    bytes is ended. Raises `ProgramMissing` or `ProgramFailed`. Kills its process group in every case.
    """
    with start(argv, env=env, cwd=cwd, stdin=stdin if not isinstance(stdin, bytes) else subprocess.PIPE) as child:
        words = tuple(str(word) for word in argv)
        try:
            out, err = _outputs(child, stdin if isinstance(stdin, bytes) else b"", timeout, most)
        except _TooMuch:
            what = f"{words[0]} printed more than {most} bytes and was ended"
            raise ProgramFailed(what, words, None, cwd) from None
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{words[0]} did not finish within {timeout:g} s", words, None, cwd) from None
    raise_if_stopped()  # else a killed program would count as a failed one
    result = Result(words, child.returncode, out, err)
    if result.status < 0:
        raise ProgramFailed(f"{words[0]} was killed by {signal_name(-result.status)}", words, result, cwd)
    if result.status not in set(accept):
        raise ProgramFailed(f"{words[0]} failed with exit status {result.status}", words, result, cwd)
    return result


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Return our end of a program's pipe. Raises `ValueError` for a stream that was not started as one."""
    if stream is None:
        raise ValueError("a program was started without this pipe")
    return stream


class _TooMuch(Exception):
    """A program that prints more than the limit."""


def _outputs(child: subprocess.Popen[bytes], stdin: bytes, timeout: float | None, most: int) -> tuple[bytes, bytes]:
    """Return both outputs of a program after its end, writing `stdin` meanwhile: `communicate` with a limit.

    Raises `_TooMuch`, and `subprocess.TimeoutExpired`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    out, err = pipe(child.stdout), pipe(child.stderr)
    outputs = {out: bytearray(), err: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in outputs:
            selector.register(stream, selectors.EVENT_READ)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            selector.register(child.stdin, selectors.EVENT_WRITE)
        left = memoryview(stdin)
        while selector.get_map():
            ready = selector.select(_left(child, deadline))
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    left = _fed(key.fd, left)
                    if not left:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                output = outputs[key.fileobj]  # type: ignore[index]
                if not (piece := os.read(key.fd, 1 << 16)):
                    selector.unregister(key.fileobj)
                output += piece
                if len(output) > most:
                    raise _TooMuch
    child.wait(_left(child, deadline))
    return bytes(outputs[out]), bytes(outputs[err])


def _left(child: subprocess.Popen[bytes], deadline: float | None) -> float | None:
    if deadline is None:
        return None
    if (left := deadline - time.monotonic()) <= 0:
        raise subprocess.TimeoutExpired(child.args, 0)
    return left


def _fed(descriptor: int, data: memoryview) -> memoryview:
    """Write some of a program's input and return the rest; nothing once the program reads no more."""
    try:
        return data[os.write(descriptor, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return memoryview(b"")


def run_attached(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run `argv` on the caller's own standard output and error; return its exit status."""
    with start(argv, env=env, cwd=cwd, stdout=None, stderr=None) as child:
        return child.wait()


@contextlib.contextmanager
def start(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | int | None = None,
    stdout: IO[bytes] | int | None = subprocess.PIPE,
    stderr: IO[bytes] | int | None = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running program in its own session; kill the rest of its process group afterwards.

    That session has no terminal. The child also dies when the thread that started it dies, so that SIGKILL leaves
    nothing.
    """
    raise_if_stopped()
    words = [str(word) for word in argv]
    environment = dict(env if env is not None else clean_environment())
    _require(words[0], cwd, environment.get("PATH", os.defpath))
    try:
        child = subprocess.Popen(
            [*_GUARD, str(os.getpid()), *words],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except FileNotFoundError:
        raise ProgramMissing(f"the program {_GUARD[0]} is not installed", hint="install util-linux") from None
    _running.add(child)
    try:
        raise_if_stopped()  # the stop may have come between the two
        yield child
    finally:
        _kill_group(child)
        _running.discard(child)
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _require(program: str, cwd: Path | None, path: str) -> None:
    """Raise unless the program and its working directory exist, each with an error of its own."""
    if cwd is not None and not cwd.is_dir():
        what = "a program's working directory: missing; it was removed while in use"
        raise HostLacks(what, where=str(cwd), hint="run the same command again: what is missing is made anew")
    if shutil.which(program, path=path) is None:
        there = shutil.which(program, os.F_OK, path) is not None
        lack = "may not be executed" if there else "is not installed"
        raise ProgramMissing(f"the program {program} {lack}", hint="./inv doctor")


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
