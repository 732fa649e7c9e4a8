"""Build the packages lvs-fnat-director and lvs-fnat-realserver, which configure a machine's role.

Their settings stand in one table here, from which come the configuration file, its parser in the shell
script, and the words of its messages. Must not know the build environment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config.line_model import Init, RoleName
from pipeline.core import fs, templates
from pipeline.errors import Refused, UsageError
from pipeline.inspect import package_contents
from pipeline.packaging import rpmbuild
from pipeline.recipes.spec_files import BuildTarget

VERSION = "1.0"
SPEC = "roles.spec"
ROLES = (RoleName.DIRECTOR, RoleName.REALSERVER)
DIRECTORY = "specs/common/roles"
LIBEXEC = "/usr/libexec/lvs-fnat"
MODES = ("fullnat", "nat", "dr", "tun")
_TAG = re.compile(r"(\.[A-Za-z0-9_]+)*")


@dataclass(frozen=True)
class Setting:
    """One setting of a role: `kind` is the name of the script's check, `limits` its further arguments."""

    name: str
    kind: str
    text: str
    default: str = ""
    limits: tuple[str, ...] = ()
    example: str = ""


_MODES_TEXT = {
    RoleName.DIRECTOR: "How connections are forwarded: one or more of fullnat, nat, dr and tun.",
    RoleName.REALSERVER: "How connections come here: one or more of fullnat, nat, dr and tun.",
}
_DIRECTOR = (
    Setting(
        "VIP",
        "addresses",
        "Virtual addresses to add to VIP_DEVICE, each as a /32. Leave it empty where keepalived\n"
        "holds them: VRRP must be able to move them.",
        example="192.168.192.10",
    ),
    Setting("VIP_DEVICE", "device", "The network device of VIP.", example="eth0"),
    Setting(
        "LOCAL_ADDRESS",
        "addresses",
        "Mode fullnat: local addresses to add to LOCAL_DEVICE, each as a /32. Real servers see\n"
        "connections come from them; keepalived's local_address_group or ipvsadm names them too.",
        example="192.168.1.1",
    ),
    Setting("LOCAL_DEVICE", "device", "The network device of LOCAL_ADDRESS.", example="eth1"),
    Setting(
        "IP_FORWARD",
        "choice",
        "Whether the machine forwards packets (net.ipv4.ip_forward): auto does for the mode nat,\n"
        "which needs it; yes always; keep leaves it alone.",
        "auto",
        ("auto", "yes", "keep"),
    ),
    Setting(
        "RP_FILTER",
        "choice",
        "loose: packets may come in by another device than answers leave by (net.ipv4.conf.all.rp_filter\n"
        "at least 2), as where several routers lead to clients or servers; keep leaves it alone.",
        "keep",
        ("keep", "loose"),
    ),
    Setting(
        "IPVS_TAB_BITS",
        "number",
        "IPVS' table of connections has 2 to the power of this many entries (module option\n"
        "conn_tab_bits, read when the module is loaded). Empty: as the kernel was built.",
        limits=("8", "22"),
        example="20",
    ),
)
_REALSERVER = (
    Setting("VIP", "addresses", "Modes dr and tun: the director's virtual addresses.", example="172.16.16.172"),
    Setting(
        "DR_RECEIVE",
        "choice",
        "Mode dr: how packets to VIP are taken. lo: VIP as /32 on lo, silent towards ARP. redirect: one rule\n"
        "of iptables per VIP and port gives them to the server here, and the machine never has VIP.",
        "lo",
        ("lo", "redirect"),
    ),
    Setting("REDIRECT_PORTS", "ports", "DR_RECEIVE=redirect: the ports served.", example="tcp/80 tcp/443"),
    Setting(
        "TOA",
        "choice",
        "Mode fullnat: reading TOA, by which servers see clients' addresses. auto begins it where the\n"
        "machine can and says so where not; require fails then; no leaves it alone.",
        "auto",
        ("auto", "require", "no"),
    ),
    Setting(
        "GATEWAY",
        "address",
        "Mode nat: the director's inner address. The default route must lead to it, which is checked at\n"
        "start and by status, never changed. Empty: not checked.",
        example="192.168.100.10",
    ),
)
SETTINGS = {
    role: (Setting("MODES", "words", _MODES_TEXT[role], limits=MODES, example=example), *rows)
    for role, example, rows in ((ROLES[0], "nat", _DIRECTOR), (ROLES[1], "dr", _REALSERVER))
}
_TITLES = {RoleName.DIRECTOR: "a director", RoleName.REALSERVER: "a real server"}
_DESCRIPTIONS = {
    RoleName.DIRECTOR: "Makes this machine a director of a Linux virtual server: loads IPVS, sets what "
    "forwarding by NAT, DR, TUN or FULLNAT needs, adds addresses, and takes all of it back when stopped.",
    RoleName.REALSERVER: "Makes this machine a real server of a Linux virtual server: takes packets to "
    "the virtual address in DR and TUN, has TOA read behind FULLNAT, and takes it back when stopped.",
}


