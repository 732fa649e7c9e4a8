"""Build a RHEL 6 kernel from its source package, driven by its own spec file.

The spec is overlaid by anchors, our patches and configuration values are put beside it, and the tree
that is compiled is held against the pinned one inside the builder. On the image debian12 a toolchain
wrapper of ours stands before the compiler. Must not know the build environment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import Anchors, Line, RoleName, SrpmSource, required
from pipeline.core import templates, trees
from pipeline.errors import HostLacks, Refused
from pipeline.formats import archive, git_tree, kconfig
from pipeline.inspect import kernel_files, kernel_role, package_contents
from pipeline.packaging import log_errors, rpmbuild
from pipeline.recipes import spec_files, spec_overlay

if TYPE_CHECKING:
    from pipeline.patching.apply import Proof
    from pipeline.patching.verified_patch import VerifiedPatch
    from pipeline.recipes.spec_files import BuildTarget

ARCH = "x86_64"
SPEC = "kernel.spec"
TOOLCHAIN = "toolchain"  # beside SOURCES
VERIFIER, LISTING = "fnat-tree.pl", "fnat-tree.listing"
REQUESTED, COMPARER = "fnat-asked.config", "fnat-asked.awk"
SMALL, TREE_CHECK = "config/small.config", "tree.pl"  # of the line's specs
BUILDER_WITH_SIGNING = "centos6"
_DEVEL = ("Makefile", ".config", "Module.symvers", "scripts/mod/modpost", "include/linux/autoconf.h")
# Where values go, for every variant: the spec merges the second over the first.
_CONFIG_FILES = ("config-generic", "config-generic-rhel")
_GENERIC = ("kernel", "kernel-devel", "kernel-headers", "kernel-firmware")
_PERF = ("perf", "python-perf")
# debian12 has no Python 2, which perf's binding, kabitool and check-kabi are written for, and no hmaccalc.
# The symbols' provides come from our find-provides, the kABI is checked after the build.
_LEFT_OUT_THERE = ("perf", "kabichk", "fips")
_SIGNING_OFF = {"CONFIG_MODULE_SIG": "n", "CONFIG_CRYPTO_SIGNATURE": "n", "CONFIG_CRYPTO_SIGNATURE_DSA": "n"}
# Drivers whose source a current gcc refuses. pmcraid.h names a member of a struct twice.
_REFUSED_BY_GCC = {"CONFIG_SCSI_PMCRAID": "n"}
IMAGE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # where debian12 has its programs
# What the spec's BuildRequires stand for there. Those of signing, Python, documents and its own packaging are not
# called in this build.
PROGRAMS = (
    *("depmod", "modinfo", "patch", "bash", "expr", "tar", "bzip2", "find", "xargs", "gzip", "m4", "perl", "make"),
    *("diff", "cmp", "gawk", "gcc", "as", "ld", "nm", "objcopy", "strip", "hostname", "rpmbuild"),
)
_LACKING_ROW = re.compile(r"^error: the image lacks (.{1,500})")
_TREE_ROW = re.compile(r"^error: tree: (.{1,500})")
_TREE_MOST = 50  # rows; the spec's own check says no more
_SIGNING_RACE = re.compile(
    "multiple definition of .no symbol."
)  # in whichever quotation marks: ld, of objects that parallel jobs mixed up
_FOUND_IN_TOP = ("kernel-*.config", "temp-*", "*-merged")  # what the spec puts into the tree besides its sources


@dataclass(frozen=True)
class Parameters:
    """Everything that determines one kernel of a line.

    `version` and `base` make the release of upstream's package, `2.6.32` and `220.23.1.el6`.
    `patches` are file names in SOURCES in order, `options` what is laid over config-generic,
    `tree` the directory in the kernel archive, `epoch` SOURCE_DATE_EPOCH in seconds. `symbols` are the exported
    symbols whose CRCs are known, `changed` those of them that the role's patches change.
    """

    target: BuildTarget
    role: RoleName
    version: str
    base: str
    image: str
    tree: str
    epoch: int
    buildid: str = ""
    small: bool = False
    patches: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    symbols: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)

    @property
    def release(self) -> str:
        """RPM's release; a small configuration is marked in it."""
        return f"{self.base}{self.buildid}{'.small' if self.small else ''}"

    @property
    def anchors(self) -> Anchors:
        """The lines of the spec file at which changes are anchored."""
        return required(self.target.build.anchors, "[build.anchors]")

    @property
    def uname(self) -> str:
        """The output of `uname -r`."""
        return f"{self.version}-{self.release}.{ARCH}"

    @property
    def signs_modules(self) -> bool:
        """Whether modules are signed, with a key that the build makes and deletes."""
        return self.image == BUILDER_WITH_SIGNING and not self.small

    @property
    def packages(self) -> tuple[str, ...]:
        """The names of the packages."""
        return _GENERIC if self.image != BUILDER_WITH_SIGNING else (*_GENERIC, *_PERF)

    @property
    def nevras(self) -> dict[str, str]:
        """The packages by name."""
        return {name: f"{name}-{self.uname}" for name in self.packages}

    @property
    def switches(self) -> tuple[str, ...]:
        """Switches of rpmbuild: the base kernel with its required firmware; kABI where the role keeps it."""
        without = {"debuginfo"}
        if self.role is RoleName.DIRECTOR or self.small:
            without.add("kabichk")  # LVS changes two symbols of the kABI list: (un)register_ip_vs_scheduler
        if self.image != BUILDER_WITH_SIGNING:
            without |= set(_LEFT_OUT_THERE)
        pairs = [("--with", "baseonly"), ("--with", "firmware"), *(("--without", name) for name in sorted(without))]
        return (*(word for pair in pairs for word in pair), f"--target={ARCH}")

    def to_json(self) -> dict[str, object]:
        """Return the parameters for keys of steps and for evidence."""
        own = {name: value for name, value in vars(self).items() if name != "target"}
        return {**own, "uname": self.uname, "switches": self.switches, "signed_modules": self.signs_modules}


