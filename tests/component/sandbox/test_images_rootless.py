"""A Debian image made by a user without root, in a directory that only this user may search."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import process
from tests.fixtures.plainuser import as_user, python

# The image is made and a job is run in it; the first line of output says where it is.
MAKE = """
import sys
from pathlib import Path
from tests.component.sandbox.test_images import QUIET, RECIPE
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.images import debian_image
from pipeline.sandbox.runtime import Job, Limits
root = Path(sys.argv[1])
image = debian_image(RECIPE, root, QUIET, offline=False)
print(image.rootfs.parent, flush=True)
job = Job(image, ("busybox", "sh", "-c", "id -u; cat /etc/debian_version"), root / "log", limits=Limits(free=0))
assert Bubblewrap().run(job).succeeded, job.log.read_text()
"""
TRY = """
from pipeline.host import namespaces
from pipeline.host.facts import Host
finding = namespaces.check(Host())
print(finding.state, finding.found, finding.remedy, sep="|")
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def home(place: Path) -> Path:
    """A directory of the user's, that nobody else may search and whose name takes quoting."""
    made = place / "bau äume's"
    made.mkdir(mode=0o700)
    return made


def command(place: Path, home: Path, program: str, *argv: str | Path, **more: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of a program in Python that the user runs."""
    prefix = as_user(Path(tempfile.mkdtemp(dir=place)) / "etc", home, **more)
    interpreter, path = python()
    words = [*prefix, interpreter, "-c", program, *map(str, argv)]
    return words, process.clean_environment(PYTHONPATH=path, HOME=str(home), PYTHONDONTWRITEBYTECODE="1")


def at_work(home: Path) -> list[str]:
    """The command lines of processes that work below `home`."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(home) in line or str((directory / "root").readlink()).startswith(str(home)):
                found.append(line)
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def image(place: Path, home: Path) -> Path:
    """The directory of the image, made after a run that was killed in the middle of it."""
    words, env = command(place, home, MAKE, home / "images")
    with subprocess.Popen(words, env=env) as killed:
        until = time.monotonic() + 120
        while not list(home.glob("images/tiny/.new-*/mmdebstrap.*/var/lib/dpkg/status")):
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while at_work(home) and time.monotonic() < until:
        time.sleep(0.05)
    assert at_work(home) == []
    words, env = command(place, home, MAKE, home / "images")
    return Path(process.run(words, env=env, timeout=600).text.strip())


def test_it_is_made_where_root_of_the_namespace_is_the_user(image: Path, home: Path) -> None:
    packages = json.loads((image / "packages.json").read_text())["packages"]
    assert "busybox-static" in {row["name"] for row in packages}
    owner = home.stat().st_uid
    assert {path.lstat().st_uid for path in image.rglob("*")} == {owner}
    user, version = (home / "images/log").read_text().split()
    assert (int(user), version[:3]) == (owner, "12.")


def test_what_the_killed_run_left_is_gone(image: Path) -> None:
    assert [path.name for path in image.parent.iterdir() if path.name.startswith(".")] == []


def trial(place: Path, home: Path, **more: str) -> tuple[str, str, str]:
    words, env = command(place, home, TRY, **more)
    state, found, remedy = process.run(words, env=env, timeout=60).text.strip().split("|")
    return state, found, remedy


def test_the_doctor_makes_the_namespaces_that_an_image_needs(place: Path, home: Path) -> None:
    assert trial(place, home)[0] == "ok"
