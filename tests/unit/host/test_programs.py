"""The table of host programs, and installing what is missing, with stand-ins for the package managers."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.console import Console
from pipeline.errors import HostLacks
from pipeline.host import programs
from tests.fixtures.commandline import ROOT

Script = Callable[..., Path]

ROOTS = (
    "rpmsign",
    "gpg-agent",
    "openssl",
    "unshare",
    "setpriv",
    "prlimit",
    "tar",
    "bwrap",
    "mmdebstrap",
)  # in the table's order
BUILD = ROOTS if os.geteuid() == 0 else (*ROOTS[:-1], "newuidmap", "mmdebstrap")
PACKAGES = f"bubblewrap gpg-agent mmdebstrap openssl rpm tar {'' if BUILD is ROOTS else 'uidmap '}util-linux"


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes an executable shell script in the only directory that the stand-in host searches."""
    (tmp_path / "bin").mkdir()

    def make(name: str, body: str = "exit 0") -> Path:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    make("env", 'export "$1"; shift; exec "$@"')
    return make


def by_command(name: str) -> programs.HostProgram:
    return next(program for program in programs.TABLE if program.command == name)


def installer(tmp_path: Path, prefix: list[str] | None) -> tuple[programs.Installer, io.StringIO]:
    said = io.StringIO()
    return programs.Installer(Console(out=said, err=said), str(tmp_path / "bin"), prefix), said


def apt_get(tmp_path: Path, update: str = "exit 0") -> str:
    """An apt-get that writes down how it was called and "installs" every program it is asked for."""
    names = " ".join(program.command for program in programs.TABLE)
    return f"""echo "$DEBIAN_FRONTEND $*" >> {tmp_path}/calls
case "$*" in
*update*) {update};;
*) for name in {names}; do /bin/ln -sf /bin/true {tmp_path}/bin/$name.new
     [ -e {tmp_path}/bin/$name ] || /bin/mv {tmp_path}/bin/$name.new {tmp_path}/bin/$name; done;;
esac"""


def test_every_program_says_its_purpose_package_and_group() -> None:
    for program in programs.TABLE:
        assert program.why and program.apt and program.dnf and program.groups, program
    assert len({program.command for program in programs.TABLE}) == len(programs.TABLE)


def test_the_groups_hold_what_each_work_needs() -> None:
    held = {group: {program.command for program in programs.wanted([group])} for group in programs.GROUPS}
    assert held["fetch"] >= {"git", "gpg", "gpgv", "rpmkeys", "rpm2archive", "rpm2cpio", "patch", "xz"}
    assert held["debian"] == {"apt-get", "dpkg"}
    assert held["test"] >= {"rpmbuild", "rpmsign", "qemu-system-x86_64", "cpio", "chromium"}
    assert held["lab"] == {"qemu-system-x86_64"}
    assert held["build"] == set(BUILD)


def test_only_a_user_without_root_needs_subordinate_ids_to_build() -> None:
    builds, tests = ({user: programs.wanted([group], user) for user in (0, 1000)} for group in ("build", "test"))
    mapper = by_command("newuidmap")
    assert mapper in builds[1000] and mapper not in builds[0]
    assert mapper in tests[1000] and mapper in tests[0]


def test_a_program_of_daemons_is_found_where_a_users_path_does_not_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert programs.which("chroot") == "/usr/sbin/chroot"
    assert programs.which("chroot", "/usr/bin:/bin") is None, "another host's search path is taken as it is"


def test_missing_is_what_is_not_on_the_given_path(tmp_path: Path, script: Script) -> None:
    script("git", "")
    lacking = {program.command for program in programs.missing(["fetch"], str(tmp_path / "bin"))}
    assert "git" not in lacking and "gpgv" in lacking and "rpmbuild" not in lacking
    assert len(lacking) == len(programs.wanted(["fetch"])) - 1


def test_a_file_that_is_not_executable_is_missing(tmp_path: Path, script: Script) -> None:
    script("git", "").chmod(0o644)
    assert by_command("git") in programs.missing(["fetch"], str(tmp_path / "bin"))


def test_one_command_installs_each_package_once() -> None:
    lacking = [by_command(name) for name in ("rpmkeys", "rpm2cpio", "gpgv", "gpg")]
    apt = programs.install_command(lacking, "apt")
    assert apt == ["apt-get", "install", "-y", "--no-install-recommends", "gpg", "gpgv", "rpm"]
    assert programs.install_command(lacking, "dnf") == ["dnf", "install", "-y", "gnupg2", "rpm"]


@pytest.mark.parametrize(
    ("there", "manager"),
    [({"apt-get", "dpkg"}, "apt"), ({"dnf"}, "dnf"), ({"apt-get", "dnf"}, "dnf"), (set[str](), None)],
)
def test_the_package_manager_is_the_one_that_owns_the_system(
    tmp_path: Path, script: Script, there: set[str], manager: str | None
) -> None:
    for name in there:
        script(name, "")
    assert programs.package_manager(str(tmp_path / "bin")) == manager


