"""Debian sources by Debian's signed index: only what a pinned key vouches for, asked once and then remembered."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import line_loader
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode
from pipeline.sources.records import Verified
from pipeline.sources.resolver import Sources
from tests.fixtures.agedkeys import AgedKey
from tests.fixtures.badserver import BadServer, good, payload, status, wrong
from tests.fixtures.commandline import Ended, Inv
from tests.fixtures.debianarchive import SECURITY, SUITE, Archive, Key, key

OLD, NEW = payload(20_000, 9), payload(21_000, 10)
OLD_DIGEST, NEW_DIGEST = (hashlib.sha256(body).hexdigest() for body in (OLD, NEW))
HOST_LISTS = Path("/var/lib/apt/lists")
PROGRAMS = ("apt-get", "apt-cache", "apt-config", "dpkg", "gpg", "gpgv")


@dataclass
class World:
    """An archive with linux 6.1.9 and, in its security suite, 6.1.10; and a command line that reads it."""

    place: Path
    server: BadServer
    archive: Archive
    inv: Inv

    def line(self, **source: Any) -> Path:
        return self.archive.write_line(self.place / "line", **({"version": "6.1."} | source))

    def fetch(self, line: Path, *options: str, expect: int = ExitCode.OK, **variables: str) -> Ended:
        mirror = ("--debian-mirror", self.archive.url)
        return self.inv("fetch", "--line-file", line, *mirror, *options, expect=expect, **variables)

    def source(self, line: Path, *options: str) -> dict[str, Any]:
        """The one source, as `fetch --json` reports it."""
        [found] = self.fetch(line, "--json", *options).json["sources"]
        return dict(found)

    def refused(self, line: Path, *options: str, code: int = ExitCode.REFUSED) -> dict[str, Any]:
        """The error a fetch ends with, as JSON; the file itself must not have come in."""
        said = self.fetch(line, "--json", *options, expect=code).json
        assert not {OLD_DIGEST, NEW_DIGEST} & {path.name for path in (self.inv.store / "sha256").glob("*/*")}
        assert not (self.inv.artifacts / "evidence").exists()
        return dict(said)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with BadServer() as server:
        archive = Archive(server)
        archive.add(SUITE, "linux", "6.1.9-1", OLD)
        archive.add(SECURITY, "linux", "6.1.10-1", NEW)
        archive.publish()
        place = tmp_path / "bau äume"  # as a path of ours may be, which is no word of apt's
        yield World(place, server, archive, Inv(place, FNAT_RETRIES="2", FNAT_STALL="5"))


def test_of_a_prefix_the_newest_version_is_taken_by_the_digest_in_the_signed_index(world: World) -> None:
    """6.1.10 is newer than 6.1.9, though it sorts before it as text."""
    found = world.source(world.line())
    assert (found["version"], found["sha256"], found["size"]) == ("6.1.10-1", NEW_DIGEST, len(NEW))
    assert found["file"] == "linux_6.1.10.orig.tar.xz"
    assert found["origin"] == world.server.url(world.archive.pool(SECURITY, "linux", "6.1.10-1"))
    assert re.fullmatch(r"digest in Debian's signed index of \S+ and \S+", found["how"])
    assert SUITE in found["how"] and SECURITY in found["how"]
    assert (world.inv.store / "sha256" / NEW_DIGEST[:2] / NEW_DIGEST).read_bytes() == NEW


def test_debians_own_order_of_versions_decides(world: World) -> None:
    for version in ("6.1.10~rc1-1", "6.1.2-9", "6.10.1-1"):
        world.archive.add(SUITE, "linux", version, payload(9_000, len(version)))
    world.archive.publish()
    assert world.source(world.line())["version"] == "6.1.10-1"


def test_debians_revisions_of_one_upstream_version_are_one_file(world: World) -> None:
    world.archive.add(SECURITY, "linux", "6.1.10-2", NEW)
    world.archive.publish()
    found = world.source(world.line())
    assert (found["version"], found["sha256"]) == ("6.1.10-2", NEW_DIGEST)


def test_an_exact_version_is_taken_even_when_there_are_newer_ones(world: World) -> None:
    found = world.source(world.line(version="6.1.9-1"))
    assert (found["version"], found["sha256"]) == ("6.1.9-1", OLD_DIGEST)


def test_a_version_with_an_epoch_is_found(world: World) -> None:
    world.archive.add(SUITE, "linux", "1:6.1.11-1", payload(8_000, 11))
    world.archive.publish()
    found = world.source(world.line(version="1:6.1.11-1"))
    assert (found["version"], found["file"]) == ("1:6.1.11-1", "linux_6.1.11.orig.tar.xz")


def test_a_version_that_debian_does_not_have_is_said_with_those_it_has(world: World) -> None:
    said = world.refused(world.line(version="5.10."), code=ExitCode.UNREACHABLE)
    assert said["what"] == "Debian's index has no linux 5.10."
    assert said["why"] == "it offers 6.1.10-1, 6.1.9-1"
    assert "--debian-mirror URL" in said["next"] and f"{world.archive.url} {SUITE}" in said["where"]


def test_a_version_is_no_prefix_unless_it_ends_in_a_dot(world: World) -> None:
    world.refused(world.line(version="6.1"), code=ExitCode.UNREACHABLE)


def test_a_digest_pinned_as_well_must_agree_with_the_index(world: World) -> None:
    assert world.source(world.line(version="6.1.9-1", sha256=OLD_DIGEST, size=len(OLD)))["sha256"] == OLD_DIGEST


def test_a_pinned_digest_that_the_index_contradicts_is_refused_before_any_download(world: World) -> None:
    said = world.refused(world.line(version="6.1.9-1", sha256=NEW_DIGEST, size=len(NEW)))
    assert said["what"] == "Debian's index has another linux_6.1.9.orig.tar.xz than the pinned one"
    assert said["why"] == f"wanted {NEW_DIGEST}, the index says {OLD_DIGEST}"
    assert world.server.count(world.archive.pool(SUITE, "linux", "6.1.9-1")) == 0


# What the index must be before any of it is believed.
def unsigned(archive: Archive) -> None:
    archive.publish(signed=False)


def signed_by_a_stranger(archive: Archive) -> None:
    archive.publish(signer=key("stranger"))


def with_another_release_file(archive: Archive) -> None:
    path = archive.release(SUITE)
    archive.server.at(path, good(archive.files[path].replace(b"Label: Toy", b"Label: Toi"), etag=None))


def with_other_sources_of_the_same_size(archive: Archive) -> None:
    path = archive.sources(SECURITY)
    archive.server.at(path, wrong(archive.files[path]))


def with_other_sources(archive: Archive) -> None:
    """An attacker's: well-formed, with the digest of a file of his own."""
    path = archive.sources(SECURITY)
    text = lzma.decompress(archive.files[path]).decode().replace(NEW_DIGEST, "0" * 64)
    archive.server.at(path, good(lzma.compress(text.encode() + b"\n# longer\n" * 20), etag=None))