@dataclass(frozen=True)
class Paths:
    """Installed paths of a role's files."""

    conf: str
    state: str
    script: str
    doc: str
    subsys: str  # what SysV init looks at to know whether a service runs; empty without it
    proc: str = "/proc"


@dataclass(frozen=True)
class _Server:
    address: str
    port: int
    weight: int


@dataclass(frozen=True)
class _Example:
    """An example of keepalived.conf, with the addresses of the guides."""

    kind: str
    title: str
    topology: str
    vip: str
    device: str
    servers: tuple[_Server, ...]
    scheduler: str = "wrr"
    port: int = 80
    more: Mapping[str, object] = field(default_factory=dict)


_EXAMPLES = {
    "fullnat": _Example(
        "FNAT",
        "FULLNAT",
        "client 192.168.192.1; VIP 192.168.192.10:80 on eth0; local address 192.168.1.1 on eth1;\n"
        "real servers 192.168.1.10 and .11, port 8080, need no route to the client.\n"
        "ipvsadm -Ln must show FullNat.",
        "192.168.192.10",
        "eth0",
        (_Server("192.168.1.10", 8080, 2), _Server("192.168.1.11", 8080, 1)),
        more={"local": "192.168.1.1"},
    ),
    "nat": _Example(
        "NAT",
        "NAT",
        "VIP 192.168.0.10:80 on eth0; 192.168.100.10 on eth1 is the default gateway of the\n"
        "real servers 192.168.100.7 and .9, and moves with the VIP.",
        "192.168.0.10",
        "eth0",
        (_Server("192.168.100.7", 80, 1), _Server("192.168.100.9", 80, 1)),
        "rr",
        more={"inner": {"address": "192.168.100.10", "device": "eth1"}},
    ),
    "dr": _Example(
        "DR",
        "DR, direct routing",
        "VIP 172.16.16.172:80 on eth0, and on lo of the real servers 172.16.16.177 and .178, which\n"
        "keep silent about it (lvs-fnat-realserver, MODES=dr). Ports cannot be mapped.",
        "172.16.16.172",
        "eth0",
        (_Server("172.16.16.177", 80, 1), _Server("172.16.16.178", 80, 1)),
        "wlc",
    ),
    "tun": _Example(
        "TUN",
        "TUN, tunnels",
        "VIP 172.16.16.172:80 on eth0, and on tunl0 of the real servers 172.16.16.177 and .178\n"
        "(lvs-fnat-realserver, MODES=tun), which may be in other networks. Ports cannot be mapped.",
        "172.16.16.172",
        "eth0",
        (_Server("172.16.16.177", 80, 1), _Server("172.16.16.178", 80, 1)),
        "wlc",
    ),
}


@dataclass(frozen=True)
class Parameters:
    """Everything that determines the role packages of one line.

    `line` is its name, `dist` ends the release. `fullnat` is whether the line's keepalived knows FULLNAT's words,
    `modern` whether it is 2.x. `packages` are those that make a role of the stock kernel; of the roles in `beside` they
    are what FULLNAT or TOA comes from: IPVS modules of the director, lvs-toa of the real server.
    `guard` is RPM's Epoch, 0 for none; `epoch` is SOURCE_DATE_EPOCH in seconds.
    """

    line: str
    dist: str
    init: Init
    epoch: int
    run: str = "/run"
    fullnat: bool = False
    modern: bool = True
    requires: tuple[str, ...] = ()
    packages: Mapping[RoleName, tuple[str, ...]] = field(default_factory=dict)
    beside: tuple[RoleName, ...] = ()
    number: int = 1
    guard: int = 0
    tag: str = ""

    def __post_init__(self) -> None:
        if not _TAG.fullmatch(self.tag) or not _TAG.fullmatch(self.dist):
            raise UsageError(f"{self.tag}{self.dist} cannot stand in a package's release")
        if self.number < 1 or self.guard < 0:
            raise UsageError("a release counts from 1, an Epoch from 0", why=f"{self.number}, {self.guard}")

    @property
    def release(self) -> str:
        """RPM's release. Letters are older than digits: see the comment in the spec file."""
        return f"fnat.{self.number}{self.tag}{self.dist}"

    @property
    def nevras(self) -> dict[str, str]:
        """The packages by name."""
        version = f"{f'{self.guard}:' if self.guard else ''}{VERSION}-{self.release}"
        return {package_name(role): f"{package_name(role)}-{version}.noarch" for role in ROLES}

    @property
    def examples(self) -> tuple[str, ...]:
        """The modes with an example of keepalived.conf."""
        return tuple(mode for mode in MODES if self.fullnat or mode != "fullnat")

    def paths(self, role: RoleName) -> Paths:
        """Return the installed paths of the role's files."""
        name = package_name(role)
        return Paths(
            conf=f"/etc/lvs-fnat/{role}.conf",
            state=f"{self.run}/lvs-fnat/{role}.state",
            script=f"{LIBEXEC}/{name}",
            doc=f"/usr/share/doc/{name}",
            subsys=f"/var/lock/subsys/{name}" if self.init is Init.SYSV else "",
        )

    def to_json(self) -> dict[str, object]:
        """Return the parameters for keys of steps and for evidence."""
        return {**vars(self), "version": VERSION, "release": self.release}