def test_ensure_updates_first_and_then_installs_without_questions(tmp_path: Path, script: Script) -> None:
    script("dpkg", "")
    script("apt-get", apt_get(tmp_path))
    able, said = installer(tmp_path, [])
    able.ensure(["build"])
    update, install = (tmp_path / "calls").read_text().splitlines()
    assert update == "noninteractive update -o APT::Update::Error-Mode=any"
    assert install.startswith("noninteractive -o DPkg::Lock::Timeout=")
    assert install.endswith(f"install -y --no-install-recommends {PACKAGES}")
    assert "bubblewrap for bwrap: run builds without network" in said.getvalue()


def test_ensure_goes_through_the_prefix_that_makes_it_root(tmp_path: Path, script: Script) -> None:
    script("dpkg", "")
    script("apt-get", apt_get(tmp_path))
    script("sudo", f'echo "sudo $*" >> {tmp_path}/sudo; shift; exec "$@"')
    able, _ = installer(tmp_path, [str(tmp_path / "bin/sudo"), "-n"])
    able.ensure(["build"])
    assert all(line.startswith("sudo -n env DEBIAN") for line in (tmp_path / "sudo").read_text().splitlines())


def test_ensure_runs_nothing_when_nothing_is_missing(tmp_path: Path, script: Script) -> None:
    for name in (*BUILD, "dpkg"):
        script(name, "")
    script("apt-get", apt_get(tmp_path))
    installer(tmp_path, [])[0].ensure(["build"])
    assert not (tmp_path / "calls").exists()


def test_without_the_right_to_install_the_error_gives_the_one_command(tmp_path: Path, script: Script) -> None:
    script("dpkg", "")
    script("apt-get", apt_get(tmp_path))
    with pytest.raises(HostLacks) as caught:
        installer(tmp_path, None)[0].ensure(["build"])
    assert f"apt-get install -y --no-install-recommends {PACKAGES}" in caught.value.hint
    assert ", ".join(BUILD) in caught.value.what and "run builds without network" in caught.value.why
    assert not (tmp_path / "calls").exists(), "nothing may be run"


def test_without_a_known_package_manager_the_error_names_the_programs(tmp_path: Path, script: Script) -> None:
    with pytest.raises(HostLacks) as caught:
        installer(tmp_path, [])[0].ensure(["build"])
    assert caught.value.hint == f"install with this system's package manager: {', '.join(BUILD)}"


def test_a_failed_update_stops_before_anything_is_installed(tmp_path: Path, script: Script) -> None:
    script("dpkg", "")
    script("apt-get", apt_get(tmp_path, update="echo 'no such mirror' >&2; exit 100"))
    with pytest.raises(HostLacks, match="no such mirror"):
        installer(tmp_path, [])[0].ensure(["build"])
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_an_installation_that_brings_no_program_is_an_error(tmp_path: Path, script: Script) -> None:
    script("dpkg", "")
    script("apt-get", "exit 0")
    with pytest.raises(HostLacks, match="yet the programs are not on the path"):
        installer(tmp_path, [])[0].ensure(["build"])


def test_root_installs_directly_and_others_only_by_a_sudo_that_asks_nothing(tmp_path: Path, script: Script) -> None:
    place = str(tmp_path / "bin")
    assert programs.may_install(place, user=0) == []
    assert programs.may_install(place, user=1000) is None, "there is no sudo"
    script("sudo", "echo 'a password is required' >&2; exit 1")
    assert programs.may_install(place, user=1000) is None
    script("sudo", '[ "$*" = "-n true" ]')
    assert programs.may_install(place, user=1000) == ["sudo", "-n"]


def test_the_module_runs_by_itself_on_a_bare_interpreter(tmp_path: Path) -> None:
    """No site-packages: what the launcher has before its environment exists. Here on a host that has nothing."""

    def launched(*groups: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-S", "-m", "pipeline.host.programs", *groups]
        return subprocess.run(argv, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)

    assert launched().returncode == 2
    refused = launched("nonsense")
    assert refused.returncode == 2 and "fetch,debian,test,lab,build" in refused.stderr
    lacking = launched("build", "test")
    assert lacking.returncode == 7 and "install with this system's package manager: apt-get" in lacking.stderr


def test_the_launcher_is_told_that_all_is_well(tmp_path: Path, script: Script) -> None:
    for program in programs.wanted(["lab"]):
        script(program.command)
    argv = [sys.executable, "-S", "-m", "pipeline.host.programs", "lab"]
    done = subprocess.run(
        argv, cwd=ROOT, env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_variable_against_installing_is_obeyed(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("dpkg", "")
    script("apt-get", apt_get(tmp_path))
    monkeypatch.setenv(programs.NO_INSTALL, "1")
    with pytest.raises(HostLacks, match="INV_NO_INSTALL forbids") as caught:
        installer(tmp_path, [])[0].ensure(["build"])
    assert f"apt-get install -y --no-install-recommends {PACKAGES}" in caught.value.hint
    assert not (tmp_path / "calls").exists()
    monkeypatch.setenv(programs.NO_INSTALL, "0")
    able, output = installer(tmp_path, [])
    able.ensure(["build"])
    assert "running: apt-get update" in output.getvalue()
    assert f"install -y --no-install-recommends {PACKAGES}\n" in output.getvalue()
