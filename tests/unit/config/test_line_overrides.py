"""Line files that extend another: what replaces what, and whose mistake it is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from pipeline.config import line_loader, line_model
from pipeline.config.line_model import Override, RoleName
from pipeline.errors import UsageError
from tests.fixtures.commandline import ROOT
from tests.fixtures.linefiles import BLOB, DIGEST, FINGERPRINT, edit, house, mistakes, only_mistake


def test_the_debug_kernel_of_the_documents_is_an_override(tmp_path: Path) -> None:
    """docs/lab.md has it as text, for whoever wants to type it."""
    (text,) = re.findall(r"^```\n(schema = 1\n.*?)^```$", (ROOT / "docs/lab.md").read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "lts61-debug.toml"
    file.write_text(text)
    config = line_loader.load(None, file).data.roles[RoleName.STOCK].config
    assert {config[name] for name in ("CONFIG_KASAN", "CONFIG_PROVE_LOCKING", "CONFIG_DEBUG_KMEMLEAK")} == {"y"}


def test_an_override_is_laid_over_its_base_key_by_key(project: Path) -> None:
    file = house(project, '[sources.tar]\nurls = ["https://house.example/a.tar.gz"]\n[sources.srpm.spec.known]\n')
    file.write_text(file.read_text() + f'ours = "{DIGEST}"\n')
    line = line_loader.load(None, file)
    tar, srpm = line.data.sources["tar"], line.data.sources["srpm"]
    assert isinstance(tar, line_model.FileSource) and isinstance(srpm, line_model.SrpmSource)
    assert tar.sha256 == DIGEST
    assert srpm.spec.contains == ("Name: kernel",)
    assert dict(srpm.spec.known) == {"ours": DIGEST}
    assert line.data.title == "A line of one source and one patch"
    assert [path.name for path in line.files] == ["house.toml", "base.toml", "series.toml"]


def test_an_override_replaces_arrays_whole(project: Path) -> None:
    file = house(project, '[sources.tar]\nurls = ["https://house.example/a.tar.gz"]\nmembers = []\n')
    tar = line_loader.load(None, file).data.sources["tar"]
    assert isinstance(tar, line_model.FileSource)
    assert (tar.urls, tar.members) == (("https://house.example/a.tar.gz",), ())


def test_an_override_replaces_what_a_patch_leaves_whole(project: Path) -> None:
    file = house(project, f'[patches.fix.effect]\n"net/three.c" = "{BLOB}"\n')
    assert dict(line_loader.load(None, file).data.patches["fix"].effect) == {"net/three.c": BLOB}


def test_an_overrides_config_is_laid_over_its_bases(project: Path) -> None:
    file = house(project, '[roles.director.config]\nCONFIG_TWO = "3"\n')
    role = line_loader.load(None, file).data.roles[line_model.RoleName.DIRECTOR]
    assert dict(role.config) == {"CONFIG_ONE": "y", "CONFIG_TWO": "3"}


def test_an_override_is_named_in_everything_said_of_its_line(project: Path) -> None:
    text = f'[sources.tar]\nsha256 = "{"0" * 64}"\n[keys.house]\ntitle = "h"\nfingerprint = "{FINGERPRINT}"\n'
    file = house(project, text + f'[patches.fix.effect]\n"net/one.c" = "{"1" * 40}"\n')
    line = line_loader.load(None, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    changed = ("keys.house", "patches.fix.effect", "sources.tar.sha256")
    assert (line.label, line.release_tag) == ("house (OVERRIDES base)", ".override_house")
    assert all(word in line.notice for word in ("not the line base", str(file), digest[:16], *changed))
    assert line.identity == ("house", "1.0", Override("base", str(file), digest, changed))


def test_the_digest_of_an_override_is_of_its_bytes(project: Path) -> None:
    file = house(project, "")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    override = line_loader.load(None, file).override
    assert override is not None
    assert override.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ['name = "base"\n', ""])
def test_an_override_must_not_bear_its_bases_name(project: Path, name: str) -> None:
    file = project.parent / "own.toml"
    file.write_text(f'schema = 1\nextends = "base"\n{name}')
    found = only_mistake(None, file)
    assert "must not bear the base's name" in found.what
    assert "base-house" in found.allowed


def test_an_override_of_a_line_that_is_not_there_is_told_with_those_that_are(project: Path) -> None:
    file = project.parent / "own.toml"
    file.write_text('schema = 1\nname = "own"\nextends = "bsae"\n')
    found = only_mistake(None, file)
    assert (found.line, found.what, found.allowed) == (3, "no line 'bsae'; did you mean base?", "base")


def test_the_name_asked_for_must_be_the_overrides(project: Path) -> None:
    file = house(project, "")
    assert line_loader.load("house", file).name == "house"
    with pytest.raises(UsageError, match="holds the line house, not base"):
        line_loader.load("base", file)


def test_the_lock_file_of_an_override_lies_beside_it(project: Path) -> None:
    assert line_loader.load(None, house(project, "")).lock_file == project.parent / "house.lock.toml"


def test_a_mistake_of_an_override_is_told_in_its_own_file(project: Path) -> None:
    file = house(project, "[sources.tar]\nsize = -1\n[patches.fix]\nsource = 'rat'\n")
    assert [(p.file, p.line) for p in mistakes(None, file)] == [(str(file), 5), (str(file), 7)]
    file = house(project, "[patches.fix]\nsource = 'rat'\n[roles.director]\nseries = ['fix', 'fox']\n")
    assert [(p.file, p.line) for p in mistakes(None, file)] == [(str(file), 5), (str(file), 7)]


def test_a_key_that_a_replaced_array_lacks_is_the_overrides_mistake(project: Path) -> None:
    file = house(project, '[[patches.fix.leave-out]]\nfile = ".config"\nwhy = "another good reason"\n')
    assert {(p.file, p.line) for p in mistakes(None, file)} == {(str(file), 4)}


def test_a_table_that_begins_with_one_of_its_keys_is_told_by_that_keys_line(project: Path) -> None:
    file = house(project, '\nkeys.late.title = "no fingerprint"\n')
    assert only_mistake(None, file).line == 5


def test_a_mistake_of_the_base_is_told_in_the_bases_file(project: Path) -> None:
    base = project / "lines/base.toml"
    line = edit(base, "size = 10", "size = 10\ncolour = 1") + 1
    file = house(project, "[sources.tar]\npaint = 2\n")
    assert {(p.file, p.line, p.what) for p in mistakes(None, file)} == {
        (str(base), line, "unknown key 'colour' in sources.tar"),
        (str(file), 5, "unknown key 'paint' in sources.tar"),
    }


def test_a_base_that_is_not_toml_is_told_in_the_bases_file(project: Path) -> None:
    (project / "patches/base/series.toml").write_text("x = \n")
    found = only_mistake(None, house(project, ""))
    assert (Path(found.file).name, found.line) == ("series.toml", 1)
