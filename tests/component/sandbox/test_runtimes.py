"""Every runtime gives the same inside and the same limits, and runs nothing where it does not isolate."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import process
from pipeline.errors import HostLacks
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.container import ContainerEngine
from pipeline.sandbox.runtime import (
    EndReason,
    Image,
    Job,
    JobResult,
    Limits,
    Mount,
    build_group,
    build_user,
    chown_to_build_user,
    chown_to_caller,
)
from tests.fixtures.commandline import ROOT
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.rootfs import busybox_image, record, use_dash
from tests.fixtures.runtimes import Bench, bench_of, left_of, living, reachable_place

# --- Inside ----------------------------------------------------------------------------------------------


INSIDE = """
id -u; id -g; hostname; pwd
grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\t'
sed -n 's/^ *\\([^:]*\\):.*/\\1/p' /proc/net/dev
for place in / /bin /etc /input; do touch $place/x 2>/dev/null && echo "can write to $place"; done
for place in /tmp /run /var/tmp /build; do
  printf '#!/bin/sh\\necho runs from %s\\n' $place > $place/x && chmod +x $place/x && $place/x
done
ulimit -c; ulimit -f
"""


def test_inside_is_the_same(bench: Bench) -> None:
    assert bench.run(INSIDE, file=1 << 20).succeeded, bench.text
    assert bench.text.splitlines() == [
        str(build_user()),
        str(build_group()),
        "builder",
        "/build",
        *(f"Cap{kind}:0000000000000000" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
        "NoNewPrivs:1",
        "lo",
        *(f"runs from {place}" for place in ("/tmp", "/run", "/var/tmp", "/build")),
        "0",
        "2048",  # blocks of 512 bytes
    ]


def test_the_environment_is_what_was_given_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of ours")
    job = replace(bench.job(""), argv=("env",), environment={"GIVEN": "a b\n$c"})
    assert bench.runtime.run(job).succeeded
    assert bench.text == "GIVEN=a b\n$c\nHOME=/tmp\nPATH=/usr/bin:/bin:/usr/sbin:/sbin\n"


def test_a_mount_that_is_not_writable_is_not(bench: Bench) -> None:
    source = bench.place / "input"
    source.mkdir()
    (source / "file").write_text("content\n")
    chown_to_build_user(source)
    job = bench.job("cat /input/file; echo x > /input/file")
    assert bench.runtime.run(replace(job, mounts=(*job.mounts, Mount(source, "/input")))).status == 1
    assert bench.text.startswith("content\n")
    assert (source / "file").read_text() == "content\n"


def test_a_mount_of_what_is_not_there_is_an_error_and_makes_nothing(bench: Bench) -> None:
    job = replace(bench.job("true"), mounts=(Mount(bench.place / "missing", "/input"),))
    with contextlib.suppress(HostLacks):
        assert not bench.runtime.run(job).succeeded
    assert not (bench.place / "missing").exists()


def test_a_job_reaches_no_network_not_even_ours(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0fnat-test")
        abstract.listen()
        port = server.getsockname()[1]
        script = f"for where in 127.0.0.1 192.0.2.1; do nc -w 2 $where {port} </dev/null || echo no $where; done"
        bench.run(f"{script}; cat /proc/net/unix | grep -c fnat-test")
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "no 127.0.0.1" in bench.text and "no 192.0.2.1" in bench.text and "\n0\n" in bench.text


def test_output_belongs_to_the_build_user_and_then_to_us(bench: Bench) -> None:
    assert bench.run("mkdir d; echo x > d/file; ln -s /etc/passwd d/link").succeeded
    made = [bench.build / "d", bench.build / "d/file", bench.build / "d/link"]
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in made} == {(build_user(), build_group())}
    before = Path("/etc/passwd").stat()
    chown_to_caller(bench.build)
    assert {p.lstat().st_uid for p in made} == {os.geteuid()}
    assert Path("/etc/passwd").stat() == before


def test_both_runtimes_make_the_same_bytes(request: pytest.FixtureRequest) -> None:
    script = "echo text > a; touch -d @0 a; tar c a > b; (id -u; id -g; env; hostname; pwd; umask; ls -la /build/a) > c"
    made = []
    for kind in ("bubblewrap", "docker"):
        with reachable_place() as place:
            bench = bench_of(kind, request, place)
            assert bench.run(script).succeeded, bench.text
            made.append({path.name: path.read_bytes() for path in bench.build.iterdir()})
    assert made[0] == made[1]
    assert sorted(made[0]) == ["a", "b", "c"]


def test_a_place_that_only_root_may_pass_through_is_no_hindrance(request: pytest.FixtureRequest) -> None:
    with reachable_place() as place:
        bench = bench_of("bubblewrap", request, place)
        image = busybox_image(place / "image", key="behind a wall")
        place.chmod(0o700)
        job = replace(bench.job("id -u; echo made > file; cat file; sleep 0.2; exit 4"), image=image)
        assert Bubblewrap().run(job) == JobResult(EndReason.EXIT, 4), bench.text
        assert bench.text == f"{build_user()}\nmade\n"
        job = bench.job(f": {place}; sleep 4252", Limits(wall=0.5, free=0))
        assert Bubblewrap().run(replace(job, image=image)) == JobResult(EndReason.WALL, -9)
        assert living(f": {place}") == []
        assert not any(str(place) in row for row in Path("/proc/self/mounts").read_text().splitlines())


# --- The log and the end ---------------------------------------------------------------------------------


def test_a_line_is_in_the_log_while_the_job_runs(bench: Bench) -> None:
    ended: list[JobResult] = []
    script = "echo first; echo second >&2; while [ ! -e go ]; do sleep 0.05; done; echo last"
    thread = threading.Thread(target=lambda: ended.append(bench.run(script, wall=60)))
    thread.start()
    until = time.monotonic() + 30
    while not (bench.log.exists() and "second" in bench.text) and time.monotonic() < until:
        time.sleep(0.02)
    assert bench.text == "first\nsecond\n"
    (bench.build / "go").touch()
    thread.join()
    assert ended == [JobResult(EndReason.EXIT, 0)]
    assert bench.text == "first\nsecond\nlast\n"


def test_a_log_may_be_named_from_the_working_directory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.place)
    assert bench.runtime.run(replace(bench.job("echo said"), log=Path("log"))).succeeded
    assert bench.text == "said\n"


def test_a_log_is_appended_to_and_nothing_of_it_is_lost(bench: Bench) -> None:
    bench.log.write_text("begun\n")
    assert bench.runtime.run(bench.job("seq 200000; printf 'no newline'")).succeeded
    assert bench.text == "begun\n" + "".join(f"{n}\n" for n in range(1, 200001)) + "no newline"


@pytest.mark.parametrize(
    ("script", "status"), [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", -9), ("kill -SEGV $$", -11)]
)
def test_the_exit_status_is_told(bench: Bench, script: str, status: int) -> None:
    assert bench.run(script) == JobResult(EndReason.EXIT, status)


def test_a_program_that_is_not_there_is_told(bench: Bench) -> None:
    assert bench.runtime.run(replace(bench.job(""), argv=("no-such-program",))) == JobResult(EndReason.EXIT, 127)
    assert "no-such-program" in bench.text


def test_nothing_of_a_job_outlives_its_end(bench: Bench) -> None:
    """Many processes, whose ending takes the kernel a while."""
    one = f"setsid sh -c ': {bench.place}; sleep 60' >/dev/null 2>&1 &"
    for _ in range(3):
        assert bench.run(f"for n in $(seq 200); do {one} done; sleep 0.1; exit 0").succeeded, bench.text
        assert living(f": {bench.place}") == []


# --- Limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        ("trap '' TERM; while :; do echo on; sleep 0.1; done", {"wall": 1.5}, EndReason.WALL),
        ("echo said; sleep 4244", {"idle": 1.5}, EndReason.IDLE),
        ("yes", {"log": 1 << 20}, EndReason.LOG),
    ],
)
def test_a_job_ends_at_its_limit(bench: Bench, script: str, limits: dict[str, Any], reason: EndReason) -> None:
    begun = time.monotonic()
    assert bench.run(f": {bench.place}; {script}", **limits) == JobResult(reason, -9)
    assert time.monotonic() - begun < 10
    assert living(f": {bench.place}") == []
    assert bench.log.stat().st_size < 8 << 20


def test_a_fork_bomb_is_held_and_ended(bench: Bench) -> None:
    """One that would stop at 400, so that a limit that fails does no harm."""
    bomb = f": {bench.place}; for n in $(seq 400); do sh -c ': {bench.place}; sleep 60' & done; exit 0"
    assert not bench.run(bomb, processes=60).succeeded
    assert "fork" in bench.text
    assert living(f": {bench.place}") == []


def test_a_job_that_wants_all_memory_gets_its_own_limit(bench: Bench) -> None:
    ended = bench.run("head -c 1024m /dev/zero | tail; echo $?; exit 5", memory=64 << 20)
    assert ended == JobResult(EndReason.MEMORY if bench.address != "bubblewrap" else EndReason.EXIT, 5)


def test_a_job_that_had_enough_memory_is_not_said_to_lack_it(bench: Bench) -> None:
    assert bench.run("exit 5", memory=64 << 20) == JobResult(EndReason.EXIT, 5)


def test_a_file_cannot_grow_without_end(bench: Bench) -> None:
    assert not bench.run("head -c 64m /dev/zero > big", file=1 << 20).succeeded
    assert (bench.build / "big").stat().st_size == 1 << 20


def test_a_disk_that_fills_up_ends_the_job(bench: Bench, small_disk: Path) -> None:
    job = bench.job("cat /dev/zero > big; sleep 60", Limits(free=1 << 20, wall=30))
    begun = time.monotonic()
    ended = bench.runtime.run(replace(job, mounts=(Mount(small_disk, "/build", writable=True),)))
    (small_disk / "big").unlink()
    assert ended.reason is EndReason.DISK
    assert time.monotonic() - begun < 10


def test_a_log_that_cannot_be_written_ends_the_job(bench: Bench, small_disk: Path) -> None:
    ended = bench.runtime.run(replace(bench.job("yes"), log=small_disk / "log"))
    (small_disk / "log").unlink()
    assert ended.reason is EndReason.DISK


# --- Isolation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["readlink", "sh", "env"])
def test_an_image_that_cannot_answer_the_probe_runs_nothing(bench: Bench, without: str) -> None:
    with reachable_place() as place:
        image = busybox_image(place / "image", key=f"no-{without}")
        use_dash(image)
        assert bench.runtime.run(replace(bench.job("touch whole"), image=image)).succeeded
        image = replace(image, key=f"no-{without}-now")
        (image.rootfs / "bin" / without).unlink()
        record(image)
        with pytest.raises(HostLacks):
            bench.runtime.run(replace(bench.job("touch ran"), image=image))
    assert [path.name for path in bench.build.iterdir()] == ["whole"]


# What a bwrap of another mind would do, and what the probe says of it.
FAKES = {
    "no sandbox": ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "a namespace of mounts"),
    "network": ('shift; exec REAL --unshare-all --share-net "$@"', "the network interface"),
    "writable": ('for w; do shift; [ "$w" = --ro-bind ] && w=--bind; set -- "$@" "$w"; done; exec REAL "$@"', "a root"),
    "messages": ('shift; exec REAL --unshare-user --unshare-pid --unshare-net --unshare-uts "$@"', "ipc:"),
    "other user": ('shift; exec REAL --unshare-all --uid 0 "$@"', "the users 0"),
    "says so only": ("echo isolated", "isolated"),
    "nothing": ("exit 0", ""),
}


@pytest.mark.parametrize("name", list(FAKES))
def test_a_bubblewrap_that_does_not_isolate_runs_nothing(
    name: str, toy: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, why = FAKES[name]
    with reachable_place() as place:
        (place / "bwrap").write_text(f"#!/bin/sh\n{script.replace('REAL', str(shutil.which('bwrap')))}\n")
        (place / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        with pytest.raises(HostLacks, match="no isolation on this host") as caught:
            Bubblewrap().run(Job(toy, ("/bin/sh", "-c", f"touch {place}/ran"), place / "log"))
        assert why in caught.value.why
        assert not (place / "log").exists()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"network_mode": "host"}, "the network interface"),
        ({"cap_drop": []}, "capabilities"),
        ({"read_only": False}, "a root"),
        ({"security_opt": []}, "new privileges"),
        ({"security_opt": ["no-new-privileges", "seccomp=unconfined"]}, "filter of system calls"),
        ({"pid_mode": "host"}, "pid:"),
        ({"ipc_mode": "host"}, "ipc:"),
    ],
)
def test_an_engine_that_does_not_isolate_runs_nothing(
    docker_bench: Bench, dockerd: Dockerd, changed: dict[str, Any], why: str
) -> None:
    runtime = ContainerEngine(dockerd.engine, {})
    real = runtime.api.create_host_config
    runtime.api.create_host_config = lambda **asked: real(**(asked | changed))
    with pytest.raises(HostLacks, match="no isolation on this host") as caught:
        runtime.run(docker_bench.job("touch ran"))
    assert why in caught.value.why
    assert not (docker_bench.build / "ran").exists()
    assert left_of(docker_bench) == []


# --- The shell -------------------------------------------------------------------------------------------


def test_a_shell_has_the_persons_terminal(bench: Bench) -> None:
    words = [sys.executable, "-m", "tests.fixtures.onejob", bench.address, str(bench.image.rootfs.parent), "-"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(words[0], words, process.clean_environment(PYTHONPATH=str(ROOT), TERM="dumb"))
    said = b""
    try:
        said += _typed(terminal, b"tty; echo $((6*7))ok\r", b"42ok")
        said += _typed(terminal, f"sleep 60{pid}\r".encode(), b"sleep 60")
        until = time.monotonic() + 60
        while not living(f"sleep 60{pid}"):  # before, the key would act on the shell
            assert time.monotonic() < until, said
            time.sleep(0.02)
        said += _typed(terminal, b"\x03", b"^C")  # Ctrl-C ends the sleep, not the shell
        said += _typed(terminal, b"echo $((7*9))ok\r", b"63ok")
        said += _typed(terminal, b"exit 5\r", b"")
    finally:
        status = ended_within(pid, 10)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5, said
    assert b"not a tty" not in said
    assert left_of(bench) == []


def ended_within(pid: int, seconds: float) -> int:
    """The wait status of a child, which is killed when it does not end by itself."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _typed(terminal: int, keys: bytes, wanted: bytes) -> bytes:
    """What comes back until `wanted` does."""
    os.write(terminal, keys)
    said, until = b"", time.monotonic() + 60
    while wanted not in said and time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                said += os.read(terminal, 4096)
    assert wanted in said, said
    return said


def test_a_shell_without_a_terminal_reads_its_commands(bench: Bench) -> None:
    words = [sys.executable, "-m", "tests.fixtures.onejob", bench.address, str(bench.image.rootfs.parent), "-"]
    env = process.clean_environment(PYTHONPATH=str(ROOT))
    ended = process.run(words, env=env, cwd=ROOT, stdin=b"echo out; echo err >&2; exit 6\n", timeout=60, accept=[6])
    assert (ended.text + ended.error_text).splitlines() == ["out", "err"]