def of_line(
    line: Line, role: RoleName, series: Sequence[VerifiedPatch], image: str, *, small: bool, epoch: int
) -> Parameters:
    """Return the parameters of one role of a line; a value left out of a patch becomes an option."""
    data, source = line.data.roles[role], line.data.sources[str(line.data.kernel_source)]
    source = required(source if isinstance(source, SrpmSource) else None, "source package as its kernel-source")
    version, _, base = line.data.kernel.partition("-")
    stock = line.data.roles[RoleName.STOCK].symbols
    changed = {} if role is RoleName.STOCK else data.symbols
    moved = {name: value for item in series for rule in item.model.leave_out for name, value in rule.config.items()}
    return Parameters(
        target=spec_files.target(line),
        role=role,
        version=version,
        base=base,
        image=image,
        tree=source.tree.archive.partition(".tar")[0],
        epoch=epoch,
        buildid=f"{data.buildid}{line.release_tag}",
        small=small,
        patches=tuple(f"{item.name}.patch" for item in series),
        options={**moved, **data.config},
        symbols={**stock, **changed},
        changed=dict(changed),
    )


def overrides(parameters: Parameters) -> dict[str, kconfig.RequestedSymbol]:
    """Return the symbols that override config-generic, for a small kernel too.

    The spec completes the distribution's configurations before ours is made, and that fails for an
    option of a patch that has no value.
    """
    signing = {} if parameters.signs_modules else _SIGNING_OFF
    refused = _REFUSED_BY_GCC if parameters.image != BUILDER_WITH_SIGNING else {}
    return kconfig.merged(
        kconfig.options(signing, "modules are not signed in this build"),
        kconfig.options(refused, "a current gcc refuses its source"),
        kconfig.options(parameters.options, f"the role {parameters.role} of the line file"),
    )


