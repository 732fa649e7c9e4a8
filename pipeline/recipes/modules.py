"""The recipe of a package of kernel modules that are built out of tree, against the stock kernel's own kernel-devel.

A role that has such packages needs no kernel of its own. The modules go below `updates/`, where depmod prefers them to
the kernel's. It writes the spec file and all it reads, and proves each module by the kernel that it is for.

With a module key the modules that a sandbox built are signed outside of it, and packed in a second one, in which
nothing is compiled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import Line, ModuleSet, RoleName
from pipeline.core import fs, trees
from pipeline.errors import Refused, UsageError
from pipeline.formats import archive
from pipeline.inspect import kernel_files, package_contents
from pipeline.packaging import compiled_sources, job, rpmbuild
from pipeline.recipes import lvs_tools, spec_files, steps
from pipeline.recipes.base import CERTIFICATE, MODULES_STEP

if TYPE_CHECKING:
    from pipeline.packaging.graph import Step, Work
    from pipeline.recipes.base import BuildInputs
    from pipeline.recipes.module_key import Certificate, ModuleKey
    from pipeline.recipes.spec_files import BuildTarget
    from pipeline.sources.records import Verified

ARCH = "x86_64"
SPEC, KBUILD = "modules.spec", "Kbuild"
KERNEL = f"kernel:{RoleName.STOCK}"
_DISK_SPACE = 1 << 30  # bytes: the kernel's headers and tools unpacked, and the modules
_UNAME = re.compile(r"[A-Za-z0-9._+~^-]{1,64}")


@dataclass(frozen=True)
class Parameters:
    """Everything that decides what one package of modules is.

    `uname` is the kernel's release, as `uname -r` prints it. `tarball` is a file name in SOURCES, `tree` the directory
    in it. `epoch` is SOURCE_DATE_EPOCH in seconds. `patches` are the digests of the series' files by their names in
    SOURCES, in order. The modules are signed by the key of `certificate`; without one they are not.
    """

    target: BuildTarget
    name: str
    model: ModuleSet
    uname: str
    tarball: str
    tree: str
    epoch: int
    number: int = 1
    patches: Mapping[str, str] = field(default_factory=dict)
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        lvs_tools.plain((self.name, self.tarball, self.tree, *self.patches))
        for path in self.model.paths:
            lvs_tools.plain(path.split("/"))
        if not _UNAME.fullmatch(self.uname):
            raise UsageError(f"{self.uname!r}: not a kernel's release")

    @property
    def kernel(self) -> str:
        """Version and release of the kernel's package."""
        return self.uname.removesuffix(f".{ARCH}")

    @property
    def release(self) -> str:
        """RPM's release, which names the kernel: modules for another one are another package."""
        return f"{self.number}.{self.kernel.replace('-', '_')}"

    @property
    def nevra(self) -> str:
        """The package."""
        return f"{self.name}-{self.model.version}-{self.release}.{ARCH}"

    @property
    def devel(self) -> str:
        """The file name of the kernel's development package in SOURCES."""
        return f"kernel-devel-{self.uname}.rpm"

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the modules are once installed."""
        return tuple(f"/lib/modules/{self.uname}/updates/{name}.ko" for name in self.model.modules)

    @property
    def signed_spec(self) -> dict[str, str]:
        """The spec file that packs signed modules, rendered."""
        return {SPEC: _spec(self, signed=True)}

    def contained(self, path: str) -> tuple[str, ...]:
        """Return the texts that the module at `path` must hold."""
        return self.model.contains.get(Path(path).stem, ())

    def to_json(self) -> dict[str, object]:
        """Return what keys of steps and evidence hold."""
        own = {name: value for name, value in vars(self).items() if name not in ("target", "model")}
        return {**own, **self.model.model_dump(mode="json"), "release": self.release}


def rendered(parameters: Parameters) -> dict[str, str]:
    """Render the spec file: what a step's key must cover."""
    kbuild = parameters.model.kbuild
    texts = {KBUILD: parameters.target.files.text(kbuild)} if kbuild else {}
    return {SPEC: _spec(parameters, signed=False), **texts}


