"""Build a current kernel as RPMs from the upstream tarball that Debian ships.

It writes the spec file and the configuration that a build starts from, and proves the packages that
came of it by what is in them. Who runs the build in between, and where, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.line_model import Line, RoleName
from pipeline.core import fs, templates
from pipeline.core.suggestion import unknown
from pipeline.errors import Refused, UsageError
from pipeline.formats import kconfig
from pipeline.inspect import kernel_files, package_contents
from pipeline.packaging import log_errors, outputs, rpmbuild
from pipeline.recipes import spec_files
from pipeline.recipes.spec_files import BuildTarget

SPEC, CONFIG = "kernel.spec", "kernel.config"
COMPARER = "asked.awk"
ARCH = "x86_64"
PACKAGES = ("kernel", "kernel-devel", "kernel-headers")
_KCONFIG = outputs.OutputLimits(file=1 << 20, total=64 << 20, count=5000)  # Linux 6.1 has 1700 such files, 5 MiB in all
_UNAME_MOST = 64  # bytes: __NEW_UTS_LEN, include/uapi/linux/utsname.h
_RELEASE_OF_RPM = re.compile(r"[A-Za-z0-9._+~^]+")  # no '-', which ends a version: rpm, "Package name format"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.+~-]*")  # what may stand in a spec file and a shell's line as it is
_SUMMARIES = {
    RoleName.DIRECTOR: "with LVS-FULLNAT for directors",
    RoleName.REALSERVER: "with TOA for real servers",
    RoleName.STOCK: "unpatched",
}
# Without these in kernel-devel no module can be built.
_DEVEL = (
    *("Makefile", ".config", "Module.symvers", "scripts/module.lds", "scripts/mod/modpost", "tools/objtool/objtool"),
    *("include/generated/autoconf.h", "include/config/auto.conf", "arch/x86/Makefile", "include/linux/module.h"),
)


@dataclass(frozen=True)
class Parameters:
    """Everything that determines one kernel of a line.

    `patches` are file names in SOURCES, in order; `tarball` another, and `tree` the directory in
    it. `options` are laid over the role's configuration; `small`: that is the small one. `tag` is empty for the
    project's own line and otherwise part of every release. `epoch` is SOURCE_DATE_EPOCH in seconds.
    """

    target: BuildTarget
    role: RoleName
    version: str
    tarball: str
    tree: str
    epoch: int
    number: int = 1
    buildid: str = ""
    tag: str = ""
    small: bool = False
    patches: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.tarball, self.tree, *self.patches):
            if not _PLAIN_NAME.fullmatch(name):
                raise UsageError(f"{name!r} cannot be named in a spec file", why="letters, digits and ._+~- only")
        if not self.target.build.takes(self.version):
            series = self.target.build.kernel_series
            raise UsageError(f"the line {self.target.line}: not its kernel; expected {series}, got {self.version}")
        if not _RELEASE_OF_RPM.fullmatch(self.release) or len(self.uname) > _UNAME_MOST:
            why = f"at most {_UNAME_MOST} characters in all, none of them '-' or a blank behind the version"
            raise UsageError(f"{self.uname!r} cannot be a kernel's release", why=why, hint="a shorter name of the line")

    @property
    def release(self) -> str:
        """RPM's release: number, buildid of the role, tag of an override, dist; marked when small."""
        return f"{self.number}{self.buildid}{self.tag}{self.target.build.dist}{'.small' if self.small else ''}"

    @property
    def uname(self) -> str:
        """The output of `uname -r`, as of Red Hat's kernels."""
        return f"{self.version}-{self.release}.{ARCH}"

    @property
    def nevras(self) -> dict[str, str]:
        """The packages by name."""
        return {name: f"{name}-{self.uname}" for name in PACKAGES}

    def to_json(self) -> dict[str, object]:
        """Return the parameters for keys of steps and for evidence."""
        own = {name: value for name, value in vars(self).items() if name != "target"}
        return {**own, "release": self.release, "uname": self.uname}


