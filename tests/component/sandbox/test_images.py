"""A Debian image made by the real mmdebstrap: once, whole, listed, and whose fault it is when it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import faults, manifest, process
from pipeline.core.console import Console
from pipeline.errors import HostLacks, PipelineError, Refused, Unreachable
from pipeline.sandbox import images
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.images import DebianRecipe, debian_image, package_list, write_packages
from pipeline.sandbox.runtime import Image, Job, Limits
from pipeline.sources import apt
from tests.fixtures.commandline import ROOT
from tests.fixtures.rootfs import record

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHIVES = apt.archive_addresses(("bookworm",), "", ())  # the host's own
RECIPE = DebianRecipe("tiny", ["busybox-static"], ARCHIVES, KEYRING.read_bytes())
DEAD = "http://127.0.0.1:9/debian"
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory that the build user can reach."""
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


MAKE = """
import sys
from pathlib import Path
from tests.component.sandbox.test_images import QUIET, RECIPE
from pipeline.sandbox.images import debian_image
debian_image(RECIPE, Path(sys.argv[1]), QUIET, offline=False)
"""


def maker(root: Path, **variables: str) -> subprocess.Popen[bytes]:
    """A process that makes the image."""
    env = process.clean_environment(PYTHONPATH=str(ROOT), **variables)
    return subprocess.Popen([sys.executable, "-c", MAKE, str(root)], env=env, cwd=ROOT)


