"""Carried to a host without network, a line is complete there, and nothing carried is believed unchecked."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from tests.fixtures.badserver import BadServer, good, payload
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.debianarchive import SECURITY, SUITE, Archive
from tests.fixtures.toy import SRPM, TARBALL, make_toy

DEAD = "http://127.0.0.1:9"  # the discard port, on which nobody listens


@dataclass
class Carried:
    """A line that was exported to `mirror`; the server it was fetched from is gone since."""

    name: str
    place: Path

    def __post_init__(self) -> None:
        self.here = Inv(self.place / "here")
        self.there = Inv(self.place / "there", FNAT_DEBIAN_MIRROR=f"{DEAD}/debian", FNAT_RETRIES="1")
        self.mirror, self.line = self.place / "mirror", self.place / "line" / f"{self.name}.toml"
        self.sources = json.loads((self.mirror / f"mirror-{self.name}.json").read_text())["sources"]

    def export(self, *options: str, to: Path | None = None) -> Ended:
        """Once more; without options that need a network, since the server is gone."""
        return self.here("mirror", "export", to or self.mirror, "--line-file", _seen(self.line), *options)

    def import_(self, *options: str, expect: int = ExitCode.OK) -> Ended:
        """On the host without network."""
        return self.there("mirror", "import", self.mirror, "--line-file", _seen(self.line), *options, expect=expect)

    def fetch(self, *options: str, expect: int = ExitCode.OK) -> Ended:
        """On the host without network."""
        return self.there("fetch", "--line-file", _seen(self.line), "--offline", *options, expect=expect)

    def refused(self) -> dict[str, Any]:
        """The refusal of an import, after which no evidence speaks of this line."""
        said = self.import_("--json", expect=ExitCode.REFUSED).json
        assert not (self.there.artifacts / "evidence").exists()
        return dict(said)


def _seen(line: Path) -> Path:
    """The line file as named on either host: relative, so that all of it can be copied elsewhere."""
    return Path("..", "..", "line", line.name)


@pytest.fixture(scope="module")
def exported_el6(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of el6, pinned, and exported to `mirror`; its server and its own files are gone."""
    place = tmp_path_factory.mktemp("el6")
    toy, here = make_toy(place), Inv(place / "here")
    with BadServer() as server:
        for name in (SRPM, TARBALL):
            server.at(f"/{name}", good((toy.mirror / name).read_bytes()))
        toy.line_file.write_text(toy.line_file.read_text().replace(toy.mirror.as_uri(), server.url()))
        shutil.rmtree(toy.mirror)
        here("pin", "toy", "kernel-srpm", "--line-file", _seen(toy.line_file))
        here("mirror", "export", place / "mirror", "--line-file", _seen(toy.line_file))
    return place


@pytest.fixture(scope="module")
def exported_debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line of a Debian archive, exported to `mirror`; the server is gone."""
    place = tmp_path_factory.mktemp("debian")
    with BadServer() as server:
        archive = Archive(server)
        archive.add(SUITE, "linux", "6.1.9-1", payload(20_000, 9))
        archive.add(SECURITY, "linux", "6.1.10-1", payload(20_000, 10))
        archive.publish()
        line = archive.write_line(place / "line", version="6.1.", accept_older=True)
        options = ("--line-file", _seen(line), "--debian-mirror", archive.url)
        Inv(place / "here")("mirror", "export", place / "mirror", *options)
    return place


@pytest.fixture
def el6(exported_el6: Path, tmp_path: Path) -> Carried:
    return Carried("toy", Path(shutil.copytree(exported_el6, tmp_path / "el6")))


@pytest.fixture
def debian(exported_debian: Path, tmp_path: Path) -> Carried:
    return Carried("deb", Path(shutil.copytree(exported_debian, tmp_path / "bau äume")))


@pytest.fixture(params=["el6", "debian"])
def either(request: pytest.FixtureRequest) -> Iterator[Carried]:
    yield request.getfixturevalue(request.param)


def without_places(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is true of the sources wherever they came from."""
    return [{key: value for key, value in source.items() if key != "origin"} for source in sources]


def test_what_was_exported_is_complete_without_any_network(either: Carried) -> None:
    ended = either.import_("--json")
    assert without_places(ended.json["sources"]) == without_places(either.sources)
    for source in either.sources:
        stored = either.there.store / "sha256" / source["sha256"][:2] / source["sha256"]
        assert sha256_of(stored) == source["sha256"] and stored.stat().st_size == source["size"]


def test_after_the_import_fetch_needs_the_mirror_no_more(either: Carried) -> None:
    either.import_()
    shutil.rmtree(either.mirror)
    assert "nothing fetched" in either.fetch().out
    assert list((either.there.store / "partial").glob("*")) == []


def test_the_evidence_names_the_mirror_as_the_place_a_file_came_from(either: Carried) -> None:
    for source in either.import_("--json").json["sources"]:
        assert source["origin"] == str(either.mirror / "files" / source["sha256"])