def requested(parameters: Parameters) -> dict[str, kconfig.RequestedSymbol]:
    """Return the symbols that the finished configuration must have."""
    if not parameters.small:
        return overrides(parameters)
    files = parameters.target.files
    small = kconfig.parse(files.text(SMALL), str(files.path(SMALL)))
    return kconfig.merged(small, overrides(parameters))


def edits(parameters: Parameters) -> list[spec_overlay.Edit]:
    """Return the changes of the spec, each with its anchor line."""
    anchors = parameters.anchors
    found = spec_overlay.spec_edits(anchors, parameters.patches, sign_modules=parameters.signs_modules)
    ours = (VERIFIER, LISTING, REQUESTED, COMPARER)
    declared = tuple(f"Source{spec_overlay.FIRST_NUMBER + index}: {name}" for index, name in enumerate(ours))
    check = f"perl %{{_sourcedir}}/{VERIFIER}"
    own = " ".join(f"'{pattern}'" for pattern in _FOUND_IN_TOP)
    config = "configs/kernel-%{version}-%{_target_cpu}.config"
    exact = f"{check} exact %{{_sourcedir}}/{LISTING} . {own} $(cd %{{_sourcedir}} && ls) || exit 1"
    last = [
        "cd linux-%{KVERREL}",
        f"{check} content %{{_sourcedir}}/{LISTING} . || exit 1",
        *(_small(config) if parameters.small else ()),
        f"gawk -f %{{_sourcedir}}/{COMPARER} {config} %{{_sourcedir}}/{REQUESTED} || exit 1",
        "cd ..",
        "",
    ]
    why = "the tree that is compiled is held against the pinned one"
    found += [
        spec_overlay.Edit(
            anchors.patch_declared, "before", declared, "an undeclared file is absent from the source package"
        ),
        spec_overlay.Edit(anchors.patch_applied, "behind", (exact,), why),
        spec_overlay.Edit(anchors.build, "before", tuple(last), why),
    ]
    return found if parameters.image == BUILDER_WITH_SIGNING else [*found, *_edits_for_debian(anchors)]


def _small(config: str) -> tuple[str, ...]:
    return (
        f"make ARCH=%{{_target_cpu}} KCONFIG_ALLCONFIG=%{{_sourcedir}}/{REQUESTED} allnoconfig > /dev/null",
        f"(echo '# %{{_target_cpu}}'; cat .config) > {config}",
    )


def _edits_for_debian(anchors: Anchors) -> list[spec_overlay.Edit]:
    no_debugging = "there are no debugging symbols whose paths debugedit could rewrite"
    why = "the builder lacks the Python 2 and the Red Hat scripts that the spec names"
    find = {"provides": anchors.find_provides, "requires": anchors.find_requires}
    return [
        spec_overlay.Edit(
            anchors.prep, "behind", _required(), "rpm cannot look for what the spec requires: its database is empty"
        ),
        spec_overlay.Edit(anchors.debuginfo, "instead", ("%define fancy_debuginfo 0",), no_debugging),
        *(
            spec_overlay.Edit(line, "instead", (f"%define __find_{name} %{{_topdir}}/{TOOLCHAIN}/find-{name}",), why)
            for name, line in find.items()
        ),
    ]


def _required() -> tuple[str, ...]:
    """Return the programs beside the project's wrapper, which has some of their names."""
    return (
        "lacking=",
        f"for program in {' '.join(PROGRAMS)}; do",
        f'  PATH={IMAGE_PATH} command -v $program > /dev/null || lacking="$lacking $program"',
        "done",
        '[ -z "$lacking" ] || { echo "error: the image lacks$lacking"; exit 1; }',
    )


def texts(parameters: Parameters) -> dict[str, str]:
    """Return the project's files of the build by their names in SOURCES or below the toolchain, for a key."""
    found = {
        VERIFIER: parameters.target.files.text(TREE_CHECK),
        COMPARER: templates.source("specs/common/asked.awk"),
        REQUESTED: kconfig.text(requested(parameters)),
    }
    if parameters.image != BUILDER_WITH_SIGNING:
        for name, text in parameters.target.files.below(TOOLCHAIN).items():
            found[f"{TOOLCHAIN}/{name}"] = text
    return found