def with_sources_cut_short(archive: Archive) -> None:
    path = archive.sources(SECURITY)
    archive.server.at(path, good(archive.files[path][:-40], etag=None))


def of_last_month(archive: Archive) -> None:
    """Replayed: rightly signed once, to keep a host from learning of newer versions."""
    archive.publish(age=timedelta(days=30))


@pytest.mark.parametrize(
    "spoil",
    [
        unsigned,
        signed_by_a_stranger,
        with_another_release_file,
        with_other_sources_of_the_same_size,
        with_other_sources,
        with_sources_cut_short,
        of_last_month,
    ],
)
def test_an_archive_is_refused_that_is(world: World, spoil: Any) -> None:
    spoil(world.archive)
    said = world.refused(world.line())
    assert said["what"] == "Debian's source index is not signed by a pinned key, damaged or out of date"
    assert f"{world.archive.url} {SUITE}" in said["where"]
    assert said["why"] and said["next"]


def test_a_good_suite_does_not_make_up_for_a_bad_one(world: World) -> None:
    path = world.archive.release(SECURITY)
    forged = key("stranger").clearsign("Origin: Toy\nSuite: toyworm-security\n")
    world.server.at(path, good(forged, etag=None))
    world.refused(world.line(version="6.1.9-1"))


def test_after_a_refusal_the_repaired_archive_is_read(world: World) -> None:
    with_other_sources_of_the_same_size(world.archive)
    line = world.line()
    world.refused(line)
    world.archive.publish()
    assert world.source(line)["version"] == "6.1.10-1"