def _spec(parameters: Parameters, *, signed: bool) -> str:
    model, target = parameters.model, parameters.target
    return target.files.render(
        SPEC,
        line=target.line,
        name=parameters.name,
        version=model.version,
        release=parameters.release,
        summary=model.summary,
        kernel=parameters.kernel,
        uname=parameters.uname,
        tarball=parameters.tarball,
        tree=parameters.tree,
        devel=parameters.devel,
        modules=model.modules,
        paths=model.paths,
        kbuild=KBUILD if model.kbuild else "",
        patches=list(parameters.patches),
        epoch=parameters.epoch,
        changelog_date=rpmbuild.changelog_date(parameters.epoch),
        signed=signed,
    )


def prepare(sources: Path, specs: Path, parameters: Parameters, kernel_rpms: Sequence[Path]) -> None:
    """Write the spec file into `specs` and the kernel's development package into `sources`.

    The tarball and the patches are the caller's to put there. Raises `Refused` when that package is not among
    `kernel_rpms`, and when its kernel could not check signatures that the modules are to bear.
    """
    lvs_tools.write(rendered(parameters), SPEC, sources, specs)
    devel = _kernel_package(kernel_rpms, f"kernel-devel-{parameters.uname}").path
    if parameters.certificate:
        _check_kernel(_kernel_package(kernel_rpms, f"kernel-{parameters.uname}"), parameters.uname)
    fs.copy_verified(devel, sources / parameters.devel, fs.sha256_of(devel))


def _kernel_package(rpms: Sequence[Path], nevra: str) -> rpmbuild.Package:
    found = [package for package in map(rpmbuild.read_package, rpms) if package.nevra == nevra]
    if len(found) != 1:
        raise Refused(f"kernel packages: no {nevra}; expected one to build modules against")
    return found[0]


def _check_kernel(kernel: rpmbuild.Package, uname: str) -> None:
    """Raise `Refused` for a kernel that checks modules and lacks SHA-256, by which they are signed."""
    path = f"/boot/config-{uname}"
    config = kernel_files.read(kernel, [path])[path].splitlines()
    if b"CONFIG_MODULE_SIG=y" in config and b"CONFIG_CRYPTO_SHA256=y" not in config:
        raise Refused(
            f"the kernel {uname}: without SHA-256; expected CONFIG_CRYPTO_SHA256=y beside CONFIG_MODULE_SIG=y",
            where=f"{kernel.path}: {path}",
            why="modules are signed over SHA-256, and this kernel would load none of them",
            hint='set CONFIG_MODULE_SIG_SHA256 = "y" in the table of the kernel\'s role, see docs/lines.md',
        )


def pack_signed(
    work: Work, environment: job.BuildEnvironment, recipe: job.SpecBuild, parameters: Parameters, key: ModuleKey
) -> Path:
    """Sign the modules of the package that `work.out` holds, pack them in its place, and return its directory.

    The sandbox that built them is gone by then, and no other has the key. Raises as `check` and `job.run_build`.
    """
    rpms = work.out / "rpms"
    check(rpms, replace(parameters, certificate=None))
    package = package_contents.require_packages(rpms, [parameters.nevra])[parameters.name]
    built = kernel_files.read(package, parameters.paths)
    signed = {Path(path).name: key.sign(data, path) for path, data in built.items()}

    def fill(sources: Path, specs: Path) -> None:
        lvs_tools.write(parameters.signed_spec, SPEC, sources, specs)
        for name, data in signed.items():
            (sources / name).write_bytes(data)

    log = work.log.read_bytes()
    for left in (rpms, work.scratch):  # nothing that the first sandbox left is in the second
        trees.remove(left)
    work.scratch.mkdir(mode=0o700)
    try:
        return job.build_packages(work, environment, replace(recipe, write_sources=fill, compiled=None))
    finally:
        work.log.write_bytes(log + work.log.read_bytes())


@dataclass(frozen=True)
class Evidence:
    """A proven package of modules."""

    parameters: Parameters
    package: package_contents.PackageEvidence


