"""The code in the keys of the real recipes' steps: what makes an output is there, and what cannot change it is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import Line, RoleName
from pipeline.config.settings import load
from pipeline.core import fingerprint
from pipeline.core.console import Console
from pipeline.core.process import clean_environment
from pipeline.packaging.graph import Step, StepGraph
from pipeline.packaging.job import BuildEnvironment
from pipeline.patching.patched_trees import Trees
from pipeline.recipes import registry
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.el6 import kernel_step, tools_step
from pipeline.recipes.module_key import Certificate, ModuleKey
from pipeline.sandbox.bubblewrap import Bubblewrap
from pipeline.sandbox.runtime import Image, Limits
from pipeline.sources.records import Verified
from pipeline.sources.resolver import Sources
from tests.fixtures.commandline import ROOT
from tests.fixtures.quickline import VERSIONS, tarball

EL6_KERNEL, DEBIAN_KERNEL = "el6 kernel:stock", "lts61 kernel:stock"
KERNELS = (EL6_KERNEL, DEBIAN_KERNEL)


def inputs(line: Line, place: Path, verified: Mapping[str, Verified]) -> BuildInputs:
    """What a recipe is given for a line without patches, as a run gives it."""
    sources = Sources(line, load({"artifacts": place / "artifacts"}, {}), Console(quiet=True))
    series: dict[RoleName, tuple[()]] = dict.fromkeys(line.data.roles, ())
    bench = BuildEnvironment(Bubblewrap(), Image("debian12", "key", place, place), None, Limits())
    return BuildInputs(line, verified, series, bench, Trees(sources, series, verified).of)


def source(name: str, file: str, version: str, place: Path) -> Verified:
    return Verified(name, file, place / file, "0" * 64, 1, "here", version, "", new=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Verified]:
    """The sources of a line of Debian's."""
    found = {}
    for name, version in {**VERSIONS, "linux": "6.1.9-1"}.items():
        upstream = version.partition(":")[2] or version
        file = f"{name}.tar.xz"
        (place / file).write_bytes(tarball(f"{name}-{upstream.partition('-')[0]}", {"Makefile": "all:\n"}))
        found[name] = source(name, file, version, place)
    return found


@pytest.fixture(scope="module")
def code(place: Path, found: Mapping[str, Verified]) -> dict[str, tuple[str, ...]]:
    """The modules that each step names, by line and step."""
    debian, el6 = line_loader.load("lts61"), line_loader.load("el6")
    steps: list[tuple[Line, Step]] = [
        (debian, step) for step in registry.recipe(debian).steps(inputs(debian, place, found))
    ]
    srpm = source(str(el6.data.kernel_source), "kernel.src.rpm", "", place)
    given = inputs(el6, place, {srpm.name: srpm})
    steps.append((el6, kernel_step.plan(given, RoleName.STOCK, 0)))
    return {f"{line.name} {step.name}": step.code for line, step in steps} | {"el6 ipvsadm": (tools_step.__name__,)}


COMMON = {"formats.archive", "core.templates", "recipes.spec_files", "packaging.rpmbuild", "packaging.job"}
MAKES = {
    EL6_KERNEL: COMMON
    | {"recipes.el6.kernel", "recipes.spec_overlay", "formats.kconfig", "sources.kernel_tree"}
    | {"patching.apply", "patching.patch_file", "inspect.kernel_role"},
    DEBIAN_KERNEL: COMMON | {"recipes.debian.kernel", "formats.kconfig", "packaging.outputs"},
    "lts61 ipvsadm": COMMON | {"recipes.debian.tools", "recipes.lvs_tools"},
    "el6 ipvsadm": COMMON | {"recipes.el6.tools", "recipes.lvs_tools"},
    "lts61 role-packages": (COMMON - {"formats.archive"}) | {"recipes.role_packages"},
    "lts61 userland": (COMMON - {"recipes.spec_files"}) | {"recipes.guest_userland", "formats.kconfig"},
}


@pytest.mark.parametrize("step", MAKES)
def test_a_steps_key_covers_what_makes_its_output(code: Mapping[str, tuple[str, ...]], step: str) -> None:
    assert {f"pipeline.{name}" for name in MAKES[step]} - fingerprint.closure(*code[step]) == set()


# How a source comes here, how a line file is read, what is printed, how an image is made, and whose a patch is: all of
# it ends in inputs of the key, or in no output.
ELSEWHERE = {
    *(
        "sources.download",
        "sources.attempts",
        "sources.transport",
        "sources.part_file",
        "sources.preflight",
        "sources.resolver",
    ),
    *("sources.store", "sources.apt", "sources.openpgp", "sources.srpm", "core.console", "sandbox.images"),
    *("packaging.compilations", "formats.kbuild"),
    *("config.settings", "config.line_loader", "config.line_checks", "patching.series", "patching.role_rules"),
}
OWN = {  # of other steps
    *("recipes.el6.kernel", "recipes.el6.tools", "recipes.debian.kernel", "recipes.debian.tools"),
    *("recipes.role_packages", "recipes.guest_userland", "recipes.modules"),
}