def at_work(root: Path) -> list[str]:
    """The command lines of what works below `root`."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            below = str((directory / "root").readlink()).startswith(str(root))
        except OSError:
            continue
        if (str(root) in line or below) and int(directory.name) != os.getpid():
            found.append(line)
    return found


@pytest.fixture(scope="module")
def image(root: Path) -> Image:
    """The image, after one run was killed in the middle and one at the very end, and made by two runs at once."""
    with maker(root) as killed:
        until = time.monotonic() + 60
        while not list(root.glob("tiny/.new-*/mmdebstrap.*/var/lib/dpkg/status")):
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while at_work(root) and time.monotonic() < until:
        time.sleep(0.05)
    assert at_work(root) == []
    assert not [row for row in Path("/proc/self/mounts").read_text().splitlines() if str(root) in row]
    made: list[Image] = []
    runs = [
        threading.Thread(target=lambda: made.append(debian_image(RECIPE, root, QUIET, offline=False))) for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert made[0] == made[1]
    return made[0]


def test_what_a_killed_run_left_is_gone_and_the_image_is_made_once(image: Image, root: Path) -> None:
    place = root / "tiny"
    links = [path for path in place.iterdir() if path.is_symlink()]
    assert [link.readlink() for link in links] == [Path(image.key)]
    assert {path.name for path in place.iterdir()} == {image.key, RECIPE.request, f"{RECIPE.request}.lock"}


def test_the_second_time_nothing_is_made(image: Image, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert debian_image(RECIPE, root, QUIET, offline=True) == image


def test_every_package_is_listed_with_version_and_digest(image: Image) -> None:
    packages = json.loads(image.packages.read_bytes())["packages"]
    status = (image.rootfs / "var/lib/dpkg/status").read_text()
    installed = {line.partition(": ")[2] for line in status.splitlines() if line.startswith("Package: ")}
    assert {row["name"] for row in packages} == installed
    assert "busybox-static" in installed
    assert all(row["version"] and len(row["digest"]) == len("sha256:") + 64 for row in packages)


def test_it_knows_neither_the_hosts_name_nor_its_name_servers(image: Image) -> None:
    assert (image.rootfs / "etc/hostname").read_text() == "builder\n"
    assert not (image.rootfs / "etc/resolv.conf").exists()


def test_jobs_run_in_it(image: Image, root: Path) -> None:
    job = Job(image, ("busybox", "sh", "-c", "cat /etc/debian_version; ls /"), root / "log", limits=Limits(free=0))
    assert Bubblewrap().run(job).succeeded, job.log.read_text()
    assert job.log.read_text().startswith("12.")
    assert {"build", "input", "ccache"} <= set(job.log.read_text().split())


def test_an_image_without_readlink_runs_nothing(image: Image, root: Path) -> None:
    tool = image.rootfs / "usr/bin/readlink"
    tool.rename(tool.with_name("moved"))
    record(image)
    try:
        with pytest.raises(HostLacks, match="no isolation on this host"):
            Bubblewrap().run(Job(image, ("true",), root / "log2"))
    finally:
        tool.with_name("moved").rename(tool)
        record(image)


def test_a_fresh_image_leaves_the_one_in_use_alone(image: Image, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of mmdebstrap a script that copies the one there is, with one package more in its list."""
    script = root / "bin/mmdebstrap"
    script.parent.mkdir()
    script.write_text(
        f"""#!/bin/sh
printf 'Package: other\\nVersion: 1\\nSHA256: {"0" * 64}\\n' > packages.txt
for word; do case $word in *.tar) tar cf "$word" -C {image.rootfs} etc ;; esac; done
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    fresh = debian_image(RECIPE, root, QUIET, offline=False, fresh=True)
    assert fresh.key != image.key
    assert (image.rootfs / "bin/busybox").exists() or (image.rootfs / "usr/bin/busybox").exists()
    assert debian_image(RECIPE, root, QUIET, offline=True) == fresh


@pytest.mark.parametrize("point", ["image.before-rename"])
def test_sigkill_before_the_end_leaves_no_half_image(tmp_path: Path, point: str) -> None:
    script = tmp_path / "bin/mmdebstrap"
    script.parent.mkdir()
    script.write_text(
        f"""#!/bin/sh
printf 'Package: other\\nVersion: 1\\nSHA256: {"0" * 64}\\n' > packages.txt
for word; do case $word in *.tar) tar cf "$word" -C /etc debian_version ;; esac; done
"""
    )
    script.chmod(0o755)
    path = f"{script.parent}:{os.environ['PATH']}"
    with maker(tmp_path / "images", PATH=path, **{faults.VARIABLE: point}) as killed:
        assert killed.wait(60) == -signal.SIGKILL
    with pytest.raises(Unreachable, match="not made yet"):
        debian_image(RECIPE, tmp_path / "images", QUIET, offline=True)
    with maker(tmp_path / "images", PATH=path) as whole:
        assert whole.wait(60) == 0
    assert debian_image(RECIPE, tmp_path / "images", QUIET, offline=True).rootfs.is_dir()
    assert not list((tmp_path / "images/tiny").glob(".new-*"))


def test_an_archive_that_is_not_reached_is_told(tmp_path: Path) -> None:
    recipe = replace(RECIPE, archives={"bookworm": DEAD})
    with pytest.raises(Unreachable, match="the archive is unreachable") as caught:
        debian_image(recipe, tmp_path, QUIET, offline=False)
    assert DEAD in caught.value.where
    assert "Connection refused" in caught.value.why
    assert not list((tmp_path / "tiny").glob(".new-*"))


def test_an_archive_signed_by_nobody_we_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="signature"):
        debian_image(replace(RECIPE, keyring=b""), tmp_path, QUIET, offline=False)


def test_a_host_without_mmdebstrap_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostLacks, match="mmdebstrap: not installed"):
        debian_image(RECIPE, tmp_path / "images", QUIET, offline=False)


def test_offline_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="--offline"):
        debian_image(RECIPE, tmp_path, QUIET, offline=True)


@pytest.mark.parametrize("row", [{"name": "a", "version": "", "digest": "x"}, {"name": "a", "version": "1"}])
def test_a_package_without_version_or_digest_is_refused(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(Refused, match="without version or digest") as caught:
        write_packages(tmp_path, "tiny", {}, [{"name": "b", "version": "1", "digest": "x"}, row])
    assert caught.value.where == "a"
    assert not (tmp_path / "packages.json").exists()


def test_no_packages_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError):
        write_packages(tmp_path, "tiny", {}, [])


def test_a_package_list_has_comments_and_blank_lines() -> None:
    assert package_list("# why\nbash\n\n  gcc  \n# more\n") == ["bash", "gcc"]


def test_a_recipe_asks_for_the_same_whatever_the_order() -> None:
    one = replace(RECIPE, packages=["a", "b"])
    assert one.request == replace(RECIPE, packages=["b", "a"]).request
    assert one.request != RECIPE.request


# --- What is kept is what was made -----------------------------------------------------------------------


class Toys:
    """Images of one file each, below `root`; `made` counts how often one was made."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, 0
        self.said: list[str] = []

    def __call__(self, request: str = "asked", compiler: str = "gcc", **more: bool) -> Image:
        def make(made: Path, scratch: Path) -> None:
            self.made += 1
            (made / "rootfs/bin").mkdir(parents=True)
            (made / "rootfs/bin/cc").write_text(compiler)
            write_packages(made, "toy", {}, [{"name": compiler, "version": "1", "digest": "x"}])

        return images.make_once(
            self.root, "toy", request, make, offline=more.pop("offline", False), say=self.said.append, **more
        )


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path / "images")


