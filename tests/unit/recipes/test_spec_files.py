"""Spec files of a line: its own before its recipe's and those of all lines; templates from outside do no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.core import resources
from pipeline.errors import UsageError
from pipeline.recipes import spec_files
from pipeline.recipes.spec_files import SpecFiles
from tests.fixtures.targets import EL6, LTS61


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The directory of a line's own spec files."""
    made = tmp_path / "specs" / "own"
    made.mkdir(parents=True)
    return made


def files(own: Path) -> SpecFiles:
    return SpecFiles(("own", "debian-tarball", "common"), own.parent)


def test_a_lines_own_file_stands_before_its_recipes(own: Path) -> None:
    assert files(own).text("tools/ipvsadm.service") == LTS61.files.text("tools/ipvsadm.service")
    (own / "tools").mkdir()
    (own / "tools" / "ipvsadm.service").write_text("mine\n")
    assert files(own).text("tools/ipvsadm.service") == "mine\n"
    assert files(own).text("tools/ipvsadm.sysconfig") == LTS61.files.text("tools/ipvsadm.sysconfig")


def test_a_directorys_files_are_those_of_all_places(own: Path) -> None:
    (own / "tools").mkdir()
    (own / "tools" / "more").write_text("mine\n")
    found = files(own).below("tools")
    assert found["more"] == "mine\n" and "ipvsadm.service" in found and "ipvsadm.sysconfig" in found


def test_a_file_that_no_place_has_is_told_with_the_places(own: Path) -> None:
    with pytest.raises(UsageError) as caught:
        files(own).text("config/base.config")
    assert f"{own}/config" in caught.value.what and "specs/debian-tarball/config" in caught.value.what


@pytest.mark.parametrize("name", ["../../lines/el6.toml", "/etc/passwd", "config/../../x"])
def test_nothing_outside_of_the_specs_is_read(own: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a file of the line's specs"):
        files(own).text(name)


def test_a_template_of_ones_own_may_use_the_projects(own: Path) -> None:
    (own / "x.spec.j2").write_text('{{ line }}\n{% include "specs/common/tools/ipvsadm.sysconfig" %}\n')
    made = files(own).render("x.spec", line="mine")
    assert made == "mine\n" + (resources.specs_dir() / "common/tools/ipvsadm.sysconfig").read_text()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{{ line.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__ }}", "unsafe"),
        ("{{ things.append(1) }}", "unsafe"),
        ("{% for n in range(1000000000) %}{% endfor %}", "Range too big"),
        ('{% include "specs/own/../../../lines/el6.toml" %}', "not found"),
        ('{% include "specs/other/x" %}', "not found"),
        ("{{ nothing }}", "undefined"),
        ("one\n{{ line }}\n{% if %}", "Expected an expression"),
    ],
)
def test_a_template_of_ones_own_reaches_nothing_but_its_variables(own: Path, text: str, what: str) -> None:
    (own / "x.spec.j2").write_text(text)
    with pytest.raises(UsageError) as caught:
        files(own).render("x.spec", line="mine", things=[])
    assert what in str(caught.value)
    if "not found" not in what and "Range" not in what:
        assert caught.value.where == f"{own}/x.spec.j2:{text.count(chr(10)) + 1}"


def test_a_template_is_a_file_with_an_end(own: Path) -> None:
    os.mkfifo(own / "fifo")
    (own / "x.spec.j2").write_text('{% include "specs/own/fifo" %}')
    with pytest.raises(UsageError, match="not found"):
        files(own).render("x.spec")


def test_only_a_line_file_that_names_its_specs_has_its_own(tmp_path: Path, own: Path) -> None:
    own.rename(own.with_name("lts61"))
    house = tmp_path / "house.toml"
    house.write_text('schema = 1\nextends = "lts61"\nname = "house"\n')
    assert spec_files.target(line_loader.load(line_file=house)).files == LTS61.files
    house.write_text(house.read_text() + '[build]\nspecs = "lts61"\n')
    assert spec_files.target(line_loader.load(line_file=house)).files.own == tmp_path / "specs"


def test_the_projects_own_lines_have_their_recipes_files_behind_them() -> None:
    assert (EL6.files.names, EL6.files.own) == (("el6", "redhat-srpm", "common"), None)
    assert (LTS61.files.names, LTS61.files.own) == (("lts61", "debian-tarball", "common"), None)