def test_an_archive_that_is_down_is_unreachable_and_named(tmp_path: Path, world: World) -> None:
    line = world.line()
    with BadServer() as gone:
        address = gone.url("/debian")
    options = ("--line-file", line, "--debian-mirror", address, "--json")
    said = world.inv("fetch", *options, expect=ExitCode.UNREACHABLE).json
    assert said["what"] == "Debian's source index could not be read"
    assert said["where"] == f"{address} {SUITE}, {address}-security {SECURITY}"
    assert "Connection refused" in said["why"]


def test_a_suite_that_the_archive_does_not_have_is_named(world: World) -> None:
    line = world.line()
    line.write_text(line.read_text().replace(f'"{SUITE}"', '"oldworm"'))
    said = world.refused(line, code=ExitCode.UNREACHABLE)
    assert f"{world.archive.url} oldworm" in said["where"]
    assert "oldworm" in said["why"] and "does not have a Release file" in said["why"]


# The file behind the index's entry.
def test_a_newest_version_whose_file_is_missing_is_unreachable(world: World) -> None:
    path = world.archive.pool(SECURITY, "linux", "6.1.10-1")
    world.server.at(path, status(404))
    said = world.refused(world.line(), code=ExitCode.UNREACHABLE)
    assert "linux_6.1.10.orig.tar.xz: no address delivered the file" in said["what"]
    assert f"{world.server.url(path)}: HTTP 404" in said["what"]


def test_with_accept_older_the_newest_that_is_there_is_taken_and_that_is_said(world: World) -> None:
    world.server.at(world.archive.pool(SECURITY, "linux", "6.1.10-1"), status(404))
    line = world.line(accept_older=True)
    ended = world.fetch(line, "--json")
    [found] = ended.json["sources"]
    assert (found["version"], found["sha256"]) == ("6.1.9-1", OLD_DIGEST)
    assert found["how"].endswith("; 6.1.10-1 is newer and not available")
    assert "warning: linux: 6.1.10-1 is in Debian's index, but its file is not available yet" in ended.err
    assert world.source(line, "--offline")["how"] == found["how"], "also by a run that did not see it"


def test_with_accept_older_the_newest_is_taken_when_it_is_there(world: World) -> None:
    found = world.source(world.line(accept_older=True))
    assert (found["version"], "newer" in found["how"]) == ("6.1.10-1", False)


def test_when_no_version_is_there_all_that_were_tried_are_named(world: World) -> None:
    for suite, version in ((SUITE, "6.1.9-1"), (SECURITY, "6.1.10-1")):
        world.server.at(world.archive.pool(suite, "linux", version), status(404))
    said = world.refused(world.line(accept_older=True), code=ExitCode.UNREACHABLE)
    assert said["why"] == "tried 6.1.10-1, 6.1.9-1"


def test_the_version_that_the_patches_are_made_for_comes_before_a_newer_one(world: World) -> None:
    world.archive.add(SUITE, "linux", "6.1.9-2", OLD)  # a revision of Debian's own is the same upstream version
    world.archive.publish()
    found = world.source(world.line(made_for="6.1.9"))
    assert (found["version"], found["sha256"]) == ("6.1.9-2", OLD_DIGEST)
    assert found["how"].endswith("; 6.1.10-1 is newer than what the patches are made for")
    newest = world.source(world.line(made_for="6.1.10"))
    assert (newest["version"], "newer" in newest["how"]) == ("6.1.10-1", False)


@pytest.mark.parametrize(("made_for", "status_of_it"), [("6.1.8", 200), ("6.1.9", 404)])
def test_without_the_version_that_the_patches_are_made_for_the_newest_is_taken_and_that_is_said(
    world: World, made_for: str, status_of_it: int
) -> None:
    if status_of_it != 200:
        world.server.at(world.archive.pool(SUITE, "linux", "6.1.9-1"), status(status_of_it))
    ended = world.fetch(world.line(made_for=made_for, accept_older=True), "--json")
    [found] = ended.json["sources"]
    assert (found["version"], "newer" in found["how"]) == ("6.1.10-1", False)
    gone = "Debian's index has no 6.1.8, which the patches are made for, among 6.1."
    missing = "6.1.9-1 is in Debian's index, but its file is not available yet"
    assert f"warning: linux: {gone if made_for == '6.1.8' else missing}" in ended.err