def test_the_export_has_everything_by_digest_and_says_what_to_do_with_it(either: Carried) -> None:
    assert {path.name for path in (either.mirror / "files").iterdir()} == {s["sha256"] for s in either.sources}
    for path in (either.mirror / "files").iterdir():
        assert sha256_of(path) == path.name
    said = (either.mirror / f"README-{either.name}.txt").read_text()
    assert f"./inv mirror import DIR --line-file DIR/lines/{either.name}/{either.name}.toml" in said


def test_the_printed_command_is_enough_on_a_host_that_has_nothing_else(either: Carried) -> None:
    shutil.rmtree(either.line.parent)
    carried = either.mirror / "lines" / either.name / either.line.name
    ended = either.there("mirror", "import", either.mirror, "--line-file", carried, "--json")
    assert without_places(ended.json["sources"]) == without_places(either.sources)
    assert json.loads((either.mirror / f"mirror-{either.name}.json").read_text())["sources"] == either.sources
    assert either.line.name in {path.name for path in (either.mirror / "lines" / either.name).iterdir()}


def test_the_command_printed_after_an_import_is_the_next_to_type(either: Carried) -> None:
    (typed,) = re.findall(r"next, without network: \./inv (.*)", either.import_().out)
    either.there(*shlex.split(typed))


def test_the_lock_file_is_carried_too(el6: Carried) -> None:
    lock = el6.line.with_name("toy.lock.toml")
    assert (el6.mirror / "lines" / "toy" / lock.name).read_bytes() == lock.read_bytes()


def test_the_carried_mirror_serves_fetch_as_well(either: Carried) -> None:
    ended = either.fetch("--mirror", str(either.mirror), "--json")
    assert without_places(ended.json["sources"]) == without_places(either.sources)


def test_what_was_imported_can_be_exported_again(either: Carried, tmp_path: Path) -> None:
    """From one host without network to the next, when the first medium is long gone."""
    either.import_()
    shutil.rmtree(either.mirror)
    second = tmp_path / "second"
    either.there("mirror", "export", second, "--line-file", either.line)
    third = Inv(tmp_path / "third", FNAT_DEBIAN_MIRROR=f"{DEAD}/debian")
    ended = third("mirror", "import", second, "--line-file", either.line, "--json")
    assert without_places(ended.json["sources"]) == without_places(either.sources)


def test_an_import_takes_the_carried_index_though_an_older_one_was_asked_before(debian: Carried) -> None:
    debian.import_()
    with BadServer() as server:
        archive = Archive(server)
        archive.add(SECURITY, "linux", "6.1.11-1", payload(20_000, 11))
        archive.publish()
        debian.export("--refresh", "--debian-mirror", archive.url)
    [source] = debian.import_("--json").json["sources"]
    assert source["version"] == "6.1.11-1"
    assert "6.1.11-1" in debian.fetch().out


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file below."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.rglob("*") if p.is_file()}


def test_an_export_over_an_existing_one_changes_nothing(either: Carried) -> None:
    before = snapshot(either.mirror)
    either.export()
    after = snapshot(either.mirror)
    assert {path: data for path, (_, data) in after.items()} == {path: data for path, (_, data) in before.items()}
    large = [path for path in before if "/files/" in path or "/dists/" in path]
    assert [after[path] for path in large] == [before[path] for path in large], "not even written again"


def test_an_export_repairs_what_was_damaged_on_the_medium(either: Carried) -> None:
    damaged = next((either.mirror / "files").iterdir())
    flip(damaged)
    either.export()
    assert sha256_of(damaged) == damaged.name
    either.import_()


def test_two_lines_share_one_directory(el6: Carried, debian: Carried) -> None:
    debian.export(to=el6.mirror)
    both = {source["sha256"] for source in (*el6.sources, *debian.sources)}
    assert {path.name for path in (el6.mirror / "files").iterdir()} == both
    el6.import_()
    debian.there("mirror", "import", el6.mirror, "--line-file", debian.line)


# Nothing on the medium is believed.


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def of(carried: Carried, name: str) -> Path:
    """The exported file of a source."""
    digest = next(source["sha256"] for source in carried.sources if source["name"] == name)
    return carried.mirror / "files" / str(digest)


@pytest.mark.parametrize("name", ["kernel-srpm", "lvs-tarball"])
def test_a_flipped_bit_in_a_file_is_refused(el6: Carried, name: str) -> None:
    flip(of(el6, name))
    said = el6.refused()
    assert "downloaded content differs from the pinned file" in said["what"]
    assert str(of(el6, name)) in said["what"]


def test_a_flipped_bit_in_a_debian_file_is_refused(debian: Carried) -> None:
    flip(of(debian, "linux"))
    assert str(of(debian, "linux")) in debian.refused()["what"]


def security_release(carried: Carried) -> Path:
    return carried.mirror / "debian-security" / "dists" / SECURITY / "InRelease"


