"""Installing what the build command published: dnf, the real scriptlets, dracut and kernel-install, and going back.

The installation root has Debian's dracut, kmod and systemd. rpm does not know Debian's packages, so a package of the
test's own stands for them and for what else a distribution has: dnf resolves ours, scriptlets call real programs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.console import Console
from pipeline.core.locks import locked
from pipeline.core.process import Result
from pipeline.formats import rpm_header
from pipeline.publish import repodata
from pipeline.sandbox.images import DebianRecipe, debian_image
from pipeline.sources import apt
from tests.e2e.test_build_all import CACHE, LOCK, Built, built
from tests.fixtures.rpms import WHEN, Dnf, rpm

__all__ = ["built"]  # a fixture

pytestmark = pytest.mark.timeout(600, func_only=True)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MACHINE_ID = "0123456789abcdef0123456789abcdef"
# A distribution's: a higher release, and a higher version.
THEIRS = {"ipvsadm": ("1.31", "6.el9"), "keepalived": ("2.2.8", "4.el9")}
SCRIPTLETS_CALL = ("dracut", "kmod", "/usr/bin/kernel-install")
BROKEN = "#!/bin/sh\necho no space left >&2\nexit 1\n"
# dracut's part of kernel-install, which Debian leaves out of its package: add KERNEL DIRECTORY IMAGE.
PLUGIN = '#!/bin/sh\n[ "$1" != add ] || exec dracut --force --kver "$2" "$3/initrd"\n'


class Machine(Dnf):
    """An installation root whose boot loader reads entries below /boot, and a distribution's repository."""

    patience = 300.0

    def __init__(
        self, place: Path, files: Path, published: Built, role: str, provided: tuple[str, ...] = SCRIPTLETS_CALL
    ) -> None:
        super().__init__(place)
        shutil.copytree(files, self.root, symlinks=True)
        (self.root / "etc/machine-id").write_text(f"{MACHINE_ID}\n")
        (self.root / "boot" / MACHINE_ID).mkdir(parents=True)
        plugin = self.root / "etc/kernel/install.d/50-dracut.install"
        plugin.write_text(PLUGIN)
        plugin.chmod(0o755)
        self.ours = published.latest
        headers = [rpm_header.read(path) for path in (self.ours / role).glob("*.rpm")]
        (self.kernel,) = (header for header in headers if header.name == "kernel")
        self.uname = self.kernel.nvra.removeprefix("kernel-")
        required = {text for header in headers for text in header.dependencies("REQUIRE")}
        have = {text.split()[0] for header in headers for text in header.dependencies("PROVIDE")}
        stood_for = {text for text in required if text.split()[0] not in (*have, *SCRIPTLETS_CALL)}
        lines = (f"Provides: {text}" for text in sorted({*stood_for, *provided}) if not text.startswith("rpmlib("))
        base = place / "base"
        base.mkdir()
        theirs = (rpm(name, version=version, release=release) for name, (version, release) in THEIRS.items())
        for file in (rpm("distribution", *lines), *theirs):
            shutil.copy(file, base)
        repodata.create(base, WHEN, databases=False)
        self.add(f"[base]\nname=base\nbaseurl=file://{base}\ngpgcheck=0\n", "base")
        (repo,) = self.ours.glob(f"*-{role}.repo")
        line, listed = self.ours.parents[1], place / "mirrorlist"
        address, here = f"http://repository.example/repo/{line.name}", f"file://{line}"
        listed.write_text((line / f"mirrorlist-{role}").read_text().replace(address, here))
        text = repo.read_text().replace(f"{address}/mirrorlist-{role}", f"file://{listed}")
        self.add(text.replace(address, here))

    def inside(self, *argv: str) -> Result:
        """As on a running system, dracut finds /dev and /proc in its root."""
        mount = 'for name in dev proc; do mount --rbind "/$name" "$0/$name"; done; exec "$@"'
        return super().inside("sh", "-ec", mount, str(self.root), *argv)

    def typed(self, command: str) -> Result:
        """What a person types in a shell of the machine."""
        return self.inside("chroot", str(self.root), "sh", "-c", command)

    def version(self, name: str) -> str:
        return self.typed(f"rpm -q --qf '%{{EPOCH}}:%{{VERSION}}-%{{RELEASE}}' {name}").text

    def module(self, name: str) -> str:
        """The file that modprobe loads, below the kernel's modules."""
        path = self.typed(f"modinfo -k {self.uname} -F filename {name}").text.strip()
        return path.removeprefix(f"/lib/modules/{self.uname}/")

    def required_version(self, place: str, scheduler: str) -> str:
        """The version of the symbol that registers a scheduler: one whose version ip_vs does not have is not loaded."""
        module = f"/lib/modules/{self.uname}/{place}/{scheduler}.ko"
        rows = self.typed(f"modprobe --dump-modversions {module}").text.splitlines()
        (version,) = (row.split()[0] for row in rows if row.split()[1] == "register_ip_vs_scheduler")
        return version

    def boot_files(self) -> list[str]:
        """Every file that belongs to the kernel, in /boot."""
        boot = self.root / "boot"
        return sorted(str(path.relative_to(boot)) for path in boot.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def files() -> Path:
    """The files of a system that can make boot files."""
    packages = ["dracut", "kmod", "rpm", "systemd", "udev"]
    recipe = DebianRecipe("bootable", packages, apt.archive_addresses(("bookworm",), "", ()), KEYRING.read_bytes())
    return debian_image(recipe, CACHE / "images", Console(quiet=True), offline=False).rootfs


@pytest.fixture
def published(built: Built) -> Iterator[Built]:
    with locked(LOCK, shared=True):
        yield built


@pytest.fixture
def machine(tmp_path: Path, files: Path, published: Built) -> Machine:
    return Machine(tmp_path / "machine", files, published, "director")


def test_a_director_is_installed_up_to_its_boot_files_and_taken_back(machine: Machine) -> None:
    installed = machine("install", "kernel", "lvs-fnat-director", "keepalived")
    assert installed.status == 0, installed.text + installed.error_text
    assert "scriptlet failed" not in installed.text + installed.error_text
    uname = machine.uname
    entry = f"loader/entries/{MACHINE_ID}-{uname}.conf"
    expected = {f"vmlinuz-{uname}", f"{MACHINE_ID}/{uname}/linux", entry}
    assert expected <= set(machine.boot_files()), installed.text + installed.error_text
    text = (machine.root / "boot" / entry).read_text()
    assert f"/{MACHINE_ID}/{uname}/initrd" in text
    listed = machine.typed(f"lsinitrd /boot/{MACHINE_ID}/{uname}/initrd").text
    assert f"lib/modules/{uname}/modules.dep" in listed
    assert machine.version("ipvsadm") == "1:1.31-fnat.2.lts61"
    assert (machine.module("ip_vs"), machine.module("ip_vs_rr")) == ("updates/ip_vs.ko", "updates/ip_vs_rr.ko")
    magic = machine.typed(f"modinfo -k {machine.uname} -F vermagic ip_vs").text.split()
    assert "modversions" in magic
    stock, ours = (machine.required_version(place, "ip_vs_rr") for place in ("kernel/net/netfilter/ipvs", "updates"))
    assert stock != ours, "else the kernel's own scheduler would be loaded beside our ip_vs, and corrupt memory"
    # The distribution's have a higher release and a higher version, and stay out.
    upgraded = machine("upgrade")
    assert upgraded.status == 0 and machine.version("keepalived").startswith("1:")
    # Back, as docs/installing.md has it.
    (machine.place / "repos/ours.repo").unlink()
    back = machine("distro-sync", "ipvsadm", "keepalived")
    assert back.status == 0, back.text + back.error_text
    for name, (version, release) in THEIRS.items():
        assert machine.version(name) == f"(none):{version}-{release}"
    removed = machine("remove", "kmod-lvs-fullnat")
    assert removed.status == 0, removed.text + removed.error_text
    assert machine.module("ip_vs") == "kernel/net/netfilter/ipvs/ip_vs.ko", "the stock one again"
    removed = machine("remove", machine.kernel.nvra)
    assert removed.status == 0, removed.text + removed.error_text
    assert machine.boot_files() == []


def test_a_real_server_is_installed_with_what_reads_toa(tmp_path: Path, files: Path, published: Built) -> None:
    machine = Machine(tmp_path / "machine", files, published, "realserver")
    installed = machine("install", "lvs-fnat-realserver")
    assert installed.status == 0, installed.text + installed.error_text
    assert machine.typed("lvs-toa check").text.splitlines()[0].split() == ["options", "200"]
    assert not machine.boot_files(), "it needs no kernel of ours"


def test_a_kernel_that_gets_no_boot_files_says_so_and_the_next_command_makes_them(machine: Machine) -> None:
    dracut = machine.root / "usr/bin/dracut"
    kept = dracut.with_name("dracut.kept")
    dracut.rename(kept)
    dracut.write_text(BROKEN)
    dracut.chmod(0o755)
    installed = machine("install", "kernel")
    said = installed.text + installed.error_text
    assert f"error: kernel {machine.uname} is installed and cannot be booted" in said
    assert "scriptlet failed, exit status 1" in said or "Error in POSTTRANS scriptlet" in said
    (command,) = {line.split("next: ", 1)[1] for line in said.splitlines() if "next: " in line}
    kept.rename(dracut)
    typed = machine.typed(command)
    assert typed.status == 0, typed.text + typed.error_text
    assert f"loader/entries/{MACHINE_ID}-{machine.uname}.conf" in machine.boot_files()


@pytest.mark.parametrize("lacking", SCRIPTLETS_CALL)
def test_a_system_without_what_the_scriptlets_call_is_refused(
    tmp_path: Path, files: Path, published: Built, lacking: str
) -> None:
    there = tuple(name for name in SCRIPTLETS_CALL if name != lacking)
    refused = Machine(tmp_path / "machine", files, published, "stock", there)("install", "kernel")
    assert refused.status != 0
    assert f"nothing provides {lacking} needed by kernel" in refused.text + refused.error_text
