"""Build ipvsadm and keepalived from the upstream tarballs that Debian ships.

Writes the spec files and the additional files to install, checks the summary of keepalived's configure, and proves the
packages by their content. Must not know the build environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import Refused
from pipeline.inspect import package_contents
from pipeline.packaging import rpmbuild
from pipeline.recipes import lvs_tools
from pipeline.recipes.lvs_tools import Content, Tool

UNITS = "/usr/lib/systemd/system"
# Required rows of the summary that keepalived's configure prints: label, value.
SUMMARY = (
    ("Use IPVS Framework", "Yes"),
    ("IPVS use libnl", "Yes"),
    ("IPVS 64 bit stats", "Yes"),
    ("HTTP_GET regex support", "No"),
    ("Use VRRP Framework", "Yes"),
    ("SNMP vrrp support", "No"),
    ("DBUS support", "No"),
    ("Use iptables", "No"),
    ("Use nftables", "No"),
    ("systemd notify", "No"),
)
# Explicit for every feature that configure would otherwise enable where the builder has it.
OPTIONS = (
    *("--enable-lvs", "--disable-dynamic-linking"),
    *("--disable-iptables", "--disable-nftables"),
    *("--disable-snmp", "--disable-dbus", "--disable-systemd"),
)
_CFLAGS = "-O2 -g0 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -ffile-prefix-map=/build=."
_LDFLAGS = "-Wl,-z,relro -Wl,-z,now -Wl,--build-id=sha1"

_CONTENT = {
    Tool.IPVSADM: Content(
        files=(
            *("/usr/sbin/ipvsadm-save", "/usr/sbin/ipvsadm-restore"),
            *(f"{UNITS}/ipvsadm.service", f"{UNITS}/ipvsadm-save.service", "/usr/share/man/man8/ipvsadm.8.gz"),
        ),
        config=("/etc/sysconfig/ipvsadm",),
        sources=("ipvsadm.service", "ipvsadm-save.service", "ipvsadm.sysconfig"),
        # The name of the kernel's netlink family is in it only when it was built with libnl.
        texts={"/usr/sbin/ipvsadm": (b"IPVS\0", b"virtual-service", b"masquerading", b"nl_send_auto")},
        libraries=("libc.so.6", "libnl-3.so.200", "libnl-genl-3.so.200", "libpopt.so.0"),
    ),
    Tool.KEEPALIVED: Content(
        files=(f"{UNITS}/keepalived.service", "/usr/bin/genhash", "/usr/share/man/man5/keepalived.conf.5.gz"),
        config=("/etc/keepalived/keepalived.conf", "/etc/sysconfig/keepalived"),
        sources=("keepalived.service", "keepalived.sysconfig", "keepalived.conf"),
        texts={
            "/usr/sbin/keepalived": (b"IPVS\0", b"virtual_server", b"lb_kind", b"HTTP_GET", b"vrrp_instance"),
        },
        libraries=(
            *("libc.so.6", "libcrypto.so.3", "libm.so.6", "libssl.so.3"),
            *("libnl-3.so.200", "libnl-genl-3.so.200"),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Parameters(lvs_tools.Parameters):
    """Everything that determines a tool's package.

    `tarball` is a file name in SOURCES, `tree` the directory in it. `options` go to keepalived's configure after all
    others. `patches` are the digests of the series' files by their names in SOURCES, in order; `program_contains` are
    texts that the programs hold because of them, by the programs' paths.
    """

    tarball: str
    tree: str
    options: tuple[str, ...] = ()
    patches: Mapping[str, str] = field(default_factory=dict)
    program_contains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        options = (option.lstrip("-") for option in self.options)
        lvs_tools.plain((self.tarball, self.tree, *options, *self.patches))


def rendered(parameters: Parameters) -> dict[str, str]:
    """Return the texts of the spec file and of additional installed files, by file name."""
    content = _CONTENT[parameters.tool]
    target = parameters.target
    spec = target.files.render(
        parameters.spec,
        line=target.line,
        version=parameters.version,
        release=parameters.release,
        guard=parameters.guard,
        tarball=parameters.tarball,
        tree=parameters.tree,
        sources=content.sources,
        patches=list(parameters.patches),
        epoch=parameters.epoch,
        cflags=_CFLAGS,
        ldflags=_LDFLAGS,
        options=(*OPTIONS, *parameters.options),
        summary=SUMMARY,
        changelog_date=rpmbuild.changelog_date(parameters.epoch),
    )
    return {parameters.spec: spec, **lvs_tools.installed(target.files, content.sources)}


def prepare(sources: Path, specs: Path, parameters: Parameters) -> list[Path]:
    """Write the spec file into `specs` and additional files into `sources`; return the paths.

    The tarball and the patches are the caller's to put into `sources`.
    """
    return lvs_tools.write(rendered(parameters), parameters.spec, sources, specs)


def explain(log: Path, parameters: Parameters) -> None:
    """Raise `BuildFailed` when a build's log shows that configure left out a required feature; else return."""
    if parameters.tool is Tool.KEEPALIVED:
        hint = "see 'checking for' in the log; the builder image needs the kernel's headers and libnl"
        lvs_tools.explain_summary(log, SUMMARY, hint)


@dataclass(frozen=True)
class Evidence:
    """A proven package: its libraries, and the newest version of the C library that it needs."""

    parameters: Parameters
    package: package_contents.PackageEvidence
    libraries: Sequence[str]
    glibc: str


def check(rpms: Path, parameters: Parameters) -> Evidence:
    """Prove the package below `rpms` by its content; return the evidence.

    Raises `Refused` for missing content, an unexpected library, and a C library newer than that of the target systems.
    """
    content = _CONTENT[parameters.tool]
    package = package_contents.require_packages(rpms, [parameters.nevra])[parameters.tool]
    found = package_contents.read_metadata(package.path)
    package_contents.require_files(package, (*content.files, *content.config, *content.texts))
    package_contents.require_config_files(package, found, content.config)
    lvs_tools.programs(package, content.texts, parameters.version.encode())
    patched = {path: tuple(text.encode() for text in texts) for path, texts in parameters.program_contains.items()}
    lvs_tools.programs(package, patched)
    libraries = lvs_tools.libraries(package, found, content.libraries)
    if "libc.so.6" not in libraries:
        raise Refused(f"{package.path.name} does not say which C library it needs", where=str(package.path))
    glibc = lvs_tools.glibc(package, found, parameters.target.build.glibc)
    return Evidence(parameters, package_contents.evidence(package, found), libraries, glibc)
