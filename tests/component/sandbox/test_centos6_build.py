"""The CentOS 6 builder image built by a real engine, from a stand-in base whose yum and rpm are scripts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.core.console import Console
from pipeline.errors import HostLacks, Refused, Unreachable
from pipeline.sandbox import centos6_image
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.centos6_image import CentosRecipe
from pipeline.sandbox.container import ContainerEngine
from pipeline.sandbox.runtime import Image, Job, Limits, Runtime
from tests.fixtures.commandline import ROOT
from tests.fixtures.dockerd import Dockerd
from tests.fixtures.registry import Registry
from tests.fixtures.rootfs import busybox_image, use_dash
from tests.unit.sandbox.test_centos6_image import image, rendered

YUM = """#!/bin/sh
case "$*" in *"clean all") exit 0 ;; esac
[ -e /etc/slow ] && { echo asleep; sleep 4251; }
[ -e /etc/unreachable ] && { echo "Error: Cannot find a valid baseurl for repo: vault-os"; exit 1; }
[ -e /etc/unsigned ] && { echo "Package bash-4.1.rpm is not signed"; exit 1; }
ls /etc/yum.repos.d
for name; do case $name in -* | install | missing-package) ;; *) echo "$name" >> /installed ;; esac; done
"""  # what it does not know it leaves out, and ends with 0, as yum does
RPM = """#!/bin/sh
case "$*" in
  *--whatprovides*)
    shift 2; code=0
    for name; do grep -qxF "$name" /installed || { echo "no package provides $name"; code=1; }; done
    exit $code ;;
  *) while read -r name; do echo "$name 1-2.el6.x86_64 sha1:da39a3ee"; done < /installed
     echo "gpg-pubkey 1-2 sha1:(none)" ;;
esac
"""


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    with Dockerd.running() as engine:
        yield engine


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fnat-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def base(place: Path) -> Path:
    """The tree of the stand-in."""
    image = busybox_image(place / "base")
    use_dash(image)  # busybox's shell would call its own rpm
    tree = image.rootfs
    for name, text in {"yum": YUM, "rpm": RPM}.items():
        (tree / "usr/bin" / name).write_text(text)
        (tree / "usr/bin" / name).chmod(0o755)
    for name, applet in {"groupadd": "addgroup", "useradd": "adduser"}.items():
        (tree / "usr/bin" / name).write_text(f'#!/bin/sh\necho {applet} "$*" >> /etc/users\n')
        (tree / "usr/bin" / name).chmod(0o755)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (tree / "etc/yum.repos.d").mkdir()
    (tree / "etc/yum.repos.d/CentOS-Base.repo").write_text("[base]\nmirrorlist=http://mirrorlist.centos.org/\n")
    return tree


def build(dockerd: Dockerd, recipe: CentosRecipe, place: Path, *, offline: bool = False) -> Image:
    """The image, made by the test's engine."""
    engine = ContainerEngine(dockerd.engine, {})
    return centos6_image.centos6_image(recipe, engine, place / "images", Console(), offline=offline)


def test_the_image_is_built_listed_and_runs_jobs_under_every_runtime(dockerd: Dockerd, base: Path, place: Path) -> None:
    with Registry(base).serving() as registry:
        recipe = rendered(base=registry.reference)
        image = build(dockerd, recipe, place)
    packages = json.loads(image.packages.read_bytes())["packages"]
    assert {row["name"] for row in packages} == {*recipe.requires}
    assert all(row["version"] == "1-2.el6.x86_64" and row["digest"] == "sha1:da39a3ee" for row in packages)
    assert (image.rootfs / "etc/users").read_text().count("64000") == 3
    log = place / "images/centos6" / f"{recipe.request}.log"
    assert "vault.repo" in log.read_text() and "CentOS-Base" not in log.read_text()
    runtimes: list[Runtime] = [Bubblewrap(), ContainerEngine(dockerd.engine, {})]
    for runtime in runtimes:
        job = Job(image, ("/bin/sh", "-c", "pwd; ls /etc/yum.repos.d"), place / "job.log", limits=Limits(free=0))
        assert runtime.run(job).succeeded, job.log.read_text()
    assert (place / "job.log").read_text() == "/build\nvault.repo\n" * 2
    assert build(dockerd, recipe, place, offline=True) == image  # the second time nothing is asked for
    assert dockerd.containers() == []