def of_line(
    line: Line,
    role: RoleName,
    *,
    version: str,
    tarball: str,
    tree: str,
    patches: Sequence[str],
    epoch: int,
    small: bool = False,
) -> Parameters:
    """Return the parameters of one role of a line: buildid, options and the mark of an override.

    `patches` are the file names of the role's series, in its order. Raises `UsageError` for a role
    the line has not, and when the number of patches is not that of the series.
    """
    data = line.data.roles.get(role)
    if data is None:
        raise unknown(f"role of the line {line.name}", role, line.data.roles, hint="./inv lines")
    if len(patches) != len(data.series):
        why = f"the series: {', '.join(data.series) or 'empty'}; given: {', '.join(patches) or 'none'}"
        raise UsageError(f"other patches than the series of {role} has", why=why)
    return Parameters(
        target=spec_files.target(line),
        role=role,
        version=version,
        tarball=tarball,
        tree=tree,
        epoch=epoch,
        buildid=data.buildid,
        tag=line.release_tag,
        small=small,
        patches=tuple(patches),
        options=dict(data.config),
    )


def requested(parameters: Parameters) -> dict[str, kconfig.RequestedSymbol]:
    """Return the requested configuration: base, role, the role's options in the line file, and the release."""
    suffix = f"-{parameters.release}.{ARCH}"
    files = parameters.target.files
    names = [f"config/{part}.config" for part in ("small" if parameters.small else "base", parameters.role)]
    return kconfig.merged(
        *(kconfig.parse(files.text(name), str(files.path(name))) for name in names),
        kconfig.options(parameters.options, f"the role {parameters.role} of the line file"),
        kconfig.options({"CONFIG_LOCALVERSION": f'"{suffix}"'}, "the release"),
    )


def rendered(parameters: Parameters) -> dict[str, str]:
    """Return the texts of the spec file and the configuration by file name, for a step's key."""
    spec = parameters.target.files.render(
        SPEC,
        role=str(parameters.role),
        version=parameters.version,
        release=parameters.release,
        uname=parameters.uname,
        summary=_SUMMARIES[parameters.role],
        tarball=parameters.tarball,
        tree=parameters.tree,
        config=CONFIG,
        comparer=COMPARER,
        patches=parameters.patches,
        changelog_date=rpmbuild.changelog_date(parameters.epoch),
    )
    comparer = templates.source(f"specs/common/{COMPARER}")
    return {SPEC: spec, CONFIG: kconfig.text(requested(parameters)), COMPARER: comparer}


def prepare(sources: Path, specs: Path, parameters: Parameters) -> list[Path]:
    """Write the spec file into `specs`, the configuration and its check into `sources`; return the paths.

    The tarball and the patches are the caller's to put into `sources`.
    """
    texts = rendered(parameters)
    written = [specs / SPEC, sources / CONFIG, sources / COMPARER]
    for path in written:
        fs.write_atomic(path, texts[path.name])
    return written


def explain(log: Path, parameters: Parameters, top: Path | None = None) -> None:
    """Raise `BuildFailed` with every dropped symbol that a build's log reports; else return.

    `top` is the build's top directory as the host sees it: with the tree there, dependencies are told too.
    """
    found = kconfig.from_log(log_errors.lines(log), requested(parameters))
    if found:
        tree = outputs.texts(top, f"BUILD/{parameters.tree}", "Kconfig", _KCONFIG) if top is not None else ()
        raise kconfig.failure(found, str(log), list(tree))


@dataclass(frozen=True)
class Toa:
    """The requested value of CONFIG_TOA, and the modules of that name in the package."""

    option: str
    modules: Sequence[str]


@dataclass(frozen=True)
class RoleContents:
    """The content of a kernel's package by which its role is known; `modules` is their number."""

    name: RoleName
    patches: tuple[str, ...]
    toa: Toa
    modules: int
    ipvs: Sequence[str]


@dataclass(frozen=True)
class Evidence:
    """A kernel's proven packages, and the content of the kernel's own."""

    parameters: Parameters
    packages: Mapping[str, package_contents.PackageEvidence]
    banner: str
    config: kernel_files.ConfigEvidence
    role: RoleContents