@dataclass(frozen=True)
class File:
    """A file of a package: `source` is its name in SOURCES, `flag` its attribute in the spec's %files."""

    role: RoleName
    source: str
    path: str
    mode: int
    text: str
    flag: str = ""


# What an init system brings with it: where the state of running services is, and the programs that scripts call.
_RUN = {Init.SYSV: "/var/run", Init.SYSTEMD: "/run"}  # with SysV init there is no /run; emptied at boot all the same
_REQUIRES = {
    Init.SYSV: ("coreutils", "iproute", "module-init-tools"),
    Init.SYSTEMD: ("coreutils", "iproute", "kmod"),
}


def of_target(target: BuildTarget, *, epoch: int, **more: Any) -> Parameters:
    """Return the parameters of the packages of one line; `more` as `Parameters` has them."""
    init = target.build.init
    given = {"line": target.line, "dist": target.build.dist, "init": init, "run": _RUN[init]}
    return Parameters(**{**given, "requires": _REQUIRES[init], "epoch": epoch, **more})


def package_name(role: RoleName) -> str:
    """Return the name of a role's package, service and script."""
    return f"lvs-fnat-{role}"


def script(role: RoleName, where: Paths, packages: Sequence[str] = ()) -> str:
    """Return a role's script, which does all work for SysV init and systemd.

    `packages` are those beside the stock kernel that FULLNAT or TOA comes from; without them it is the role's kernel.
    """
    return _render("role.sh", role, where, packages=packages)


def configuration(role: RoleName, where: Paths) -> str:
    """Return a role's configuration file as installed: everything explained, nothing enabled."""
    return _render("role.conf", role, where)


def example(mode: str, parameters: Parameters) -> str:
    """Return an example of keepalived.conf for a mode, in the keywords of the line's keepalived."""
    shown = _EXAMPLES[mode]
    return templates.render(
        f"{DIRECTORY}/keepalived.conf.j2",
        mode=mode,
        modern=parameters.modern,
        keepalived="keepalived 2.2" if parameters.modern else "keepalived 1.2.2 with FULLNAT",
        package=package_name(RoleName.DIRECTOR),
        **{name: getattr(shown, name) for name in ("kind", "title", "topology", "vip", "device", "port")},
        **{"scheduler": shown.scheduler, "servers": shown.servers, **shown.more},
    )


def _render(name: str, role: RoleName, where: Paths, **more: Any) -> str:
    return templates.render(
        f"{DIRECTORY}/{name}.j2",
        role=str(role),
        package=package_name(role),
        title=_TITLES[role],
        description=_DESCRIPTIONS[role],
        paths=where,
        settings=SETTINGS[role],
        **more,
    )