def test_a_package_that_yum_does_not_know_is_missed(dockerd: Dockerd, base: Path, place: Path) -> None:
    with Registry(base).serving() as registry:
        recipe = rendered(base=registry.reference)
        requires = [*recipe.requires, "missing-package"]
        given = centos6_image.variables(requires, registry.reference, image().vault)
        from pipeline.core import templates

        text = templates.render("containers/centos6/Dockerfile.j2", **given)
        recipe = replace(recipe, files={**recipe.files, "Dockerfile": text}, requires=requires)
        with pytest.raises(HostLacks) as caught:
            build(dockerd, recipe, place)
    log = Path(caught.value.where).read_text()
    assert "no package provides missing-package" in log
    assert not list((place / "images/centos6").glob("*/rootfs"))
    assert dockerd.containers() == []


@pytest.mark.parametrize(("flag", "error"), [("unreachable", Unreachable), ("unsigned", Refused)])
def test_whose_fault_it_is_is_told(
    dockerd: Dockerd, base: Path, place: Path, flag: str, error: type[Exception]
) -> None:
    (base / "etc" / flag).touch()
    with Registry(base).serving() as registry, pytest.raises(error, match="centos6"):
        build(dockerd, rendered(base=registry.reference), place)
    assert dockerd.containers() == []


def test_a_base_that_is_not_there_is_unreachable(dockerd: Dockerd, base: Path, place: Path) -> None:
    with Registry(base).serving() as registry, pytest.raises(Unreachable):
        build(dockerd, rendered(base=f"{registry.reference[:-64]}{'0' * 64}"), place)
    with pytest.raises(Unreachable):  # nobody serves any more
        build(dockerd, rendered(base=registry.reference), place)


def test_a_base_that_is_not_what_its_digest_says_is_refused(dockerd: Dockerd, base: Path, place: Path) -> None:
    registry = Registry(base)
    registry.blobs[registry.manifest] += b" "
    with registry.serving(), pytest.raises(Refused):
        build(dockerd, rendered(base=registry.reference), place)


def test_offline_nothing_is_built(dockerd: Dockerd, place: Path) -> None:
    with pytest.raises(Unreachable, match="offline"):
        build(dockerd, rendered(), place, offline=True)


BUILD = """
import sys
from pathlib import Path
from pipeline.core.console import Console
from pipeline.sandbox.centos6_image import centos6_image
from tests.fixtures.onejob import runtime_at
from tests.unit.sandbox.test_centos6_image import rendered
centos6_image(rendered(base=sys.argv[2]), runtime_at(sys.argv[1]), Path(sys.argv[3]), Console(), offline=False)
"""


def test_sigkill_of_the_builder_ends_the_build(dockerd: Dockerd, base: Path, place: Path) -> None:
    (base / "etc/slow").touch()
    with Registry(base).serving() as registry:
        words = [sys.executable, "-c", BUILD, dockerd.address, registry.reference, str(place / "images")]
        caller = subprocess.Popen(words, env=process.clean_environment(PYTHONPATH=str(ROOT)), cwd=ROOT)
        until = time.monotonic() + 60
        while not (logs := [p for p in place.glob("images/centos6/*.log") if "asleep" in p.read_text()]):
            assert time.monotonic() < until and caller.poll() is None
            time.sleep(0.05)
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        until = time.monotonic() + 60
        while dockerd.containers() and time.monotonic() < until:
            time.sleep(0.05)
        assert dockerd.containers() == []
        (base / "etc/slow").unlink()
    with Registry(base).serving() as registry:
        assert build(dockerd, replace(rendered(base=registry.reference)), place)
    assert not list(place.glob("images/centos6/.new-*"))
    assert logs