def key_inputs(parameters: Parameters) -> dict[str, object]:
    """Return a key's inputs besides the sources: parameters, edits, and the digests of the project's files."""
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts(parameters).items()}
    return {"parameters": parameters, "edits": edits(parameters), "texts": digests}


def prepare(
    srpm: Path, sources: Path, specs: Path, parameters: Parameters, patches: Mapping[str, bytes], tree: git_tree.Listing
) -> None:
    """Fill SOURCES and SPECS from the source package, without root, and apply the project's changes.

    `tree` is what the kernel tree must be after the series. Raises `Refused` for a spec or a
    configuration that our changes do not fit.
    """
    archive.unpack(srpm, sources, srpm.name)
    spec = sources / SPEC
    text = spec.read_text(errors="surrogateescape")
    spec.unlink()
    overlaid = spec_overlay.overlaid(text, edits(parameters), SPEC)
    (specs / SPEC).write_text(overlaid, errors="surrogateescape")
    _configure(sources, {symbol: wanted.value for symbol, wanted in overrides(parameters).items()})
    for name, data in patches.items():
        (sources / name).write_bytes(data)
    for name, text in texts(parameters).items():
        place = sources.parent / name if name.startswith(TOOLCHAIN) else sources / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        if text.startswith("#!"):
            place.chmod(0o755)
    rows = (f"{entry.mode} {entry.blob} {path}\n" for path, entry in sorted(tree.items()))
    (sources / LISTING).write_text("".join(rows), errors="surrogateescape")


def _configure(sources: Path, values: Mapping[str, str]) -> None:
    """Write values into the file that has the symbol already, since the spec's merge takes the last."""
    texts = {name: (sources / name).read_text() for name in _CONFIG_FILES if (sources / name).is_file()}
    where = {symbol: name for name, text in texts.items() for symbol in values if symbol in kconfig.values(text)}
    for name, text in texts.items():
        own = {symbol: value for symbol, value in values.items() if where.get(symbol, _CONFIG_FILES[0]) == name}
        (sources / name).write_text(spec_overlay.configured(text, own, name))


def environment(parameters: Parameters) -> dict[str, str]:
    """Return the build's environment: on debian12 with the wrapper before the image's programs."""
    if parameters.image == BUILDER_WITH_SIGNING:
        return {}
    return {
        "PATH": f"{rpmbuild.TOPDIR}/{TOOLCHAIN}/bin:{IMAGE_PATH}",
        "FNAT_CCACHE": "ccache",
    }


def macros(parameters: Parameters) -> dict[str, str]:
    """Return rpmbuild's additional macros: the release, and those that Red Hat's own rpm defines."""
    buildid = parameters.release.removeprefix(parameters.base)
    return {
        "buildid": buildid,
        "dist": parameters.target.build.dist,
        "kernel_arches": ARCH,
        "__python": "/usr/bin/python",
    }


def explain(log: Path, parameters: Parameters) -> None:
    """Raise the error of this recipe's own checks that a build's log reports; else return."""
    for lacking in log_errors.matches(log, _LACKING_ROW, 1):
        raise HostLacks(
            f"the image {parameters.image} lacks programs that the kernel's spec file requires: {lacking[1]}",
            where=str(log),
            why="nothing was compiled yet; later the lack of one could show as another kernel",
            hint="`./inv clean images`, and the next run makes it anew from containers/debian12/packages.j2",
        )
    if differing := log_errors.matches(log, _TREE_ROW, _TREE_MOST):
        rows = [row[1] for row in differing]
        raise Refused(
            "\n".join(["the tree in the builder is not the pinned one with the series applied", *rows]),
            where=str(log),
            why="what is compiled must be what was proven",
            hint="`./inv patches` shows what the series does; a spec that applies more is another source",
        )
    if found := kconfig.from_log(log_errors.lines(log), requested(parameters)):
        raise kconfig.failure(found, str(log))