def security_sources(carried: Carried) -> Path:
    return carried.mirror / "debian-security" / "dists" / SECURITY / "main" / "source" / "Sources.xz"


@pytest.mark.parametrize("place", [security_release, security_sources])
def test_a_flipped_bit_in_an_index_is_refused(debian: Carried, place: Callable[[Carried], Path]) -> None:
    flip(place(debian))
    assert debian.refused()["what"].startswith("Debian's source index is not signed by a pinned key, damaged")


def test_an_index_that_is_missing_is_no_older_answer(debian: Carried) -> None:
    security_release(debian).unlink()
    said = debian.import_("--json", expect=ExitCode.UNREACHABLE).json
    assert SECURITY in said["where"]


def carried_key(carried: Carried) -> Path:
    """The exported key; the line's own file with it is gone."""
    for place in carried.line.parent.glob("*.asc"):
        place.unlink()
    [key] = (carried.mirror / "keys").iterdir()
    return key


def test_the_key_is_carried_too(either: Carried) -> None:
    carried_key(either)
    either.import_()


def test_a_damaged_key_is_not_used(either: Carried) -> None:
    key = carried_key(either)
    flip(key)
    said = either.import_("--json", expect=ExitCode.UNREACHABLE).json
    assert key.stem in said["what"] and str(key) in said["why"]


def test_another_key_under_the_right_ones_name_is_not_used(el6: Carried, tmp_path: Path) -> None:
    other = make_toy(tmp_path / "other", expired=True)
    key = carried_key(el6)
    key.write_bytes((other.line_file.parent / "toy-key.asc").read_bytes())
    said = el6.import_("--json", expect=ExitCode.UNREACHABLE).json
    assert f"wanted {key.stem}, had {other.key_fingerprint}" in said["why"]


def test_the_carried_list_of_sources_is_not_what_is_believed(el6: Carried) -> None:
    listed = el6.mirror / "mirror-toy.json"
    listed.write_text(listed.read_text().replace(of(el6, "lvs-tarball").name, "0" * 64))
    assert without_places(el6.import_("--json").json["sources"]) == without_places(el6.sources)


def test_a_file_that_is_missing_is_said_and_the_others_are_taken(el6: Carried) -> None:
    of(el6, "lvs-tarball").unlink()
    said = el6.import_("--json", expect=ExitCode.UNREACHABLE).json
    assert f"{TARBALL}: no address delivered the file" in said["what"]
    srpm = of(el6, "kernel-srpm").name
    assert (el6.there.store / "sha256" / srpm[:2] / srpm).is_file()


# What is typed.


@pytest.mark.parametrize("kind", ["empty", "missing", "file"])
def test_what_is_no_exported_directory_is_a_mistake_on_the_command_line(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "not-a-mirror"
    if kind == "empty":
        place.mkdir()
    if kind == "file":
        place.write_text("no directory")
    said = Inv(tmp_path)("mirror", "import", place, "--line", "el6", "--json", expect=ExitCode.USAGE).json
    assert said["what"].startswith("not an exported mirror")
    assert said["where"] == str(place) and "./inv mirror export DIR" in said["next"]


def test_an_export_to_a_file_is_a_mistake_on_the_command_line(el6: Carried, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = el6.here("mirror", "export", tmp_path / "file", "--line-file", el6.line, expect=ExitCode.USAGE)
    assert "not a directory" in ended.err
    assert (tmp_path / "file").read_text() == "mine"


def test_there_are_only_the_two_actions(tmp_path: Path) -> None:
    ended = Inv(tmp_path)("mirror", "copy", tmp_path, expect=ExitCode.USAGE)
    assert "ACTION of mirror 'copy': not found" in ended.err and "known: export, import" in ended.err


@pytest.mark.parametrize("file", ["*_InRelease", "*_Sources*"])
def test_an_index_that_changed_since_it_was_read_is_not_carried(debian: Carried, tmp_path: Path, file: str) -> None:
    for path in (debian.here.artifacts / "apt" / "deb" / "lists").glob(file):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    options = ("mirror", "export", tmp_path / "again", "--line-file", _seen(debian.line), "--offline")
    ended = debian.here(*options, "--debian-mirror", f"{DEAD}/debian", expect=ExitCode.UNREACHABLE)
    assert "Debian's index" in ended.err
    assert not list((tmp_path / "again").glob("debian*/**/*"))


def test_an_object_that_changed_is_not_carried(debian: Carried, tmp_path: Path) -> None:
    [source] = debian.sources
    path = debian.here.store / "sha256" / source["sha256"][:2] / source["sha256"]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    options = ("mirror", "export", tmp_path / "again", "--line-file", _seen(debian.line), "--offline")
    ended = debian.here(*options, expect=ExitCode.UNREACHABLE)
    assert "is not what was fetched" in ended.err
    assert not (tmp_path / "again").exists()
