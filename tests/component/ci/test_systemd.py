"""The service and timer as systemd takes them: its own checks, and a systemd that runs the sandbox in the service."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.ci.systemd import Systemd
from pipeline.config import line_loader
from pipeline.config.settings import Settings
from pipeline.core import process
from tests.fixtures import systemd

SERVICE, TIMER = "lvs-fullnat-nightly.service", "lvs-fullnat-nightly.timer"
EXPOSURE = 35  # tenths of what `systemd-analyze security` calls exposure; 34 with systemd 252
PROBE = "from pipeline.sandbox.bubblewrap import Bubblewrap; Bubblewrap().prove_on_host(); print('isolated')"


def rendered(user: str, checkout: Path, artifacts: Path) -> Mapping[str, str]:
    options = {"user": user, "checkout": str(checkout)}
    settings = replace(Settings(), artifacts=artifacts)
    return Systemd().files(Request((line_loader.load("lts61"),), settings, TimeOfDay.parse("03:17"), options))


@pytest.fixture
def files() -> Mapping[str, str]:
    return rendered("plain", systemd.CHECKOUT, systemd.ARTIFACTS)


def test_systemd_finds_no_mistake_in_service_and_timer(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name, text in rendered("daemon", Path("/opt/x"), Path("/srv/x")).items():
        # systemd looks for the program
        (tmp_path / name).write_text(text.replace("/opt/x", str(checkout)))
    checkout.mkdir()
    (checkout / "inv").write_text("#!/bin/sh\n")
    (checkout / "inv").chmod(0o755)
    ended = process.run(["systemd-analyze", "verify", tmp_path / SERVICE, tmp_path / TIMER], accept=range(256))
    assert (ended.status, ended.text, ended.error_text) == (0, "", "")
    (tmp_path / SERVICE).write_text((tmp_path / SERVICE).read_text().replace("NoNewPrivileges=", "NoNewPriviledges="))
    ended = process.run(["systemd-analyze", "verify", tmp_path / SERVICE], accept=range(256))
    assert "'NoNewPriviledges'" in ended.error_text


def test_the_next_night_is_when_it_was_said_to_be() -> None:
    calendar = re.findall("OnCalendar=(.*)", rendered("daemon", Path("/opt/x"), Path("/srv/x"))[TIMER])
    ended = process.run(["systemd-analyze", "calendar", "--base-time=2026-03-28 12:00:00 UTC", *calendar])
    assert "Next elapse: Sun 2026-03-29 03:17:00 UTC" in ended.text.replace("(in UTC): ", "Next elapse: ")


def test_the_service_is_as_little_exposed_as_builds_allow(files: Mapping[str, str], tmp_path: Path) -> None:
    def exposure(text: str) -> process.Result:
        (tmp_path / SERVICE).write_text(text)
        words = ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", str(tmp_path / SERVICE)]
        return process.run(words, accept=range(256))

    whole = exposure(files[SERVICE])
    assert whole.status == 0, whole.text
    assert exposure(re.sub("(?m)^(SystemCallFilter|ProtectSystem)=.*\n", "", files[SERVICE])).status != 0


def probed(place: Path, files: Mapping[str, str], more: str = "") -> tuple[int, str]:
    """How the probe of the sandbox ends in the service; a user without root has no systemd to try it in."""
    if os.geteuid() != 0:
        words = ["setpriv", "--no-new-privs", sys.executable, "-P", "-c", PROBE]
        ended = process.run(words, accept=range(256))
        return ended.status, ended.text + ended.error_text
    return systemd.run_unit(place, files, SERVICE, ["-P", "-c", PROBE], more)


def test_a_build_is_isolated_by_bubblewrap_in_the_service(files: Mapping[str, str], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert probed(tmp_path, files) == (0, "isolated\n")


@pytest.mark.parametrize("setting", ["ProtectHostname=yes", "RestrictNamespaces=yes"])
def test_the_probe_fails_where_a_service_forbids_what_builds_need(
    setting: str, files: Mapping[str, str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    if os.geteuid() == 0:
        assert probed(tmp_path, files, f"{setting}\n")[0] != 0