@pytest.mark.parametrize("accept_older", [False, True])
def test_a_file_with_wrong_bytes_is_refused_and_no_older_one_taken_instead(world: World, accept_older: bool) -> None:
    world.server.at(world.archive.pool(SECURITY, "linux", "6.1.10-1"), wrong(NEW))
    said = world.refused(world.line(accept_older=accept_older))
    assert "linux_6.1.10.orig.tar.xz: downloaded content differs from the pinned file" in said["what"]
    assert f"wanted sha256 {NEW_DIGEST}, {len(NEW)} bytes" in said["what"]
    [kept] = (world.inv.store / "bad").iterdir()
    assert kept.name == f"{sha256_of(kept)}-linux_6.1.10.orig.tar.xz"


# Asked once.
def test_a_second_run_makes_no_request_and_starts_no_program(world: World) -> None:
    line = world.line(accept_older=True)
    first = world.source(line)
    asked = world.server.count()
    assert asked == 5, "two indexes of two files each, and the tarball"
    ended = world.fetch(line, "--json", **world.inv.without_programs(*PROGRAMS))
    assert ended.json["sources"] == [first]
    assert (world.server.count(), world.inv.called) == (asked, "")


def test_a_second_run_does_not_notice_newer_versions_until_refresh_asks(world: World) -> None:
    line = world.line()
    world.source(line)
    newer = payload(7_000, 11)
    world.archive.add(SECURITY, "linux", "6.1.11-1", newer)
    world.archive.publish()
    assert world.source(line)["version"] == "6.1.10-1"
    asked = world.server.count()
    found = world.source(line, "--refresh")
    assert (found["version"], found["sha256"]) == ("6.1.11-1", hashlib.sha256(newer).hexdigest())
    assert world.server.count() > asked
    assert world.source(line)["version"] == "6.1.11-1", "and its answer is the one remembered"


def _lists(world: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (world.inv.artifacts / "apt").glob("*/lists/*_*")}


def test_a_list_that_changed_here_is_not_believed_when_the_index_is_asked_again(world: World) -> None:
    """apt itself would take it for what it fetched: the release file is the same, and so are size and times."""
    line = world.line()
    first, right = world.source(line), _lists(world)
    for path in (world.inv.artifacts / "apt").glob("*/lists/*_Sources.xz"):
        text = lzma.decompress(path.read_bytes()).decode()
        before = path.stat()
        path.write_bytes(lzma.compress(text.replace(first["sha256"], "0" * 64).encode()))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert world.source(line, "--refresh")["sha256"] == first["sha256"]
    assert _lists(world) == right


def test_lists_stay_where_no_new_ones_are_had(world: World) -> None:
    line = world.line()
    world.source(line)
    right = _lists(world)
    unsigned(world.archive)
    world.fetch(line, "--refresh", expect=ExitCode.REFUSED)
    assert _lists(world) == right


def test_another_question_is_asked_again(world: World) -> None:
    world.source(world.line())
    assert world.source(world.line(version="6.1.9-1"))["version"] == "6.1.9-1"


def of_image(world: World, image: str, **source: Any) -> list[Verified]:
    """What a run for that builder image has of a line whose one source only the image `here` needs."""
    line = line_loader.load(None, world.line(image="here", **source))
    settings = load({"artifacts": str(world.inv.artifacts), "debian_mirror": world.archive.url}, {})
    return Sources(line, settings, Console(out=io.StringIO(), err=io.StringIO())).fetch(image)


def test_what_only_one_image_needs_is_fetched_for_that_image_alone(world: World) -> None:
    absent = world.inv.without_programs(*PROGRAMS)
    assert "0 sources verified, nothing fetched" in world.fetch(world.line(image="here"), **absent).out
    assert of_image(world, "elsewhere") == []
    assert (world.server.count(), world.inv.called) == (0, "")
    [found] = of_image(world, "here")
    assert (found.name, found.version) == ("linux", "6.1.10-1")


def test_what_an_image_needs_is_not_cleaned_away_by_a_run_without_it(world: World) -> None:
    [found] = of_image(world, "here")
    world.fetch(world.line(image="here"))
    assert world.inv("store", "gc", "--json").json["removed"] == []
    assert world.fetch(world.line(image="here"), "--json").json["sources"] == []
    assert found.path.is_file()