def is_signing_race(log: Path) -> bool:
    """Return whether the build failed because two modules were signed at once, which fewer jobs avoid."""
    return bool(log_errors.matches(log, _SIGNING_RACE, 1))


def remove_build(top: Path) -> None:
    """Remove the files of a failed attempt, which may contain links, before the next one."""
    trees.remove(top)


def reference_kabi(srpm: Path) -> dict[str, str]:
    """Return the distribution's list of stable symbols, with their CRCs."""
    name = f"Module.kabi_{ARCH}"
    found = archive.read(srpm, {name: kernel_files.MAX_FILE}).get(name)
    if found is None:
        raise Refused(f"the source package has no {name}", where=str(srpm))
    return kernel_files.parse_symvers(found, name)


@dataclass(frozen=True)
class Symbols:
    """The number of exported symbols, the CRCs that were compared, and how many the distribution's list has.

    A text in place of that number is why the list was not compared.
    """

    exported: int
    crcs: Mapping[str, str]
    kabi: int | str


@dataclass(frozen=True)
class Evidence:
    """A kernel's proven packages, the content of the kernel's own, and the tree that it was built from."""

    parameters: Parameters
    packages: Mapping[str, package_contents.PackageEvidence]
    banner: str
    config: kernel_files.ConfigEvidence
    role: kernel_role.RoleEvidence
    modules: int
    symbols: Symbols
    tree: str
    paths_changed: int


def check(rpms: Path, parameters: Parameters, kabi: Mapping[str, str], proof: Proof) -> Evidence:
    """Prove the packages below `rpms` by their content; return the evidence.

    `kabi` is the distribution's list, `proof` that of the tree. Raises `Refused` for a package, file or symbol that is
    not what it must be, and `BuildFailed` for a configuration that is not the requested one.
    """
    packages = package_contents.require_packages(rpms, parameters.nevras.values())
    kernel, uname = packages["kernel"], parameters.uname
    image, config = f"/boot/vmlinuz-{uname}", f"/boot/config-{uname}"
    ip_vs = f"/lib/modules/{uname}/kernel/net/netfilter/ipvs/ip_vs.ko"
    package_contents.require_files(kernel, [f"/boot/System.map-{uname}"])
    content = kernel_files.read(kernel, [image, config, ip_vs])
    wanted = requested(parameters)
    kconfig.check(wanted, content[config].decode(errors="replace"), f"{kernel.path.name}:{config}")
    banner = kernel_files.read_banner(content[image], kernel, image, uname)
    kernel_files.check_module(content[ip_vs], kernel, ip_vs, uname)
    devel = f"/usr/src/kernels/{uname}"
    package_contents.require_files(packages["kernel-devel"], [f"{devel}/{name}" for name in _DEVEL])
    found = kernel_role.read_evidence(kernel, packages["kernel-headers"], uname)
    kernel_role.check_role(found, parameters.role, kernel.path.name)
    return Evidence(
        parameters,
        {name: package_contents.evidence(p, package_contents.read_metadata(p.path)) for name, p in packages.items()},
        banner,
        kernel_files.ConfigEvidence(len(wanted), kernel.files[config]),
        found,
        sum(path.endswith(".ko") for path in kernel.files),
        _check_symbols(found, parameters, kabi, kernel.path.name),
        proof.tree,
        proof.changed,
    )


def _check_symbols(
    found: kernel_role.RoleEvidence, parameters: Parameters, kabi: Mapping[str, str], name: str
) -> Symbols:
    """Check symbol CRCs; they depend on the configuration, so a small kernel's are not compared."""
    if parameters.small:
        return Symbols(len(found.symbols), {}, "not comparable: small configuration")
    kernel_role.check_crcs(found, parameters.symbols, name)
    listed = kernel_role.check_kabi(found, kabi, parameters.changed, name)
    return Symbols(len(found.symbols), parameters.symbols, listed)
