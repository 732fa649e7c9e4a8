"""What hostile code finds in a sandbox: no call that leads out of it, and no word of where on the host it lies."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.sandbox import seccomp
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.runtime import Image, Job, Limits, Mount, build_user, chown_to_build_user
from tests.fixtures.commandline import ROOT
from tests.fixtures.rootfs import busybox_image


@contextmanager
def reachable() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def said_by(script: str, *argv: str) -> str:
    """What a program in Python says in a sandbox on the host's own tree."""
    image = Image("this host", "host", Path("/"), Path("/dev/null"))
    with reachable() as place:
        job = Job(image, ("/usr/bin/python3", "-c", script, *argv), place / "log", cwd="/", limits=Limits(free=0))
        runtime = Bubblewrap()
        runtime.prove_on_host()  # the host's tree is recorded nowhere, as an image would have to be
        runtime.run(job)
        return job.log.read_text()


# --- System calls --------------------------------------------------------------------------------------

CALL = """
import ctypes, errno, sys
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
for words in sys.argv[1:]:
    result = call(*[ctypes.c_ulong(int(word) % 2**64) for word in words.split()])
    print("done" if result >= 0 else errno.errorcode[ctypes.get_errno()])
"""


def answers(*calls: tuple[int, ...]) -> list[str]:
    """The errors of system calls made inside, by number and arguments; `done` without one."""
    return said_by(CALL, *(" ".join(map(str, call)) for call in calls)).split()


HIGH = 1 << 32, 1 << 63, 0xFFFFFFFF << 32


@pytest.mark.parametrize("command", [seccomp.TIOCSTI, seccomp.TIOCLINUX, seccomp.TIOCSETD])
def test_nothing_is_typed_into_a_terminal_whatever_the_high_bits_of_the_command(command: int) -> None:
    tcgets = 0x5401
    calls = [(16, 0, command, 0), *((16, 0, command | high, 0) for high in HIGH), (16, 0, tcgets, 0)]
    assert answers(*calls) == ["EPERM"] * 4 + ["ENOTTY"]


def test_no_namespace_is_made_or_entered_by_any_call() -> None:
    new = {"NEWNS": 1 << 17, "NEWCGROUP": 1 << 25, "NEWUTS": 1 << 26, "NEWIPC": 1 << 27, "NEWUSER": 1 << 28}
    new |= {"NEWPID": 1 << 29, "NEWNET": 1 << 30}
    unshared = [(272, flag | high) for flag in [*new.values(), 0x80] for high in (0, 1 << 32)]
    cloned = [(56, flag | 17, 0, 0, 0, 0) for flag in new.values()]
    assert set(answers(*unshared, *cloned)) == {"EPERM"}
    assert answers((435, 0, 0), (308, 0, 0), (308, 0, 1 << 28)) == ["ENOSYS", "EPERM", "EPERM"]


MOUNTING = (165, 166, 155, 428, 429, 430, 431, 432, 433, 442, 467)
OTHERS = (*(248, 249, 250, 101, 310, 311, 438, 440, 448, 312), *(321, 298, 323, 300, 103, 153, 154, 161, 163, 212))
KERNEL = (175, 313, 176, 246, 320, 169, 167, 168, 179, 443, 303, 304, 170, 171, 172, 173, 164, 227, 305)


def test_what_has_led_out_of_sandboxes_is_refused() -> None:
    refused = (*MOUNTING, *OTHERS, *KERNEL)
    assert dict(zip(refused, answers(*((number, 0, 0, 0, 0, 0) for number in refused)), strict=True)) == dict.fromkeys(
        refused, "EPERM"
    )


def test_what_has_another_way_or_came_later_is_not_there() -> None:
    absent = (435, 425, 426, 427, 457, 458, 319, 447, 29, 470, 511, 512, 520, 547, 1000)
    assert set(answers(*((number, 0, 0, 0, 0, 0) for number in absent))) == {"ENOSYS"}


def test_no_other_kind_of_call_is_a_way_around() -> None:
    """The calls of x32, in which ioctl has a number of its own too, and those of programs of 32 bits."""
    x32 = 0x40000000
    assert set(answers((x32 + 39,), (x32 + 514, 0, seccomp.TIOCSTI, 0), (x32 + 272, 1 << 28))) == {"ENOSYS"}
    int80 = """
import ctypes, mmap
code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid); int 0x80; ret
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
print("begun", flush=True)
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))(), flush=True)
"""
    assert said_by(int80).split() == ["begun", "Bad", "system", "call"]


