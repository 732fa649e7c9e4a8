"""The `[build]` table of a line file: typed, inherited by overrides, and every mistake told with file:line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import Init, ModuleSet, RoleName, ToaReader
from pipeline.core import resources
from pipeline.errors import FileProblems, Problem
from pipeline.recipes import registry, spec_files

LINE = """\
schema = 1
name = "own"
title = "A line of one's own"
kernel = "6.1"
kernel-source = "linux"

[build]
recipe = "debian-tarball"
images = ["debian12"]
specs = "own"
dist = ".own"
kernel-series = "6.1"
glibc-max = "2.34"
init = "systemd"

[keys.archive]
title = "A key"
fingerprint = "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8"

[debian]
suites = ["bookworm"]
keyring = ["archive"]

[sources.linux]
kind = "debian"
package = "linux"
version = "6.1."

[sources.ipvsadm]
kind = "debian"
package = "ipvsadm"
version = "1:1.31-1"

[sources.keepalived]
kind = "debian"
package = "keepalived"
version = "1:2.2.7-1"

[roles.stock]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A line outside the project, with spec files beside it."""
    configs = tmp_path / "specs" / "own" / "config"
    configs.mkdir(parents=True)
    for name in ("base", "stock"):
        (configs / f"{name}.config").write_text("CONFIG_NET=y\n")
    made = tmp_path / "own.toml"
    made.write_text(LINE)
    return made


def edit(file: Path, old: str, new: str) -> int:
    """Replaces the one place that says `old`; the line number of what is put there."""
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    file.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def mistakes(file: Path) -> list[Problem]:
    with pytest.raises(FileProblems) as caught:
        registry.recipe(line_loader.load(line_file=file))
    return list(caught.value.problems)


def test_a_line_says_how_it_is_built(file: Path) -> None:
    build = line_loader.load(line_file=file).data.build
    assert build is not None
    assert (build.images, build.dist, build.init, build.glibc) == (("debian12",), ".own", Init.SYSTEMD, (2, 34))
    assert (build.old_readers, build.anchors) == (False, None)


@pytest.mark.parametrize(
    ("version", "taken"), [("6.1", True), ("6.1.187", True), ("6.12", False), ("6.1.1.1", False), ("6x1", False)]
)
def test_a_series_takes_its_own_versions_only(file: Path, version: str, taken: bool) -> None:
    build = line_loader.load(line_file=file).data.build
    assert build is not None and build.takes(version) is taken


WRONG = [
    ('recipe = "debian-tarball"', 'recipe = "debian tarball"', "'debian tarball' is not a name", "lower-case"),
    ('recipe = "debian-tarball"', 'recipe = "gentoo"', "no recipe 'gentoo'", "debian-tarball, redhat-srpm"),
    ('images = ["debian12"]', "images = []", "build.images", ""),
    ('images = ["debian12"]', 'images = ["fedora"]', "no builder image 'fedora'", "centos6, debian12"),
    ('specs = "own"', 'specs = "../own"', "'../own' is not a name", "lower-case letters"),
    ('dist = ".own"', 'dist = "own"', "'own' is not a dist", "'.' and lower-case letters"),
    ('kernel-series = "6.1"', 'kernel-series = "6"', "'6' is not a series of kernels", "such as 6.1"),
    ('glibc-max = "2.34"', 'glibc-max = "2"', "'2' is not a version of glibc", "such as 2.34"),
    ('init = "systemd"', 'init = "openrc"', "build.init: expected 'sysv' or 'systemd'", "'sysv' or 'systemd'"),
    ('init = "systemd"', 'init = "systemd"\ncolour = 1', "unknown key 'colour' in build", "anchors, dist, glibc-max"),
    ('kernel = "6.1"', 'kernel = "6.12"', "the kernel 6.12 is not of the series 6.1", "6.1, or 6.1.N"),
    ('version = "6.1."', 'version = "6.1."\nimage = "centos6"', "not built in the image 'centos6'", "debian12"),
]


@pytest.mark.parametrize(("old", "new", "what", "allowed"), WRONG, ids=[row[1] for row in WRONG])
def test_a_mistake_is_told_with_its_line_and_what_is_allowed(
    file: Path, old: str, new: str, what: str, allowed: str
) -> None:
    line = edit(file, old, new) + new.count("\n")
    [found] = mistakes(file)
    assert (found.file, found.line) == (str(file), line)
    assert what in found.what and allowed in found.allowed


@pytest.mark.parametrize("key", ["recipe", "images", "specs", "dist", "kernel-series", "glibc-max", "init"])
def test_each_key_must_be_there(file: Path, key: str) -> None:
    file.write_text("".join(row for row in LINE.splitlines(keepends=True) if not row.startswith(f"{key} = ")))
    [found] = mistakes(file)
    assert (found.line, found.what) == (7, f"build lacks the key {key!r}")


def test_a_line_without_the_table_loads_and_is_not_built(file: Path) -> None:
    begin = LINE.index("[build]")
    file.write_text(LINE[:begin] + LINE[LINE.index("[keys") :])
    assert line_loader.load(line_file=file).data.build is None
    [found] = mistakes(file)
    assert (found.what, found.allowed) == (
        "the line says nothing of its build",
        "a [build] table; recipes: debian-tarball, redhat-srpm",
    )


def test_everything_that_a_recipe_misses_is_told_at_once(file: Path) -> None:
    edit(file, '[sources.ipvsadm]\nkind = "debian"', '[sources.other]\nkind = "debian"')
    (file.parent / "specs" / "own" / "config" / "stock.config").unlink()
    found = {problem.what: problem for problem in mistakes(file)}
    assert set(found) == {
        "the line lacks a Debian source ipvsadm to build from",
        "the specs own lack config/stock.config",
    }
    assert found["the specs own lack config/stock.config"].line == 10


def test_a_source_package_recipe_says_what_it_misses(file: Path) -> None:
    edit(file, '"debian-tarball"', '"redhat-srpm"')
    assert [(problem.line, problem.what) for problem in mistakes(file)] == [
        (1, "the line does not say when its kernel was released"),
        (5, "the line has no kernel source package to build from"),
        (7, "the line does not say where changes of kernel.spec go"),
        (11, "the release of the kernel 6.1 does not end in .own"),
    ]


def test_an_override_inherits_the_table_and_may_change_a_key_of_it(tmp_path: Path) -> None:
    house = tmp_path / "house.toml"
    house.write_text('schema = 1\nextends = "lts61"\nname = "house"\n[build]\nglibc-max = "2.36"\n')
    line = line_loader.load(line_file=house)
    base = line_loader.load("lts61").data.build
    assert line.data.build is not None and base is not None
    assert line.data.build == base.model_copy(update={"glibc_max": "2.36"})
    assert line.override is not None and line.override.changes == ("build.glibc-max",)
    assert spec_files.target(line).line == "lts61"  # what packages say they are for


def test_the_symbols_of_a_role_are_the_lines(tmp_path: Path) -> None:
    house = tmp_path / "house.toml"
    house.write_text('schema = 1\nextends = "el6"\nname = "house"\n[roles.stock.symbols]\nipv4_specific = "0x1"\n')
    with pytest.raises(FileProblems) as caught:
        line_loader.load(line_file=house)
    [found] = caught.value.problems
    assert (found.line, found.allowed) == (5, "0x and 8 lower-case hexadecimal digits")
    house.write_text(house.read_text().replace("0x1", "0x00000001"))
    changed = line_loader.load(line_file=house).data.roles[RoleName.STOCK].symbols
    assert (changed["ipv4_specific"], changed["inet_stream_ops"]) == ("0x00000001", "0x758e2721")


def test_every_line_of_the_project_names_a_recipe_that_has_all_it_needs() -> None:
    for name in resources.line_names():
        registry.recipe(line_loader.load(name))


# --- A role need not be a kernel -----------------------------------------------------------------------

PACKAGE = """
[roles.director]
kernel = "stock"
packages = ["fullnat"]

