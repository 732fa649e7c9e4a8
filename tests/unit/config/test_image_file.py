"""What a builder image is made from: its file is typed, and its mistakes are told with file:line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config import image_file
from pipeline.config.image_file import CentosImage, DebianImage
from pipeline.core import resources
from pipeline.errors import FileProblems, UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of debian12 in a copy of the project's images."""
    shutil.copytree(resources.containers_dir(), tmp_path / "containers")
    monkeypatch.setattr(resources, "data_root", lambda: tmp_path)
    return tmp_path / "containers" / "debian12" / "image.toml"


def test_the_projects_images_are_those_with_a_file() -> None:
    assert resources.image_names() == ["centos6", "debian12"]
    assert isinstance(image_file.load("centos6"), CentosImage)
    assert isinstance(image_file.load("debian12"), DebianImage)


def test_an_image_owns_its_suites_and_keys(file: Path) -> None:
    image = image_file.debian("debian12")
    assert image.debian.suites == ("bookworm", "bookworm-security")
    assert set(image.debian.keyring) == set(image.keys)
    file.write_text(file.read_text().replace('"bookworm", ', '"trixie", '))
    assert image_file.debian("debian12").debian.suites == ("trixie", "bookworm-security")


@pytest.mark.parametrize("name", ["fedora", "../debian12", ""])
def test_an_image_that_is_not_there_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        image_file.load(name)
    assert caught.value.why == "known: centos6, debian12"


def test_an_image_of_another_kind_is_no_debian() -> None:
    with pytest.raises(UsageError, match="expected kind debian, got centos"):
        image_file.debian("centos6")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('kind = "debian"', 'kind = "suse"', "the file: Input tag 'suse'"),
        ('title = "Debian 12"', 'title = "Debian 12"\ncolour = 1', "colour: Extra inputs"),
        ('suites = ["bookworm", "bookworm-security"]', "suites = []", "debian.suites: "),
        ('"debian-12-security", "debian-12-release"]', '"debian-12-none"]', "no key 'debian-12-none'"),
        ("B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8", "B8B8", "'B8B8' is not a key fingerprint"),
        ('kind = "debian"', 'kind = "debian', "Illegal character"),
    ],
)
def test_a_mistake_is_told_with_its_line(file: Path, old: str, new: str, what: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    line = text[: text.index(old)].count("\n") + 1 + new.count("\n")
    with pytest.raises(FileProblems) as caught:
        image_file.load("debian12")
    [problem] = caught.value.problems
    assert what in problem.what
    assert (problem.file, problem.line) == (str(file), 1 if "the file" in what or "Illegal" in what else line)