def test_only_sockets_that_stay_inside_are_made() -> None:
    unix, inet, netlink, vsock, packet, alg = 1, 2, 16, 40, 17, 38
    assert answers(*((41, family, 2, 0) for family in (unix, inet, netlink))) == ["done"] * 3
    assert answers(*((41, family, 2, 0) for family in (vsock, packet, alg, vsock + (1 << 32)))) == ["EAFNOSUPPORT"] * 4
    assert answers((53, unix, 2, 0, 0), (53, vsock, 2, 0, 0), (53, 30, 2, 0, 0)) == ["EFAULT", *["EAFNOSUPPORT"] * 2]


def test_builds_keep_what_they_use() -> None:
    script = """
import os, subprocess, threading, multiprocessing
thread = threading.Thread(target=print, args=["thread"]); thread.start(); thread.join()
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout.strip())
print(subprocess.run(["setarch", "x86_64", "-R", "echo", "setarch"], capture_output=True, text=True).stdout.strip())
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(3))))
os.unshare(0x400) if hasattr(os, "unshare") else None
print(os.path.exists("/proc/self/fd/0"), os.getcwd())
"""
    assert said_by(script).split() == ["thread", "child", "setarch", "3", "True", "/"]


# --- The host's paths ----------------------------------------------------------------------------------

# Every file below /proc that can be read, every link, the environment, and what /etc has; with the names.
READ_ALL = """
cd /build
find /proc -maxdepth 5 ! -path '/proc/*/task/*/task*' -type l 2>/dev/null | while read -r link; do
  echo "$link -> $(readlink $link 2>/dev/null)"
done
find /proc /etc /sys /run /tmp /dev -type f 2>/dev/null | grep -v -e kmsg -e kcore -e pagemap -e '/mem$' -e kpage |
while read -r file; do echo "= $file"; timeout 2 head -c 200000 "$file" 2>/dev/null; done
env
echo whole
"""


def script_of(place: Path, words: str) -> Job:
    mounts = (Mount(place / "secret-build", "/build", writable=True), Mount(place / "secret-input", "/input"))
    image = Image("toy", "0123456789abcdef", place / "secret-image/rootfs", place / "secret-image/packages.json")
    return Job(image, ("/bin/sh", "-c", words), place / "log", mounts, limits=Limits(free=0, wall=100))


@contextmanager
def placed(owner: int) -> Iterator[Path]:
    """A place with an image and two directories for a job, of the user `owner`."""
    with reachable() as place:
        busybox_image(place / "secret-image")
        for name in ("secret-build", "secret-input"):
            (place / name).mkdir()
        if owner:
            for path in (place, *place.rglob("*")):
                os.chown(path, owner, owner, follow_symlinks=False)
        else:
            chown_to_build_user(place / "secret-build")
        yield place


def run_as(user: int, place: Path, words: str) -> str:
    """The log of a job that a person with this id has run."""
    code = (
        "import sys; from pathlib import Path; from pipeline.sandbox.bubblewrap import Bubblewrap;"
        "from tests.component.sandbox.test_confinement import script_of;"
        "print(Bubblewrap().run(script_of(Path(sys.argv[1]), sys.argv[2])))"
    )
    who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*who, sys.executable, "-c", code, str(place), words], cwd="/", env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (place / "log").read_text(errors="backslashreplace")


USERS = [pytest.param(0, id="root"), pytest.param(61234, id="plain user")]


@pytest.mark.parametrize("user", USERS)
def test_nothing_inside_names_a_directory_of_the_host(user: int) -> None:
    with placed(user) as place:
        said = run_as(user, place, READ_ALL)
        assert said.endswith("whole\n") and "= /proc/1/mountinfo\n" in said and "/proc/2/ns/mnt -> mnt:" in said
        assert [row for row in said.splitlines() if place.name in row or "secret-" in row or str(ROOT) in row] == []


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("what", ["mountinfo", "mounts", "mountstats"])
def test_no_process_inside_is_told_what_is_mounted(user: int, what: str) -> None:
    with placed(user) as place:
        assert run_as(user, place, f"cat /proc/self/{what} /proc/2/{what} /proc/$PPID/{what}; echo over") == "over\n"