def check(rpms: Path, parameters: Parameters) -> Evidence:
    """Prove the packages below `rpms` by their content; return the evidence.

    Raises `Refused` for a package or file that is missing or is not what it must be, `BuildFailed`
    for a configuration that is not the one asked for.
    """
    packages = package_contents.require_packages(rpms, parameters.nevras.values())
    kernel = packages["kernel"]
    boot, modules = "/boot", f"/lib/modules/{parameters.uname}"
    image, config = f"{boot}/vmlinuz-{parameters.uname}", f"{boot}/config-{parameters.uname}"
    ip_vs = f"{modules}/kernel/net/netfilter/ipvs/ip_vs.ko"
    index = f"{modules}/modules.dep"
    package_contents.require_files(kernel, [f"{boot}/System.map-{parameters.uname}", f"{modules}/vmlinuz"])
    content = kernel_files.read(kernel, [image, config, ip_vs, index])
    wanted = requested(parameters)
    kconfig.check(wanted, content[config].decode(errors="replace"), f"{kernel.path.name}:{config}")
    if kernel.files[image] != kernel.files[f"{modules}/vmlinuz"]:
        raise Refused(f"{kernel.path.name} has two kernel images that differ", where=image)
    banner = kernel_files.read_banner(content[image], kernel, image, parameters.uname)
    kernel_files.check_module(content[ip_vs], kernel, ip_vs, parameters.uname)
    if b"net/netfilter/ipvs/ip_vs.ko:" not in content[index]:
        raise Refused(f"{kernel.path.name} has no usable index of modules", where=index)
    _check_others(packages, parameters)
    return Evidence(
        parameters,
        {
            name: package_contents.evidence(packages[name], package_contents.read_metadata(packages[name].path))
            for name in PACKAGES
        },
        banner,
        kernel_files.ConfigEvidence(len(wanted), kernel.files[config]),
        _role(kernel, wanted, parameters),
    )


def _check_others(packages: Mapping[str, rpmbuild.Package], parameters: Parameters) -> None:
    devel, modules = f"/usr/src/kernels/{parameters.uname}", f"/lib/modules/{parameters.uname}"
    package_contents.require_files(
        packages["kernel-devel"], [*(f"{devel}/{name}" for name in _DEVEL), f"{modules}/source"]
    )
    if (target := packages["kernel-devel"].files.get(f"{modules}/build")) != devel:
        raise Refused(f"{modules}/build in kernel-devel leads to {target}, not to {devel}")
    package_contents.require_files(
        packages["kernel-headers"], [f"/usr/include/linux/{name}.h" for name in ("version", "ip_vs")]
    )
    for name, provided in (
        ("kernel", f"kernel-uname-r = {parameters.uname}"),
        ("kernel", "installonlypkg(kernel)"),
        ("kernel-headers", "glibc-kernheaders = 3.0-46"),
    ):
        if provided not in packages[name].provides:
            raise Refused(f"{name} does not provide {provided}", where=str(packages[name].path))


def _role(kernel: rpmbuild.Package, wanted: kconfig.Configuration, parameters: Parameters) -> RoleContents:
    """Return the role by the package's content; refuse the real server's module in another role."""
    toa = [path for path in kernel.files if path.endswith("/toa.ko")]
    option = wanted["CONFIG_TOA"].value if "CONFIG_TOA" in wanted else "n"
    if bool(toa) != (option == "m"):
        what = f"has {toa[0]}" if toa else "lacks toa.ko"
        why = f"the role {parameters.role} asks for CONFIG_TOA={option}"
        raise Refused(f"{kernel.path.name} {what}", where=str(kernel.path), why=why)
    modules = sum(path.endswith(".ko") for path in kernel.files)
    ipvs = sorted(Path(path).stem for path in kernel.files if "/net/netfilter/ipvs/" in path)
    return RoleContents(parameters.role, parameters.patches, Toa(option, toa), modules, ipvs)
