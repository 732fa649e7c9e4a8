"""The service and its timer as text: what people chose, quoted, and nothing that bubblewrap cannot live with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.ci import systemd
from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.ci.systemd import Systemd
from pipeline.config import line_loader
from pipeline.config.settings import Settings
from pipeline.errors import UsageError

CHECKOUT = "/opt/lvs-fullnat"
SERVICE, TIMER = "lvs-fullnat-nightly.service", "lvs-fullnat-nightly.timer"


def request(*lines: str, at: str = "03:17", user: str = "builder", checkout: str = CHECKOUT, **given: Any) -> Request:
    loaded = tuple(map(line_loader.load, lines or ("lts61",)))
    options = {"user": user, "checkout": checkout}
    return Request(loaded, replace(Settings(), **given), TimeOfDay.parse(at), options)


def service(**given: Any) -> list[str]:
    return Systemd().files(request(**given))[SERVICE].splitlines()


def test_the_service_runs_a_night_of_the_lines() -> None:
    text = Systemd().files(request("lts61", "el6", kernel_config="small"))[SERVICE].splitlines()
    assert [row.removeprefix("ExecStart=") for row in text if row.startswith("ExecStart=")] == [
        f"{CHECKOUT}/inv nightly lts61 el6 --artifacts {CHECKOUT}/artifacts --kernel-config small"
    ]
    assert {"User=builder", f"WorkingDirectory={CHECKOUT}", f"ReadWritePaths={CHECKOUT}/artifacts"} <= set(text)


def test_an_address_that_may_hold_a_secret_is_in_no_file() -> None:
    files = Systemd().files(request(notify_url="https://chat.example.com/s3cret", notify_when="always"))
    assert "s3cret" not in "".join(files.values())
    assert "--notify-when always" in files[SERVICE]


def test_the_same_request_gives_the_same_bytes() -> None:
    assert Systemd().files(request("lts61", "el6")) == Systemd().files(request("lts61", "el6"))


@pytest.mark.parametrize(("at", "calendar"), [("03:17", "*-*-* 03:17:00 UTC"), ("00:05", "*-*-* 00:05:00 UTC")])
def test_the_timer_begins_at_a_time_in_utc(at: str, calendar: str) -> None:
    text = Systemd().files(request(at=at))[TIMER].splitlines()
    assert f"OnCalendar={calendar}" in text
    assert "Persistent=true" in text


@pytest.mark.parametrize("at", ["24:00", "3:17", "03:60", "03:17 ", "", "0\u0663:17"])
def test_another_time_is_refused(at: str) -> None:
    with pytest.raises(UsageError, match="expected a time of the day in UTC"):
        TimeOfDay.parse(at)


def test_a_shared_store_on_this_host_may_be_written_and_one_elsewhere_is_named_as_it_is() -> None:
    text = service(shared_store="/srv/store", shared_keys=Path("/etc/fnat/keys"))
    assert "ReadWritePaths=/srv/store" in text and "ReadWritePaths=/etc/fnat/keys" not in text
    text = service(shared_store="/home/builder/store")
    assert "BindPaths=/home/builder/store" in text and "BindReadOnlyPaths=/home/builder/store" not in text
    text = service(shared_store="store")
    assert f"ReadWritePaths={Path.cwd()}/store" in text and f"--shared-store {Path.cwd()}/store" in "".join(text)
    for store in ("host:/srv/store", "rsync://host/fnat", "https://host/fnat"):
        text = service(shared_store=store)
        assert len([row for row in text if row.startswith("ReadWritePaths=")]) == 1
        assert f"--shared-store {store}" in "".join(text)


@pytest.mark.parametrize("text", ["mail -s nights/lts61 ops@example.com", "notify --url https://example.com/a b:/c"])
@pytest.mark.parametrize("directory", ["/", "/tmp"])
def test_the_program_to_notify_stays_as_it_was_given(
    text: str, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    assert f'--notify-command "{text}"' in "".join(service(notify_command=text))


def test_what_a_setting_names_is_a_path_where_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/srv")
    [command] = [row for row in service(
        centos_base="docker.io/library/centos@sha256:00",
        baseurl="repo.example.com/lvs",
        gpg_key="release.asc",
        attestation_key="keys/attestation.pem",
        mirror=("files", "file:///srv/more", "https://example.com/x"),
    ) if row.startswith("ExecStart=")]  # fmt: skip
    for words in (
        "--centos-base docker.io/library/centos@sha256:00",
        "--baseurl repo.example.com/lvs",
        "--gpg-key /srv/release.asc",
        "--attestation-key /srv/keys/attestation.pem",
        "--mirror /srv/files --mirror file:///srv/more --mirror https://example.com/x",
    ):
        assert words in command
    assert "--gpg-key development" in "".join(service(gpg_key="development"))


def test_the_service_sees_the_program_to_notify_and_a_mirror_that_is_a_file_url() -> None:
    text = service(notify_command="/home/ada/tell --to ops", mirror=("file:///home/debs",))
    assert {"BindReadOnlyPaths=/home/ada/tell", "BindReadOnlyPaths=/home/debs"} <= set(text)
    with pytest.raises(UsageError, match="/tmp/tell: expected a place outside"):
        service(notify_command="/tmp/tell --to ops")
    with pytest.raises(UsageError, match=r"--notify-command: \./tell --to ops; expected") as refused:
        service(notify_command="./tell --to ops")
    assert refused.value.hint == f"realpath {Path.cwd()}/tell"


def test_compiler_caches_are_written_by_the_host_that_fills_them_alone() -> None:
    remote = Path("/srv/ccache")
    assert "ReadWritePaths=/srv/ccache" in service(ccache_remote=remote, ccache_writer=True)
    assert "ReadWritePaths=/srv/ccache" not in service(ccache_remote=remote)


def test_words_are_quoted_as_units_have_them() -> None:
    text = service(artifacts=Path('/srv/a b"%$c'), baseurl="https://x/$y")
    assert 'ReadWritePaths="/srv/a b\\"%%$c"' in text
    [command] = [row for row in text if row.startswith("ExecStart=")]
    assert '--artifacts "/srv/a b\\"%%$$c"' in command
    assert '--baseurl "https://x/$$y"' in command


# What would keep bubblewrap or QEMU from working, each with the reason in the template's head.
FORBIDDEN = (
    "RestrictNamespaces", "ProtectHostname", "ProtectKernelTunables", "ProtectKernelLogs", "ProcSubset",
    "PrivateDevices", "MemoryDenyWriteExecute", "PrivateUsers", "PrivateNetwork",
)  # fmt: skip


def test_nothing_is_restricted_that_builds_need() -> None:
    set_here = {row.partition("=")[0] for row in service() if not row.startswith("#")}
    assert not set_here & set(FORBIDDEN)
    assert {"NoNewPrivileges", "SystemCallFilter", "ProtectSystem"} <= set_here


def test_homes_are_hidden_but_for_what_the_service_reads(tmp_path: Path) -> None:
    assert "ProtectHome=yes" in service()
    text = service(checkout="/home/ada/lvs", module_key=Path("/root/module.key"), mirror=("https://x/y", "/home/m"))
    assert "ProtectHome=tmpfs" in text
    assert [row for row in text if row.startswith("BindReadOnlyPaths=")] == [
        "BindReadOnlyPaths=/home/ada/lvs",
        "BindReadOnlyPaths=/home/m",
        "BindReadOnlyPaths=/root/module.key",
    ]
    assert "BindPaths=/home/ada/lvs/artifacts" in text


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"user": "root"}, "--user: root; expected another user"),
        ({"user": "a b"}, "expected the name of a user"),
        ({"checkout": "/tmp/x"}, "expected a place outside of /tmp"),
        ({"artifacts": Path("/var/tmp/x")}, "expected a place outside of /tmp"),
        ({"gpg_key": "0123456789ABCDEF0123456789ABCDEF01234567"}, "expected the file of an exported key"),
    ],
)
def test_what_the_service_could_not_use_is_refused(given: Mapping[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Systemd().files(request(**given))


def test_places_to_make_that_the_service_would_not_see_become_the_documented_ones(tmp_path: Path) -> None:
    for checkout, command in (
        (tmp_path / "none", f"./inv ci systemd lts61 --at 03:17 --user builder --checkout {CHECKOUT}"),
        (tmp_path, f"cp -a {tmp_path} /opt"),
    ):
        with pytest.raises(UsageError, match="expected a place outside") as hidden:
            Systemd().files(request(checkout=str(checkout)))
        assert hidden.value.hint == command
    with pytest.raises(UsageError, match="/tmp/x: expected a place outside") as refused:
        Systemd().files(request(artifacts=Path("/tmp/x")))
    place, options = "--artifacts /var/lib/lvs-fullnat/artifacts", f"--checkout {CHECKOUT}"
    assert refused.value.hint == f"./inv ci systemd lts61 --at 03:17 --user builder {options} {place}"


def test_a_checkout_that_the_user_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_PRIVATE", ())
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(UsageError, match="expected a checkout that nobody can read") as caught:
        Systemd().files(request(checkout=f"{tmp_path}/closed/lvs", user="nobody"))
    assert caught.value.hint == f"cp -a {tmp_path}/closed/lvs /opt"


def test_the_commands_name_the_files_and_the_image_that_the_service_cannot_make() -> None:
    commands = Systemd().commands(request("lts61", "el6"), Path("out dir"))
    images = [each for each in commands if " image " in each]
    assert [each.partition("/inv ")[2] for each in images] == [
        f"image {name} --artifacts {CHECKOUT}/artifacts" for name in ("lts61", "el6")
    ]
    assert any(f"'out dir/{SERVICE}' 'out dir/{TIMER}' /etc/systemd/system/" in each for each in commands)
    assert commands[0].removeprefix("sudo ") == f"install -d -o builder {CHECKOUT}/artifacts", "what is above is root's"
    assert commands[-1] == f"systemctl list-timers {TIMER}"
