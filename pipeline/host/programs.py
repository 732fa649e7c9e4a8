"""Declare the host programs, their purposes and packages, and install them.

Standard library only: the launcher runs it as `python -m pipeline.host.programs fetch` before the
project's own environment exists. Knows package names, never what the programs are run for in detail.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core import neutral, process
from pipeline.core.console import Console
from pipeline.errors import ExitCode, HostLacks, PipelineError

Group = Literal["fetch", "debian", "test", "lab", "build", "publish"]
Manager = Literal["apt", "dnf"]

GROUPS: dict[Group, str] = {
    "fetch": "fetch, verify and pin sources; apply patches",
    "debian": "fetch sources out of a Debian archive",
    "test": "run the test suite",
    "lab": "boot guests in the lab",
    "build": "make builder images and build packages",
    "publish": "copy published repositories to where clients read them",
}
UPDATE_TIMEOUT, INSTALL_TIMEOUT = 300.0, 1800.0  # seconds; a slow mirror, not a hung one
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
NO_INSTALL = "INV_NO_INSTALL"  # the variable against installing anything on the host; the launcher reads it too
LOCK_WAIT = 120  # seconds to wait for another package manager, such as an unattended upgrade


@dataclass(frozen=True)
class HostProgram:
    """One program: its command, its package per manager, and the groups of work that need it.

    `version` are the arguments that make it print its version; empty when it has none. `rootless` are those of the
    groups in which root does without.
    """

    command: str
    apt: str
    dnf: str
    why: str
    groups: frozenset[Group]
    version: tuple[str, ...] = ("--version",)
    rootless: frozenset[Group] = frozenset()


def _row(
    command: str, apt: str, dnf: str, groups: str, why: str, version: str = "--version", *, rootless: str = ""
) -> HostProgram:
    named, without_root = (frozenset(g for g in GROUPS if g in text.split()) for text in (groups, rootless))
    return HostProgram(command, apt, dnf, why, named, tuple(version.split()), without_root)


TABLE = (
    _row("git", "git", "git", "fetch", "identify source trees and patches"),
    _row("gpg", "gpg", "gnupg2", "fetch", "read the pinned signing keys"),
    _row("gpgv", "gpgv", "gnupg2", "fetch", "check OpenPGP signatures of archive indexes"),
    _row("rpmkeys", "rpm", "rpm", "fetch", "check signatures and digests of source RPMs"),
    # part of rpm on both: Debian's rpm depends on its rpm2cpio package; neither prints a version
    _row("rpm2archive", "rpm", "rpm", "fetch", "unpack source RPMs as tar", version=""),
    _row("rpm2cpio", "rpm", "rpm", "fetch", "unpack source RPMs as cpio", version=""),
    _row("patch", "patch", "patch", "fetch", "apply patches the way the spec file does"),
    _row("apt-get", "apt", "apt", "debian test", "read the signed Debian index and fetch its packages"),
    _row("dpkg", "dpkg", "dpkg", "debian test", "tell which of two Debian versions is newer"),
    _row("xz", "xz-utils", "xz", "fetch", "unpack xz archives"),
    _row("rpmbuild", "rpm", "rpm-build", "test", "make the small packages that tests read and refuse"),
    _row("rpmsign", "rpm", "rpm-sign", "build test", "sign packages"),
    _row(
        "gpg-agent", "gpg-agent", "gnupg2", "build test", "hold the keys that packages and repositories are signed with"
    ),
    _row("openssl", "openssl", "openssl", "build test", "sign kernel modules; verify statements", version="version"),
    _row("softhsm2-util", "softhsm2", "softhsm", "test", "keep a signing key on a token"),
    _row("pkcs11-tool", "opensc", "opensc", "test", "put a signing key on that token", version=""),
    _row("gnupg-pkcs11-scd", "gnupg-pkcs11-scd", "gnupg-pkcs11-scd", "test", "reach that token from gpg"),
    _row("cpio", "cpio", "cpio", "test", "read back the archives we write"),
    _row("rpmspec", "rpm", "rpm-build", "test", "read back the spec files we render"),
    _row(
        "busybox",
        *("busybox-static", "busybox"),
        "test",
        "run the role scripts under the shell of small systems",
        version="--help",  # it takes any other word for an applet
    ),
    _row("dash", "dash", "dash", "test", "run the role scripts under a plain POSIX shell", version=""),
    _row(
        "ip", "iproute2", "iproute", "test", "make the network namespaces that role scripts are tried in", version="-V"
    ),
    _row("unshare", "util-linux", "util-linux", "build test", "make namespaces"),
    _row("setpriv", "util-linux", "util-linux", "fetch build test", "end programs with us, build as another user"),
    _row("prlimit", "util-linux", "util-linux", "build test", "limit what a build may use"),
    _row("tar", "tar", "tar", "build test", "unpack builder images"),
    _row("mount", "mount", "util-linux", "test", "make small file systems to fill"),
    _row("ldd", "libc-bin", "glibc-common", "test", "find what a program needs, for small root file systems"),
    _row("nsenter", "util-linux", "util-linux", "test", "enter namespaces"),
    _row("rsync", "rsync", "rsync", "publish test", "copy published repositories"),
    _row("flock", "util-linux", "util-linux", "test", "lock in shell scripts"),
    _row("systemd-analyze", "systemd", "systemd", "test", "check the service and timer of every night"),
    _row("man", "man-db", "man-db", "test", "check the manual page"),
    _row("dnf", "dnf", "dnf", "test", "install from the repositories we make"),
    _row("fish", "fish", "fish", "test", "complete our command lines in it"),
    _row("zsh", "zsh", "zsh", "test", "complete our command lines in it"),
    _row("dockerd", "docker.io", "moby-engine", "test", "run builds in a real container engine"),
    _row("gcc", "gcc", "gcc", "test", "build the toy kernel"),
    _row("make", "make", "make", "test", "build the toy kernel"),
    _row("clang", "clang", "clang", "test", "compile BPF programs"),
    _row("objcopy", "binutils", "binutils", "test", "build the toy kernel"),
    _row("perl", "perl", "perl", "test", "build the toy kernel"),
    _row("musl-gcc", "musl-tools", "musl-gcc", "test", "build the toy's static programs"),
    _row("qemu-system-x86_64", "qemu-system-x86", "qemu-system-x86-core", "test lab", "boot kernels"),
    _row("node", "nodejs", "nodejs", "test", "verify statements with the verifiers of others"),
    _row("jq", "jq", "jq", "test", "read statements as docs/audit.md tells an auditor to"),
    _row("npm", "npm", "npm", "test", "install these verifiers"),
    _row("chromium", "chromium", "chromium", "test", "look at the lab's page as a person would"),
    _row("bwrap", "bubblewrap", "bubblewrap", "build test", "run builds without network and without a daemon"),
    _row(
        *("newuidmap", "uidmap", "shadow-utils"),
        "build test",
        "give a user's namespaces the ids that files of an image belong to",
        version="",
        rootless="build",
    ),
    _row("mmdebstrap", "mmdebstrap", "mmdebstrap", "build test", "make the root file systems of builder images"),
)


def wanted(groups: Collection[Group], user: int | None = None) -> list[HostProgram]:
    """Return the programs of any of `groups` that the user with this id, by default our own, needs, as in the table."""
    is_root = (os.geteuid() if user is None else user) == 0
    return [program for program in TABLE if (program.groups - (program.rootless if is_root else set())) & set(groups)]


def which(command: str, path: str | None = None) -> str | None:
    """Return the path of a program on the search path; on ours also where only root's has the directories of daemons.

    Debian gives a user no `sbin` directory.
    """
    return shutil.which(command, path=path) or (None if path is not None else shutil.which(command, path=_SBIN))


def missing(groups: Collection[Group], path: str | None = None) -> list[HostProgram]:
    """Return those of `wanted(groups)` that are not on the search path (default: this process's PATH)."""
    return [program for program in wanted(groups) if which(program.command, path) is None]


def package_manager(path: str | None = None) -> Manager | None:
    """Return the package manager of this host; None for any but apt and dnf."""
    if shutil.which("apt-get", path=path) and shutil.which("dpkg", path=path):
        return "apt"  # dpkg decides: apt-get alone is also a package of Fedora
    return "dnf" if shutil.which("dnf", path=path) else None


def install_command(lacking: Collection[HostProgram], manager: Manager) -> list[str]:
    """Return the command, for root, that installs the packages of the `lacking` programs."""
    packages = sorted({program.apt if manager == "apt" else program.dnf for program in lacking})
    options = {"apt": ["apt-get", "install", "-y", "--no-install-recommends"], "dnf": ["dnf", "install", "-y"]}
    return [*options[manager], *packages]


def may_install(path: str | None = None, user: int | None = None) -> list[str] | None:
    """Return the prefix that runs a command as root without a password; None when there is none.

    `user` is the user id that asks, by default the one we have.
    """
    if (os.geteuid() if user is None else user) == 0:
        return []
    sudo = shutil.which("sudo", path=path)
    if sudo is None:
        return None
    try:
        process.run([sudo, "-n", "true"], timeout=5)
    except PipelineError:
        return None
    return ["sudo", "-n"]


def advice(lacking: Collection[HostProgram], path: str | None = None) -> str:
    """Return the command that a person types to install the `lacking` programs."""
    manager = package_manager(path)
    if manager is None:
        return "install with this system's package manager: " + ", ".join(program.command for program in lacking)
    command = neutral.command(install_command(lacking, manager))
    if os.geteuid() == 0:
        return command
    return f"sudo {command}" if shutil.which("sudo", path=path) else f"su -c {shlex.quote(command)}"


@dataclass(frozen=True)
class Installer:
    """The package manager of this host. `path` is the PATH to search for programs, None for this process's."""

    console: Console
    path: str | None = None
    prefix: Sequence[str] | None = field(default_factory=may_install)

    def ensure(self, groups: Collection[Group]) -> None:
        """Install the missing programs of `groups`. Raises `HostLacks`, whose hint is the command to type."""
        lacking = missing(groups, self.path)
        if not lacking:
            return
        manager = package_manager(self.path)
        if os.environ.get(NO_INSTALL, "0") not in ("", "0"):
            raise _lack(lacking, f"{NO_INSTALL} forbids to install it", self.path)
        if manager is None or self.prefix is None:
            raise _lack(lacking, "this user may not install packages" if manager else "no apt or dnf here", self.path)
        for program in lacking:
            package = program.apt if manager == "apt" else program.dnf
            self.console.note(f"installing {package} for {program.command}: {program.why}")
        self._install(lacking, manager)
        if still := missing(groups, self.path):
            raise _lack(still, "their packages were installed, yet the programs are not on the path", self.path)

    def _install(self, lacking: Collection[HostProgram], manager: Manager) -> None:
        command = install_command(lacking, manager)
        try:
            if manager == "apt":
                # without the option apt-get says 0 when a mirror's name cannot even be looked up
                self._as_root(["apt-get", "update", "-o", "APT::Update::Error-Mode=any"], UPDATE_TIMEOUT)
                command[1:1] = ["-o", f"DPkg::Lock::Timeout={LOCK_WAIT}"]
            self._as_root(command, INSTALL_TIMEOUT)
        except process.ProgramFailed as error:
            raise _lack(lacking, error.what, self.path) from error

    def _as_root(self, command: Sequence[str], timeout: float) -> None:
        # env(1), because sudo hands no variable down
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
        environment = process.clean_environment(**({"PATH": self.path} if self.path is not None else {}))
        self.console.note(f"running: {neutral.command([*(self.prefix or ()), *command])}")
        process.run([*(self.prefix or ()), *quiet, *command], env=environment, timeout=timeout)


def ensure(groups: Collection[Group], console: Console) -> None:
    """Install the missing programs of `groups` where that needs no password. Raises `HostLacks` otherwise."""
    if missing(groups):
        Installer(console).ensure(groups)


def _lack(lacking: Collection[HostProgram], reason: str, path: str | None) -> HostLacks:
    names = ", ".join(program.command for program in lacking)
    purposes = "; ".join(f"{program.command}: {program.why}" for program in lacking)
    return HostLacks(f"the host lacks {names}: {reason}", why=purposes, hint=advice(lacking, path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the missing programs of the groups in `arguments`; return the exit code."""
    named = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    groups = [group for group in GROUPS if group in named]
    if not named or len(groups) < len(set(named)):
        console.note(f"usage: python -m pipeline.host.programs {{{','.join(GROUPS)}}}...")
        return ExitCode.USAGE
    try:
        ensure(groups, console)
    except PipelineError as error:
        console.fail(error)
        return error.code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