[packages.fullnat]
kind = "module-set"
source = "ipvsadm"
summary = "IPVS with FULLNAT"
version = "1.0"
modules = ["ip_vs"]
"""


def test_a_role_may_be_the_stock_kernel_with_packages(file: Path) -> None:
    file.write_text(LINE + PACKAGE)
    line = line_loader.load(line_file=file)
    registry.recipe(line)  # which needs no config/director.config
    assert line.data.kernels == (RoleName.STOCK,)
    package = line.data.packages["fullnat"]
    assert isinstance(package, ModuleSet) and package.modules == ("ip_vs",)


ROLE_WRONG = [
    ('kernel = "stock"\n', "", "the role director has packages and a kernel of its own"),
    ('packages = ["fullnat"]\n', "", "the role director is nothing but stock"),
    ('packages = ["fullnat"]', 'packages = ["fulnat"]', "no package 'fulnat'"),
    ('kernel = "stock"', 'kernel = "realserver"', "roles.director.kernel: expected"),
    ('kernel = "stock"', 'kernel = "stock"\nbuildid = ".x"', "buildid is a kernel's, and director has none of its own"),
    ('source = "ipvsadm"', 'source = "nothing"', "no source 'nothing'"),
    ('modules = ["ip_vs"]', "modules = []", "packages.fullnat.modules: "),
    ('modules = ["ip_vs"]', 'modules = ["../x"]', "'../x' is not a module"),
    ('version = "1.0"', 'version = "1-0"', "'1-0' is not a package's version"),
    ('modules = ["ip_vs"]', 'modules = ["ip_vs"]\ncontains = { ip_vs_rr = ["x"] }', "fullnat has no module ip_vs_rr"),
    ('version = "1.0"', 'version = "1.0"\npaths = ["net"]', "the makefile at their top belong together"),
    ('version = "1.0"', 'version = "1.0"\npaths = ["net"]\nkbuild = "k"', "paths are of the kernel's source"),
    ('version = "1.0"', 'version = "1.0"\npaths = ["net"]\nkbuild = "k"', "the series of director is wrong"),
    ('kernel = "stock"', 'kernel = "stock"\nseries = ["x"]', "the series of director is wrong"),
    ('kind = "module-set"', 'kind = "bpf"', "packages.fullnat: the kind of a package is missing or unknown"),
    ('kind = "module-set"', 'kind = "toa-reader"', "packages.fullnat lacks the key 'option-number'"),
    ('version = "1.0"', 'versoin = "1.0"', "unknown key 'versoin' in packages.fullnat; did you mean version?"),
]


@pytest.mark.parametrize(("old", "new", "what"), ROLE_WRONG, ids=[row[2] for row in ROLE_WRONG])
def test_a_mistake_in_a_role_of_packages_is_told(file: Path, old: str, new: str, what: str) -> None:
    assert PACKAGE.count(old) == 1
    file.write_text(LINE + PACKAGE.replace(old, new))
    found = [problem.what for problem in mistakes(file)]
    assert any(what in text for text in found), found


def test_a_package_that_a_series_patches_is_one_roles(file: Path) -> None:
    other = PACKAGE[: PACKAGE.index("[packages")].replace("director", "realserver")
    paths = 'version = "1.0"\npaths = ["net"]\nkbuild = "k"'
    file.write_text(LINE + other + PACKAGE.replace('version = "1.0"', paths))
    what = "several roles have fullnat, which is patched by the series of one"
    assert what in [problem.what for problem in mistakes(file)]


def test_the_stock_kernel_is_no_other_roles_and_every_package_is_some_roles(file: Path) -> None:
    file.write_text(LINE.replace("[roles.stock]\n", '[roles.stock]\nkernel = "stock"\n'))
    assert "the stock kernel cannot be that of another role" in [problem.what for problem in mistakes(file)]
    file.write_text(LINE + PACKAGE[PACKAGE.index("[packages") :])
    assert "no role has the package fullnat" in [problem.what for problem in mistakes(file)]


READER = """
[roles.realserver]
kernel = "stock"
packages = ["lvs-toa"]