def installed(parameters: Parameters) -> list[File]:
    """Return every file of the packages, in the order of the spec file."""
    found: list[File] = []
    for role in ROLES:
        where, name = parameters.paths(role), package_name(role)
        start = (
            File(role, f"{name}.init", f"/etc/rc.d/init.d/{name}", 0o755, _render("init.sh", role, where))
            if parameters.init is Init.SYSV
            else File(role, f"{name}.service", f"/usr/lib/systemd/system/{name}.service", 0o644, _unit(role, where))
        )
        packages = parameters.packages.get(role, ()) if role in parameters.beside else ()
        readme = _render("README", role, where, init=str(parameters.init), packages=packages)
        found += [
            File(role, f"{name}.sh", where.script, 0o755, script(role, where, packages)),
            start,
            File(role, f"{role}.conf", where.conf, 0o644, configuration(role, where), "%config(noreplace) "),
            File(role, f"{name}.README", f"{where.doc}/README", 0o644, readme, "%doc "),
        ]
    directory = PurePosixPath(parameters.paths(RoleName.DIRECTOR).doc) / "examples"
    for mode in parameters.examples:
        name = f"keepalived-{mode}.conf"
        text = example(mode, parameters)
        found.append(File(RoleName.DIRECTOR, name, str(directory / name), 0o644, text, "%doc "))
    return found


def _unit(role: RoleName, where: Paths) -> str:
    return _render("role.service", role, where)


def rendered(parameters: Parameters) -> dict[str, str]:
    """Return the texts of the spec file and of every installed file by file name, for a step's key."""
    shown = installed(parameters)
    roles = [
        {
            "name": str(role),
            "title": _TITLES[role],
            "description": _DESCRIPTIONS[role],
            "paths": parameters.paths(role),
            "requires": _requires(role, parameters),
        }
        for role in ROLES
    ]
    spec = templates.render(
        "specs/common/roles.spec.j2",
        line=parameters.line,
        init=str(parameters.init),
        version=VERSION,
        release=parameters.release,
        guard=parameters.guard,
        libexec=LIBEXEC,
        roles=roles,
        sources=[file.source for file in shown],
        files=[replace(file, text="") for file in shown],
        changelog_date=rpmbuild.changelog_date(parameters.epoch),
    )
    return {SPEC: spec, **{file.source: file.text for file in shown}}


def _requires(role: RoleName, parameters: Parameters) -> tuple[str, ...]:
    # A director is nothing without a way to look at its table; who fills it, keepalived or a person, is open.
    own = ("ipvsadm",) if role is RoleName.DIRECTOR else ()
    return (*parameters.requires, *own, *parameters.packages.get(role, ()))


def prepare(sources: Path, specs: Path, parameters: Parameters) -> list[Path]:
    """Write the spec file into `specs` and every installed file into `sources`; return the paths."""
    written = []
    for name, text in rendered(parameters).items():
        path = (specs if name == SPEC else sources) / name
        fs.write_atomic(path, text)
        written.append(path)
    return written


@dataclass(frozen=True)
class Evidence:
    """The proven packages by name."""

    parameters: Parameters
    packages: Mapping[str, package_contents.PackageEvidence]


def check(rpms: Path, parameters: Parameters) -> Evidence:
    """Prove the packages below `rpms` by their content, file by file; return the evidence.

    Raises `Refused` when a file differs from what was rendered or something more is required.
    """
    packages = package_contents.require_packages(rpms, parameters.nevras.values())
    evidence = {}
    for role in ROLES:
        package = packages[package_name(role)]
        found = package_contents.read_metadata(package.path)
        wanted = [file for file in installed(parameters) if file.role is role]
        package_contents.require_files(package, [file.path for file in wanted])
        package_contents.require_config_files(package, found, [parameters.paths(role).conf])
        for file in wanted:
            _check_file(package, file, found)
        _check_requires(package, found, _requires(role, parameters), parameters)
        evidence[package.name] = package_contents.evidence(package, found)
    return Evidence(parameters, evidence)


def _check_file(package: rpmbuild.Package, file: File, found: package_contents.PackageMetadata) -> None:
    if package.files[file.path] != hashlib.sha256(file.text.encode()).hexdigest():
        raise Refused(f"{file.path} in {package.path.name} is not what was rendered", where=str(package.path))
    if found.modes[file.path] != file.mode:
        what = f"{file.path} in {package.path.name} has the mode {found.modes[file.path]:04o}, not {file.mode:04o}"
        raise Refused(what, where=str(package.path))


def _check_requires(
    package: rpmbuild.Package, found: package_contents.PackageMetadata, wanted: tuple[str, ...], parameters: Parameters
) -> None:
    own = {"/bin/sh", *(("chkconfig", "initscripts") if parameters.init is Init.SYSV else ())}
    needed = {name for name in found.requires if not name.startswith(f"config({package.name}) = ")}
    if needed != {*wanted, *own}:
        why = f"required: {', '.join(sorted(needed))}; meant: {', '.join(sorted({*wanted, *own}))}"
        raise Refused(f"{package.path.name} requires something else than it is meant to", why=why)