@pytest.mark.parametrize("step", MAKES)
def test_a_steps_key_covers_nothing_that_cannot_change_its_output(
    code: Mapping[str, tuple[str, ...]], step: str
) -> None:
    others = ELSEWHERE | (OWN - MAKES[step])
    assert {f"pipeline.{name}" for name in others} & fingerprint.closure(*code[step]) == set()


def keys(place: Path, found: Mapping[str, Verified], key: ModuleKey | None) -> tuple[dict[str, str], Step]:
    """The keys of lts61's steps where modules are signed by `key`, and the step of its modules."""
    line = line_loader.load("lts61")
    graph = StepGraph(registry.recipe(line).steps(replace(inputs(line, place, found), module_key=key)))
    return dict(graph.keys), graph.steps["package:kmod-lvs-fullnat"]


def test_the_certificate_decides_of_the_modules_alone_whether_they_are_built_anew(
    place: Path, found: Mapping[str, Verified]
) -> None:
    one, other = (Certificate("CN=x", "01", digit * 64, "Nov 30 12:00:00 2036 GMT", "") for digit in "12")
    unsigned, by_one, moved, by_other = (
        keys(place, found, key)[0]
        for key in (
            None,
            ModuleKey(Path("a.key"), one),
            ModuleKey(Path("b.key"), one),
            ModuleKey(Path("a.key"), other),
        )
    )
    assert by_one == moved
    for different in (by_one, by_other):
        assert [name for name in unsigned if unsigned[name] != different[name]] == ["package:kmod-lvs-fullnat"]
    assert by_one != by_other
    _, step = keys(place, found, ModuleKey(Path("a.key"), one))
    signing = {"pipeline.recipes.module_key", "pipeline.formats.module_signature"}
    assert signing <= fingerprint.closure(*step.code) and str(one) == step.inputs["module-certificate"]
    assert not signing & fingerprint.closure(*keys(place, found, None)[1].code)


def test_the_names_that_are_looked_for_are_modules() -> None:
    names = {*ELSEWHERE, *OWN, *(name for made in MAKES.values() for name in made)}
    assert [name for name in names if not (ROOT / "pipeline" / f"{name.replace('.', '/')}.py").is_file()] == []


# --- Edits of a copy -----------------------------------------------------------------------------------


def digests(place: Path, code: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The digest of each kernel's code in the copy of the project in `place`."""
    asked = {step: code[step] for step in KERNELS}
    script = (
        "import json\nfrom pipeline.core import fingerprint\n"
        f"print(json.dumps({{step: fingerprint.digest(*names) for step, names in {asked!r}.items()}}))"
    )
    env, argv = clean_environment(PYTHONPATH=str(place)), [sys.executable, "-c", script]
    said = subprocess.run(argv, env=env, cwd=place, capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's code that may be edited."""
    place = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "pipeline", place / "pipeline", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(ROOT / "lines", place / "pipeline/_data/lines")  # as where it is installed
    return place


@pytest.mark.parametrize(
    ("file", "old", "new", "rebuilt"),
    [
        ("sources/attempts.py", "self.options.retries + 1)", "self.options.retries + 2)", ()),  # how often is retried
        ("formats/archive.py", '"""', '"""Really: ', ()),
        ("__init__.py", "__version__ = ", "__version__ = 'x' + ", ()),
        ("recipes/role_packages.py", 'VERSION = "', 'VERSION = "9', ()),
        ("formats/archive.py", "def unpack(", "UNPACKED = 1\n\n\ndef unpack(", KERNELS),
        ("core/templates.py", "def render(", "RENDERED = 1\n\n\ndef render(", KERNELS),
        ("packaging/rpmbuild.py", 'TOPDIR = "/build"', 'TOPDIR = "/built"', KERNELS),
        ("packaging/job.py", "cwd=rpmbuild.TOPDIR", 'cwd="/"', KERNELS),
        (
            "patching/apply.py",
            "def apply_series(",
            "APPLIED = 1\n\n\ndef apply_series(",
            (EL6_KERNEL,),
        ),  # else rpmbuild
        ("recipes/spec_overlay.py", "FIRST_NUMBER = 990001", "FIRST_NUMBER = 990002", (EL6_KERNEL,)),
    ],
)
def test_an_edit_rebuilds_the_kernels_whose_bytes_it_can_change(
    copy: Path, code: Mapping[str, tuple[str, ...]], file: str, old: str, new: str, rebuilt: tuple[str, ...]
) -> None:
    before = digests(copy, code)
    path = copy / "pipeline" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    after = digests(copy, code)
    path.write_text(text)
    assert tuple(step for step in KERNELS if before[step] != after[step]) == rebuilt