[packages.lvs-toa]
kind = "toa-reader"
option-number = 200
"""
WRITER = """
[rules.director]
option-define = "TCPOPT_TOA"
option-number = 200
"""


def test_a_real_server_may_be_the_stock_kernel_with_a_program_that_reads_toa(file: Path) -> None:
    file.write_text(LINE + READER + WRITER)
    line = line_loader.load(line_file=file)
    registry.recipe(line)
    package = line.data.packages["lvs-toa"]
    assert isinstance(package, ToaReader) and package.option_number == 200


READER_WRONG = [
    ("200\n\n[rules", "254\n\n[rules", "lvs-toa reads the TCP option 254, the director writes 200"),
    ('TOA"\noption-number = 200', 'TOA"\noption-number = 254', "reads the TCP option 200, the director writes 254"),
    ("200\n\n[rules", "256\n\n[rules", "packages.lvs-toa.option-number: expected a number up to 255, got 256"),
    ("200\n\n[rules", '200\nsource = "x"\n\n[rules', "unknown key 'source' in packages.lvs-toa"),
]


@pytest.mark.parametrize(("old", "new", "what"), READER_WRONG, ids=[row[2] for row in READER_WRONG])
def test_a_mistake_in_what_reads_toa_is_told(file: Path, old: str, new: str, what: str) -> None:
    text = READER + WRITER
    assert text.count(old) == 1
    file.write_text(LINE + text.replace(old, new))
    found = [problem.what for problem in mistakes(file)]
    assert any(what in text for text in found), found


def test_no_kernel_of_el6s_recipe_reads_toa_by_bpf(file: Path) -> None:
    file.write_text(LINE.replace('"debian-tarball"', '"redhat-srpm"') + READER)
    with pytest.raises(FileProblems, match="no kernel of this recipe can run it"):
        registry.recipe(line_loader.load(line_file=file))
