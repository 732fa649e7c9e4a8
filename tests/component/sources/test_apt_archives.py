"""Which archive is asked for Debian's index: the host's own, one that is named, or one that was carried."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.sources import apt


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources.list of a host whose apt reads nothing else."""
    etc = tmp_path / "etc"
    etc.mkdir()
    settings = {"Dir::Etc": etc, "Dir::State": tmp_path / "state", "Dir::Cache": tmp_path / "cache"}
    config = tmp_path / "apt.conf"
    config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    monkeypatch.setenv("APT_CONFIG", str(config))
    return etc / "sources.list"


SUITES = ("bookworm", "bookworm-security")


def test_a_debian_hosts_own_archives_are_used(host: Path) -> None:
    host.write_text(
        "deb http://near.example/debian bookworm main contrib\n"
        "deb http://near.example/debian bookworm-updates main\n"
        "deb http://near.example/debian-security/ bookworm-security main\n"
    )
    assert apt.archive_addresses(SUITES, "", ()) == {
        "bookworm": "http://near.example/debian",
        "bookworm-security": "http://near.example/debian-security",
    }


def test_the_archive_of_a_debian_host_of_another_release_has_this_one_too(host: Path) -> None:
    host.write_text(
        "deb https://near.example/debian trixie main\ndeb https://near.example/debian-security trixie-security main\n"
    )
    assert apt.archive_addresses(SUITES, "", ()) == {
        "bookworm": "https://near.example/debian",
        "bookworm-security": "https://near.example/debian-security",
    }


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "other",
    [
        "https://download.docker.example/linux/debian bookworm stable",
        "https://packages.example/node_20.x bookworm main",
        "https://packages.example/debian/12/prod bookworm main",
    ],
)
def test_archives_of_others_for_the_same_release_are_not_taken_for_debians(host: Path, other: str, first: bool) -> None:
    debian = "deb http://near.example/debian bookworm main"
    host.write_text("\n".join([f"deb {other}", debian] if first else [debian, f"deb {other}"]) + "\n")
    assert apt.archive_addresses(["bookworm"], "", ()) == {"bookworm": "http://near.example/debian"}


def test_a_mirror_whose_path_is_not_debians_is_known_by_the_suite_it_has(host: Path) -> None:
    host.write_text("deb http://house/apt bookworm main\ndeb http://security.example/ bookworm-security main\n")
    assert apt.archive_addresses(SUITES, "", ()) == {
        "bookworm": "http://house/apt",
        "bookworm-security": "http://security.example",
    }


def test_a_host_that_is_no_debian_is_told_how_to_name_an_archive(host: Path) -> None:
    host.write_text("deb http://archive.example/ubuntu noble main\n")
    with pytest.raises(UsageError) as refused:
        apt.archive_addresses(SUITES, "", ())
    assert refused.value.what == "no Debian archive is known for bookworm, bookworm-security"
    assert "--debian-mirror URL" in refused.value.hint


def test_a_host_without_apt_is_told_the_same(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no Debian archive is known"):
        apt.archive_addresses(SUITES, "", ())


def test_the_setting_wins_over_the_host_and_a_carried_archive_over_both(host: Path, tmp_path: Path) -> None:
    host.write_text("deb http://near.example/debian bookworm main\n")
    setting = "http://chosen.example/debian/"
    assert apt.archive_addresses(SUITES, setting, (str(tmp_path),)) == {
        "bookworm": "http://chosen.example/debian",
        "bookworm-security": "http://chosen.example/debian-security",
    }
    carried = tmp_path / "carried"
    (carried / "debian" / "dists").mkdir(parents=True)
    assert apt.archive_addresses(SUITES, setting, ("http://files.example", str(carried))) == {
        "bookworm": f"file:{carried}/debian",
        "bookworm-security": f"file:{carried}/debian-security",
    }


@pytest.mark.parametrize("setting", ["[trusted=yes] http://mirror.example/debian", "http://mirror.example/debian x\t"])
def test_an_address_that_apt_would_read_options_into_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="is no address of an archive"):
        apt.archive_addresses(["bookworm"], setting, ())
