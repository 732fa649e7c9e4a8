"""Which builder image is taken: the one asked for, and nothing else; for `auto` the first that can run, and why."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.config import image_file
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core import documents, manifest
from pipeline.core.console import Console
from pipeline.errors import HostLacks, UsageError
from pipeline.recipes import builder_images
from pipeline.sandbox import centos6_image, choice, images
from tests.fixtures.targets import EL6, LTS61
from tests.unit.sandbox.test_centos6_image import rendered

NO_ENGINE = HostLacks("container engine: none answers; expected one", hint="./inv doctor")
NO_VSYSCALL = HostLacks("this kernel has no vsyscall page")


def context(artifacts: Path, image: str = "", *, quiet: bool = False) -> RunContext:
    given = {"artifacts": str(artifacts), "offline": True, **({"image": image} if image else {})}
    return RunContext(load(given, {}), Console(quiet=quiet, out=io.StringIO(), err=io.StringIO()))


def said(context: RunContext) -> str:
    assert isinstance(context.console.err, io.StringIO)
    return context.console.err.getvalue()


def made(artifacts: Path, name: str, request: str) -> None:
    """An image as one lies there that was made before."""
    place = artifacts / "images" / name / request
    (place / "rootfs").mkdir(parents=True)
    listed = place / "packages.json"
    packages = (images.Package("gcc", "12", "sha256:0"),)
    listed.write_text(documents.to_json(images.PackageList(name, {}, packages)))
    key = images._key(listed)
    assert key is not None
    manifest.record(place, {"image": name, "key": key, "requests": [request]})
    place.rename(place.with_name(key))
    place.symlink_to(key)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Artifacts with the image debian12."""
    recipe = builder_images.debian_request("debian12", image_file.debian("debian12"))
    made(tmp_path, "debian12", recipe.request)
    return tmp_path


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that could run CentOS 6's programs, and has no engine to make the image with."""
    monkeypatch.setattr(centos6_image, "check_vsyscall", lambda *_: None)
    monkeypatch.setattr(choice, "first_engine", lambda *_: _raise(NO_ENGINE))


@pytest.fixture
def no_vsyscall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose kernel kills CentOS 6's programs; nobody may ask for its engine then."""
    monkeypatch.setattr(centos6_image, "check_vsyscall", lambda *_: _raise(NO_VSYSCALL))
    monkeypatch.setattr(choice, "first_engine", lambda *_: object())


def _raise(error: HostLacks) -> None:
    raise error


def centos_made(artifacts: Path) -> None:
    made(artifacts, "centos6", rendered().request)


@pytest.mark.parametrize(
    ("host", "lacking"), [("no_engine", NO_ENGINE), ("no_vsyscall", NO_VSYSCALL)], ids=["engine", "vsyscall"]
)
def test_auto_takes_debian12_where_centos6_cannot_run_and_says_why(
    artifacts: Path, host: str, lacking: HostLacks, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(host)
    run = context(artifacts)
    assert builder_images.builder(run, EL6.build.images).name == "debian12"
    assert said(run).count("\n") == 1
    assert "builds run in debian12" in said(run) and lacking.what in said(run)


@pytest.mark.usefixtures("no_engine")
def test_auto_takes_a_centos6_that_was_made_before_without_an_engine_and_without_a_word(artifacts: Path) -> None:
    centos_made(artifacts)
    run = context(artifacts)
    assert builder_images.builder(run, EL6.build.images).name == "centos6"
    assert said(run) == ""


@pytest.mark.usefixtures("no_vsyscall")
def test_a_centos6_that_was_made_before_is_of_no_use_where_its_programs_die(artifacts: Path) -> None:
    centos_made(artifacts)
    run = context(artifacts)
    assert builder_images.builder(run, EL6.build.images).name == "debian12"
    assert NO_VSYSCALL.what in said(run)
    with pytest.raises(HostLacks) as caught:
        builder_images.builder(context(artifacts, "centos6"), EL6.build.images)
    assert caught.value.what == NO_VSYSCALL.what


@pytest.mark.parametrize(
    ("host", "lacking"), [("no_engine", NO_ENGINE), ("no_vsyscall", NO_VSYSCALL)], ids=["engine", "vsyscall"]
)
def test_an_explicit_choice_never_gives_way(
    artifacts: Path, host: str, lacking: HostLacks, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(host)
    run = context(artifacts, "centos6")
    with pytest.raises(HostLacks) as caught:
        builder_images.builder(run, EL6.build.images)
    assert caught.value is lacking
    assert lacking.hint.endswith("; or --image debian12, which needs no engine")
    assert "debian12" not in said(run)


@pytest.mark.usefixtures("no_engine")
def test_debian12_asked_for_is_taken_although_centos6_is_there(artifacts: Path) -> None:
    centos_made(artifacts)
    run = context(artifacts, "debian12")
    assert builder_images.builder(run, EL6.build.images).name == "debian12"
    assert said(run) == ""


@pytest.mark.parametrize("asked", ["centos6", "fedora"])
def test_an_image_that_the_line_does_not_have_is_refused_with_those_it_has(artifacts: Path, asked: str) -> None:
    with pytest.raises(UsageError) as caught:
        builder_images.builder(context(artifacts, asked), LTS61.build.images)
    assert f"image of this line {asked!r}: not found" in caught.value.what
    assert caught.value.why == "known: debian12, auto"


def test_a_line_that_has_debian12_alone_never_asks_for_an_engine(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "first_engine", lambda *_: pytest.fail("nobody needs an engine"))
    monkeypatch.setattr(centos6_image, "check_vsyscall", lambda *_: pytest.fail("nobody needs vsyscall"))
    run = context(artifacts)
    assert builder_images.builder(run, LTS61.build.images).name == "debian12"
    assert said(run) == ""


def test_a_dry_run_makes_no_image_and_asks_nobody(tmp_path: Path) -> None:
    given = {"artifacts": str(tmp_path), "dry_run": True, "image": "debian12", "debian_mirror": "http://127.0.0.1:9"}
    dry = RunContext(load(given, {}), Console(out=io.StringIO(), err=io.StringIO()))
    planned = builder_images.builder(dry, ("debian12",))
    assert (planned.name, planned.key) == ("debian12", "")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_takes_the_image_that_is_there(artifacts: Path) -> None:
    dry = RunContext(load({"artifacts": str(artifacts), "dry_run": True}, {}), Console(out=io.StringIO()))
    assert builder_images.builder(dry, ("debian12",)).key