def _link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _of_another(path: Path, toys: Toys) -> None:
    shutil.copy(toys("other", "clang").rootfs.parent / path.name, path)


UNLIKE: dict[str, Callable[[Path, Toys], object]] = {
    "emptied": lambda path, toys: path.write_text(""),
    "no JSON": lambda path, toys: path.write_text("[" * 100_000),
    "another shape": lambda path, toys: path.write_text("{}"),
    "removed": lambda path, toys: path.unlink(),
    "a link in its place": lambda path, toys: _link(path),
    "that of another image": _of_another,
    "one byte": lambda path, toys: path.write_bytes(path.read_bytes().replace(b"gcc", b"gdc").replace(b"0", b"1", 1)),
}


@pytest.mark.parametrize("how", UNLIKE)
@pytest.mark.parametrize("what", ["packages.json", manifest.RECORD])
def test_an_image_whose_list_or_record_is_not_its_own_is_made_anew(toys: Toys, what: str, how: str) -> None:
    image = toys()
    UNLIKE[how](image.rootfs.parent / what, toys)
    with pytest.raises(Unreachable, match="image toy: damaged, and --offline") as caught:
        toys(offline=True)
    assert caught.value.hint.startswith("./inv image --image toy")
    before = toys.made
    assert toys() == image == toys(offline=True)
    assert toys.made == before + 1
    assert "differs from its record; rebuilding" in toys.said[-1]
    images.check(image)


@pytest.mark.parametrize("how", ["removed", "a link"])
def test_an_image_without_its_tree_is_made_anew(toys: Toys, how: str) -> None:
    image = toys()
    if how == "a link":
        _link(image.rootfs)
    else:
        shutil.rmtree(image.rootfs)
    assert toys() == image and toys.made == 2
    images.check(image)


def test_a_link_to_another_image_is_not_followed(toys: Toys) -> None:
    image, other = toys(), toys("other", "clang")
    link = toys.root / "toy/asked"
    link.unlink()
    link.symlink_to(other.key)
    assert toys() == image != other


def test_the_tree_of_another_image_is_refused(toys: Toys) -> None:
    image, other = toys(), toys("other", "clang")
    shutil.rmtree(image.rootfs)
    other.rootfs.rename(image.rootfs)
    with pytest.raises(Refused, match="builder image toy: 1 differences from its record; first: rootfs/bin/cc"):
        images.check(image)
    assert toys(fresh=True) == image and (image.rootfs / "bin/cc").read_text() == "gcc"
    images.check(image)


def test_an_image_made_anew_stays_the_same_one_where_it_is_whole(toys: Toys) -> None:
    image = toys()
    before = image.rootfs.stat().st_ino
    assert toys(fresh=True) == toys("asked otherwise") == image
    assert image.rootfs.stat().st_ino == before
    assert toys(offline=True) == toys("asked otherwise", offline=True) == image


def test_every_problem_of_every_image_is_found_by_content(toys: Toys) -> None:
    image, other = toys(), toys("other", "clang")
    assert list(images.problems(toys.root)) == []
    known = json.loads((image.rootfs.parent / manifest.RECORD).read_text().partition("\n")[0])
    assert known["rootfs/bin/cc"][0] == "file"
    (image.rootfs / "bin/cc").write_text("gdc")
    (other.rootfs.parent / "packages.json").unlink()
    assert {path for path, _ in images.problems(toys.root)} == {
        image.rootfs / "bin/cc",
        other.rootfs.parent / "packages.json",
    }


def test_nobody_but_its_owner_may_write_in_an_image_and_its_owner_may_read_all(tmp_path: Path) -> None:
    def make(made: Path, scratch: Path) -> None:
        (made / "rootfs/tmp").mkdir(parents=True)
        for path, mode in {"open": 0o666, "shadow": 0, "tmp": 0o1777, "plain": 0o644, "su": 0o6755}.items():
            if path != "tmp":
                (made / "rootfs" / path).write_text("x")
            (made / "rootfs" / path).chmod(mode)
        write_packages(made, "toy", {}, [{"name": "a", "version": "1", "digest": "x"}])

    rootfs = images.make_once(tmp_path, "toy", "asked", make, offline=False).rootfs
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in rootfs.iterdir()}
    assert modes == {"open": 0o664, "shadow": 0o400, "tmp": 0o1777, "plain": 0o644, "su": 0o755}