def check(rpms: Path, parameters: Parameters) -> Evidence:
    """Prove the package below `rpms` by its content; return the evidence.

    Raises `Refused` for a module that is missing, is surplus, is for another kernel, lacks a text of its role, or is
    not signed as the parameters say.
    """
    package = package_contents.require_packages(rpms, [parameters.nevra])[parameters.name]
    surplus = sorted(path for path in package.files if path.endswith(".ko") and path not in parameters.paths)
    if surplus:
        raise Refused(f"{package.path.name}: surplus modules {', '.join(surplus)}", where=str(package.path))
    content = kernel_files.read(package, parameters.paths)
    for path in parameters.paths:
        kernel_files.check_module(content[path], package, path, parameters.uname)
        lacking = [text for text in parameters.contained(path) if text.encode() not in content[path]]
        if lacking:
            raise Refused(
                f"{path} in {package.path.name}: not the module of its role; expected in it {', '.join(lacking)}",
                where=str(package.path),
                why="a package's name proves nothing, its content does",
            )
        if parameters.certificate:
            parameters.certificate.check(content[path], f"{path} in {package.path.name}")
    metadata = package_contents.read_metadata(package.path)
    if f"kernel = {parameters.kernel}" not in metadata.requires:
        raise Refused(f"{package.path.name}: does not require its kernel; expected kernel = {parameters.kernel}")
    return Evidence(parameters, package_contents.evidence(package, metadata))


def plan(inputs: BuildInputs, uname: str) -> list[Step]:
    """Plan a step for each package of modules; `uname` is the stock kernel's release."""
    packages = inputs.line.data.packages.items()
    return [_step(inputs, name, model, uname) for name, model in packages if isinstance(model, ModuleSet)]


def of_line(
    line: Line, name: str, model: ModuleSet, uname: str, source: Verified, patches: Mapping[str, bytes]
) -> Parameters:
    """Return the parameters of one package of a line; `patches` are those of its role's series by file name."""
    tree, epoch = archive.beginning(source.path)
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in patches.items()}
    return Parameters(spec_files.target(line), name, model, uname, source.file, tree, epoch, patches=digests)


def _step(inputs: BuildInputs, name: str, model: ModuleSet, uname: str) -> Step:
    source = inputs.verified[model.source]
    role = next(role for role, found in inputs.line.data.roles.items() if name in found.packages)
    patches = {f"{item.name}.patch": item.data for item in inputs.series[role]} if model.paths else {}
    parameters = of_line(inputs.line, name, model, uname, source, patches)
    key = inputs.module_key
    if key:
        parameters = replace(parameters, certificate=key.certificate)

    def build(work: Work, environment: job.BuildEnvironment, recipe: job.SpecBuild) -> Path:
        kernel = job.built_packages(work.needs, (KERNEL,))

        def fill(sources: Path, specs: Path) -> None:
            if patches:
                inputs.tree(role)  # what the series leaves is as recorded
            fs.copy_verified(source.path, sources / source.file, source.sha256)
            for file, data in patches.items():
                (sources / file).write_bytes(data)
            prepare(sources, specs, parameters, kernel)

        rpms = job.build_packages(work, environment, replace(recipe, write_sources=fill))
        return pack_signed(work, environment, recipe, parameters, key) if key else rpms

    recipe = job.SpecBuild(
        spec=SPEC,
        epoch=parameters.epoch,
        write_sources=_fill_nothing,
        explain_failure=lambda log, top: None,
        macros=rpmbuild.Macros(dist=parameters.target.build.dist, ccache=False, keep_tree=True),
        disk_space=_DISK_SPACE,
        compiled=compiled_sources.kbuild(f"kernel/usr/src/kernels/{uname}", parameters.tree),
    )
    keyed: Mapping[str, object] = {
        "source": source.sha256,
        "parameters": parameters,
        "texts": rendered(parameters),
        **({CERTIFICATE: str(key.certificate), "signed spec": parameters.signed_spec} if key else {}),
    }
    return steps.package_step(
        f"{MODULES_STEP}:{name}",
        inputs,
        recipe,
        lambda rpms: check(rpms, parameters),
        keyed,
        needs=(KERNEL,),
        build=build,
        calls=(key.sign,) if key else (),
    )


def _fill_nothing(_: Path, __: Path) -> None:
    """Leave the directories empty: what the build starts from depends on its needs, which are known when it runs."""