@pytest.mark.parametrize("user", USERS)
def test_a_job_has_nothing_open_but_its_input_and_outputs(user: int) -> None:
    """The second process holds what keeps the sandbox and its supervisor, neither of which can be opened or entered."""
    script = """ls /proc/self/fd | tr '\\n' ' '
    for link in /proc/2/fd/*; do readlink $link; done | sed 's/:.*//' | sort | tr '\\n' ' '
    for link in /proc/2/fd/*; do case $(readlink $link) in socket:*) echo $(echo x 2>&1 > $link) ;; esac; done
    nsenter --mount=/proc/2/ns/mnt true 2>&1"""
    with placed(user) as place:
        said = run_as(user, place, script)
    assert said.startswith("0 1 2 3 /dev/null mnt pipe pipe socket ")  # 3 is the directory that `ls` reads
    assert "No such device" in said and "Operation not permitted" in said


def test_the_mounts_are_kept_by_two_so_that_none_is_gone_before_the_job_is() -> None:
    """The first processes let go of them before the kernel kills the others; what watches them is one of these."""
    script = "for link in /proc/[0-9]*/fd/*; do case $(readlink $link) in mnt:*) echo $link; esac; done | cut -d/ -f3"
    with placed(0) as place:
        first, watching = run_as(0, place, f"{script}; cat /proc/$PPID/cmdline").partition("/bin/sh")[0].split()
    assert (first, int(watching) > 2) == ("2", True)


@pytest.mark.parametrize("user", USERS)
def test_no_job_reaches_into_the_first_process_which_ends_all_others(user: int) -> None:
    """Who changes its memory or has a hold of what it has open lives on when we want the job to end, and after us."""
    script = "for name in fd ns/mnt root/ mem maps environ syscall; do head -c 1 /proc/1/$name; done 2>&1"
    with placed(user) as place:
        assert run_as(user, place, script).count("ermission denied") == 7


@pytest.mark.parametrize(("words", "status"), [("exit 7", 7), ("kill -9 $PPID; sleep 9", -9), ("kill -9 1; exit 3", 3)])
def test_the_first_process_takes_in_orphans_and_ends_as_its_child_does(words: str, status: int) -> None:
    orphans = """for n in 1 2 3; do (sleep 0.1 &); done
    for n in $(seq 100); do set -- /proc/[0-9]*; [ $# = 5 ] && break; sleep 0.1; done; echo $#"""
    with placed(0) as place:
        ended = Bubblewrap().run(script_of(place, f"{orphans}; {words}"))
        assert (ended.status, (place / "log").read_text().split()[0]) == (status, "5")


@pytest.mark.parametrize("user", USERS)
def test_no_process_inside_has_a_capability(user: int) -> None:
    """The first one had some for a moment."""
    with placed(user) as place:
        said = run_as(user, place, "grep -h -e ^Cap -e ^Seccomp: -e ^NoNew /proc/[0-9]*/status | sort -u")
    kinds = ("Amb", "Bnd", "Eff", "Inh", "Prm")
    assert said.split() == [
        *(word for kind in kinds for word in (f"Cap{kind}:", "0" * 16)),
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
    ]


def test_what_the_kernel_tells_of_its_host_is_not_to_be_read() -> None:
    script = """
for name in "cmdline", "swaps", "keys", "key-users":
    try:
        print(name, open(f"/proc/{name}").read())
    except PermissionError:
        print("refused")
"""
    assert said_by(script).split() == ["refused"] * 4


def test_a_job_changes_its_directory_and_makes_files_as_ever() -> None:
    with placed(0) as place:
        said = run_as(
            0, place, "pwd; echo text > a; cat /build/a; cat /input/none; touch /input/x; readlink /proc/self/cwd"
        )
        assert said.splitlines()[:2] == ["/build", "text"] and said.endswith("/build\n") and "Read-only" in said
        made = (place / "secret-build/a").stat()
        assert stat.S_ISREG(made.st_mode) and made.st_uid == build_user()