def test_an_export_reads_no_index_for_what_it_does_not_carry(world: World) -> None:
    absent = world.inv.without_programs(*PROGRAMS)
    world.inv("mirror", "export", world.place / "carried", "--line-file", world.line(image="here"), **absent)
    assert (world.server.count(), world.inv.called) == (0, "")
    assert not (world.place / "carried" / "debian").exists()


def test_offline_fails_before_the_index_was_asked_and_works_after(world: World) -> None:
    line = world.line(accept_older=True)
    said = world.refused(line, "--offline", code=ExitCode.UNREACHABLE)
    assert said["what"] == "Debian's index has not been read yet and --offline forbids that"
    assert "run once without --offline" in said["next"]
    assert world.server.count() == 0
    first = world.source(line)
    asked = world.server.count()
    assert world.source(line, "--offline") == first
    assert world.server.count() == asked


def test_offline_with_the_index_but_without_the_file_fails(world: World) -> None:
    line = world.line()
    path = world.archive.pool(SECURITY, "linux", "6.1.10-1")
    world.server.at(path, status(404))
    world.refused(line, code=ExitCode.UNREACHABLE)
    world.server.at(path, good(NEW))
    asked = world.server.count()
    said = world.refused(line, "--offline", code=ExitCode.UNREACHABLE)
    assert "not requested: offline" in said["what"] and "drop --offline" in said["next"]
    assert world.server.count() == asked


def test_a_key_that_is_not_there_is_said_before_anything_is_asked(world: World) -> None:
    line = world.line()
    (line.parent / "archive.asc").unlink()
    said = world.refused(line, code=ExitCode.UNREACHABLE)
    assert said["what"] == f"the key archive ({key().fingerprint}) could not be fetched"
    assert world.server.count() == 0


# The host's own apt.
def listed(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below."""
    found = [directory, *directory.rglob("*")] if directory.exists() else []
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


def test_the_hosts_own_apt_lists_are_not_touched(world: World) -> None:
    before = listed(HOST_LISTS)
    world.source(world.line())
    assert listed(HOST_LISTS) == before
    assert list(world.inv.home.iterdir()) == [] and list(world.inv.tmp.iterdir()) == []


def test_the_hosts_own_apt_settings_do_not_soften_the_check(world: World) -> None:
    """Such as those of a host that trusts its intranet."""
    world.archive.publish(signer=key("stranger"))
    with world.inv.apt_config.open("a") as config:
        config.write('APT::Get::AllowUnauthenticated "true";\nAcquire::AllowInsecureRepositories "true";\n')
        config.write('Acquire::Check-Valid-Until "false";\nAPT::Authentication::TrustCDROM "true";\n')
    world.refused(world.line())


def test_the_hosts_own_proxy_for_apt_is_used(world: World) -> None:
    world.inv.apt_config.write_text(
        world.inv.apt_config.read_text() + f'Acquire::http::Proxy "{world.server.url()}";\n'
    )
    line = world.line()
    options = ("--line-file", line, "--debian-mirror", "http://archive.invalid/debian", "--json")
    said = world.inv("fetch", *options, no_proxy="", NO_PROXY="", expect=ExitCode.UNREACHABLE).json
    assert "archive.invalid" in said["what"], "the index came through the proxy; the file has to come another way"
    assert world.server.count(world.archive.release(SUITE)) == 1


@pytest.mark.parametrize("state", ["good", "expired", "retired", "compromised"])
def test_an_index_is_refused_once_its_key_has_expired_or_is_known_to_be_revoked(
    world: World, tmp_path: Path, state: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="k-") as short:  # an agent's socket must fit
        signer = AgedKey.made(Path(short) / "h")
        world.archive.signer = Key(signer.home, signer.fingerprint, b"")
        world.archive.publish()
        if state == "expired":
            signer.expire(2021, 2023)
        elif state != "good":
            signer.revoke(state, 2023)
        world.archive.signer = Key(signer.home, signer.fingerprint, signer.public)
        line = world.line()
        if state == "good":
            assert world.source(line)["version"] == "6.1.10-1"
        else:
            assert world.refused(line)["what"].startswith("Debian's source index is not signed by a pinned key")
