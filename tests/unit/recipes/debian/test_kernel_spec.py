"""The spec file of a kernel from Debian's tarball: rendered for each role, and understood by rpm as it must be."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import RoleName
from pipeline.core import resources, templates
from pipeline.core.process import clean_environment, run
from pipeline.errors import BuildFailed, ExitCode, PipelineError, UsageError
from pipeline.formats import kconfig
from pipeline.packaging import rpmbuild
from pipeline.recipes.debian import kernel as recipe
from tests.fixtures.targets import LTS61

TEMPLATE = "specs/debian-tarball/kernel.spec.j2"
EPOCH = 1_760_000_000  # Thu Oct 9 2025, 08:53:20 UTC
STOCK = recipe.Parameters(
    target=LTS61,
    role=RoleName.STOCK,
    version="6.1.187",
    tarball="linux_6.1.187.orig.tar.xz",
    tree="linux-6.1.187",
    epoch=EPOCH,
)
DIRECTOR = replace(STOCK, role=RoleName.DIRECTOR, buildid=".fnat", patches=("0001-lvs.patch", "0002-sync.patch"))
REALSERVER = replace(STOCK, role=RoleName.REALSERVER, buildid=".toa", patches=("toa.patch",))
ROLES = pytest.mark.parametrize("parameters", [STOCK, DIRECTOR, REALSERVER], ids=lambda value: value.role)


class Spec:
    """A prepared build directory, asked with rpm's own programs."""

    def __init__(self, topdir: Path, parameters: recipe.Parameters) -> None:
        self.topdir = topdir
        rpmbuild.make_tree(topdir)
        self.written = recipe.prepare(topdir / "SOURCES", topdir / "SPECS", parameters)
        self.macros = rpmbuild.Macros(jobs=2, topdir=str(topdir))

    def rpmspec(self, *words: str) -> str:
        """What rpmspec says of the spec file, with the macros of a build."""
        argv = ["rpmspec", *words, *self.macros.options(), str(self.topdir / "SPECS" / recipe.SPEC)]
        result = run(argv, env=clean_environment(HOME=str(self.topdir), SOURCE_DATE_EPOCH=str(EPOCH)))
        assert result.error_text == ""  # rpm warns there of what it only half understands
        return result.text

    def query(self, form: str) -> list[str]:
        return self.rpmspec("-q", "--builtrpms", "--qf", form + "\\n").splitlines()


@pytest.fixture
def spec(tmp_path: Path, parameters: recipe.Parameters) -> Spec:
    return Spec(tmp_path, parameters)


@ROLES
def test_rpm_reads_the_three_packages_out_of_it(spec: Spec, parameters: recipe.Parameters) -> None:
    assert spec.query("%{NEVRA}") == list(parameters.nevras.values())
    release = {"stock": "1.lts61", "director": "1.fnat.lts61", "realserver": "1.toa.lts61"}[parameters.role]
    assert parameters.nevras["kernel-devel"] == f"kernel-devel-6.1.187-{release}.x86_64"


@ROLES
def test_installers_keep_several_of_it_and_find_it_by_what_uname_says(
    spec: Spec, parameters: recipe.Parameters
) -> None:
    kernel, devel, headers = (set(row.split("|")) for row in spec.query("[%{PROVIDENEVRS}|]"))
    assert kernel >= {"installonlypkg(kernel)", f"kernel-uname-r = {parameters.uname}"}
    assert devel >= {"installonlypkg(kernel)", f"kernel-devel-uname-r = {parameters.uname}"}
    assert "glibc-kernheaders = 3.0-46" in headers
    assert not any("installonlypkg" in provided for provided in headers)


@ROLES
def test_every_patch_is_declared_and_applied_by_its_own_name_in_order(
    spec: Spec, parameters: recipe.Parameters
) -> None:
    parsed = spec.rpmspec("-P")
    assert tuple(re.findall(r"^Patch\d+: (\S+)$", parsed, re.MULTILINE)) == parameters.patches
    applied = re.findall(r"^patch -p1 -F0 .* < (\S+)$", parsed, re.MULTILINE)
    assert applied == [str(spec.topdir / "SOURCES" / name) for name in parameters.patches]
    listed = run(["rpmspec", "-q", "--srpm", "--qf", "[%{PATCH} ]", *spec.macros.options(), str(spec.written[0])])
    assert sorted(listed.text.split()) == sorted(parameters.patches)


@ROLES
def test_its_sources_are_the_tarball_and_the_configuration_beside_it(spec: Spec, parameters: recipe.Parameters) -> None:
    parsed = spec.rpmspec("-P")
    assert re.findall(r"^Source\d+: (\S+)$", parsed, re.MULTILINE) == [
        parameters.tarball,
        recipe.CONFIG,
        recipe.COMPARER,
    ]
    sources = spec.topdir / "SOURCES"
    assert spec.written == [spec.topdir / "SPECS" / recipe.SPEC, sources / recipe.CONFIG, sources / recipe.COMPARER]
    assert f"cd 'linux-{parameters.version}'" in parsed


@ROLES
def test_no_macro_is_left_that_this_rpm_does_not_know(spec: Spec) -> None:
    left = set(re.findall(r"%\{?\??\w+\}?", spec.rpmspec("-P")))
    known = {"%description", "%package", "%prep", "%build", "%install", "%files", "%changelog", "%defattr", "%attr"}
    assert left <= known | {"%dir", "%ghost", "%verify", "%post", "%posttrans", "%preun"}


@ROLES
def test_the_kernel_requires_what_its_scriptlets_call_and_nothing_else(spec: Spec) -> None:
    required = {word for row in spec.query("[%{REQUIRENEVRS}|]") for word in row.split("|") if word}
    needed = {"/bin/sh", "/usr/bin/kernel-install", "dracut", "kmod"}
    assert {name for name in required if not name.startswith("rpmlib(")} == needed


@ROLES
def test_the_shell_of_every_section_parses(spec: Spec, tmp_path: Path) -> None:
    parsed = spec.rpmspec("-P")
    for section in ("prep", "install", "post", "posttrans", "preun"):  # rpmspec shows %build as part of %prep
        found = re.search(rf"^%{section}\n(.*?)(?=^%(?:\w+)\b|\Z)", parsed, re.MULTILINE | re.DOTALL)
        assert found is not None, section
        shell = "bash" if section in ("prep", "install") else "sh"
        run([shell, "-n", "-c", found[1]])


SCRIPTLETS = {"POSTIN": "depmod", "POSTTRANS": "kernel-install", "PREUN": "kernel-install"}


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize(("scriptlet", "program"), SCRIPTLETS.items())
def test_a_scriptlet_fails_with_what_it_calls(tmp_path: Path, scriptlet: str, program: str, status: int) -> None:
    body = Spec(tmp_path, STOCK).rpmspec("-q", "--builtrpms", "--qf", f"%|{scriptlet}?{{%{{{scriptlet}}}}}|")
    programs = tmp_path / "bin"
    programs.mkdir()
    shell = shutil.which("sh")
    assert shell is not None
    (programs / program).write_text(f'#!{shell}\necho "$0 $@"\nexit {status}\n')
    (programs / program).chmod(0o755)
    result = run([shell, "-c", body], env={"PATH": str(programs)}, accept=range(256))
    assert "6.1.187-1.lts61.x86_64" in result.text
    assert bool(result.status) == bool(status)
    if scriptlet == "POSTTRANS":
        next_command = "next: kernel-install --verbose add 6.1.187-1.lts61.x86_64 "
        assert (next_command in result.error_text) == bool(status)


def test_the_same_parameters_give_the_same_texts_and_others_do_not() -> None:
    assert recipe.rendered(DIRECTOR) == recipe.rendered(DIRECTOR)
    assert recipe.rendered(DIRECTOR) != recipe.rendered(replace(DIRECTOR, number=2))
    assert recipe.rendered(DIRECTOR)[recipe.SPEC] != recipe.rendered(REALSERVER)[recipe.SPEC]


def test_the_change_logs_day_is_the_sources_day() -> None:
    assert "\n* Thu Oct 09 2025 LVS-FULLNAT pipeline - 6.1.187-1.lts61\n" in recipe.rendered(STOCK)[recipe.SPEC]


# --- What it is called ---------------------------------------------------------------------------------


def test_a_line_gives_the_buildid_and_the_options_of_its_role() -> None:
    line = line_loader.load("lts61")
    made = recipe.of_line(
        line, RoleName.STOCK, version="6.1.187", tarball=STOCK.tarball, tree=STOCK.tree, patches=(), epoch=EPOCH
    )
    assert made == STOCK


def test_an_override_of_the_line_bears_its_name_in_every_package(tmp_path: Path) -> None:
    file = tmp_path / "house.toml"
    file.write_text(
        'schema = 1\nextends = "lts61"\nname = "lts61-house"\n[roles.stock]\nconfig = { CONFIG_TCP_MD5SIG = "n" }\n'
    )
    made = recipe.of_line(
        line_loader.load(line_file=file),
        RoleName.STOCK,
        version="6.1.187",
        tarball=STOCK.tarball,
        tree=STOCK.tree,
        patches=(),
        epoch=EPOCH,
    )
    assert made.uname == "6.1.187-1.override_lts61_house.lts61.x86_64"
    assert Spec(tmp_path / "top", made).query("%{NEVRA}") == [f"{name}-{made.uname}" for name in recipe.PACKAGES]
    assert recipe.requested(made)["CONFIG_TCP_MD5SIG"].value == "n"


def test_a_role_that_the_line_has_not_and_a_series_that_is_not_its_own_are_refused() -> None:
    line = line_loader.load("lts61")
    for role, patches in ((RoleName.STOCK, ("some.patch",)), (RoleName.REALSERVER, ("a", "b", "c", "d"))):
        with pytest.raises(UsageError):
            recipe.of_line(line, role, version="6.1.1", tarball="a.tar.xz", tree="linux", patches=patches, epoch=EPOCH)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "6.6.1"},
        {"version": "6.1.187-rc1"},
        {"tarball": "a b.tar.xz"},
        {"tree": "../linux"},
        {"patches": ("ok.patch", "x; rm -rf $HOME")},
        {"patches": ("%{lua:os.exit()}",)},
        {"buildid": ".a-b"},
        {"tag": ".override_" + "x" * 40},
    ],
    ids=str,
)
def test_what_cannot_stand_in_a_spec_file_or_in_uname_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        replace(STOCK, **wrong)  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.USAGE


# --- What is asked of the kernel -----------------------------------------------------------------------


@ROLES
def test_every_role_asks_for_the_release_that_uname_says(parameters: recipe.Parameters) -> None:
    asked = recipe.requested(parameters)
    assert parameters.version + asked["CONFIG_LOCALVERSION"].value.strip('"') == parameters.uname
    assert asked["CONFIG_LOCALVERSION_AUTO"].value == "n"


def test_only_the_real_server_asks_for_toa() -> None:
    assert recipe.requested(REALSERVER)["CONFIG_TOA"].value == "m"
    assert "CONFIG_TOA" not in recipe.requested(DIRECTOR) and "CONFIG_TOA" not in recipe.requested(STOCK)


def test_a_roles_options_in_the_line_file_are_laid_over_the_fragments() -> None:
    asked = recipe.requested(replace(DIRECTOR, options={"CONFIG_IP_VS_TAB_BITS": "20"}))
    assert asked["CONFIG_IP_VS_TAB_BITS"].value == "20"
    assert "line file" in asked["CONFIG_IP_VS_TAB_BITS"].where


def test_every_scheduler_and_protocol_of_ipvs_is_asked_for() -> None:
    # net/netfilter/ipvs/Kconfig of Linux 6.1
    schedulers = ["RR", "WRR", "LC", "WLC", "FO", "OVF", "LBLC", "LBLCR", "DH", "SH", "MH", "SED", "NQ", "TWOS"]
    asked = {symbol: item.value for symbol, item in recipe.requested(STOCK).items()}
    assert {asked[f"CONFIG_IP_VS_{name}"] for name in schedulers} == {"m"}
    assert {asked[f"CONFIG_IP_VS_PROTO_{name}"] for name in ("TCP", "UDP", "ESP", "AH", "SCTP")} == {"y"}
    assert (asked["CONFIG_IP_VS_IPV6"], asked["CONFIG_IP_VS_NFCT"], asked["CONFIG_IP_VS_FTP"]) == ("y", "y", "m")


def test_a_guest_boots_without_any_module() -> None:
    needed = ("VIRTIO_PCI", "VIRTIO_NET", "VIRTIO_BLK", "E1000", "PACKET", "UNIX", "INET", "IPV6", "EXT4_FS")
    asked = recipe.requested(STOCK)
    assert {asked[f"CONFIG_{name}"].value for name in (*needed, "SERIAL_8250_CONSOLE", "DEVTMPFS", "RD_XZ")} == {"y"}


def test_the_configuration_written_is_what_is_asked_for(tmp_path: Path) -> None:
    written = Spec(tmp_path, REALSERVER).written[1].read_text()
    assert kconfig.compare(recipe.requested(REALSERVER), written) == []


def test_the_spec_files_own_check_tells_what_python_tells(tmp_path: Path) -> None:
    spec = Spec(tmp_path, STOCK)
    _, wanted, comparer = spec.written
    assert f"gawk -f %{{_topdir}}/SOURCES/{comparer.name} .config".replace("%{_topdir}", "") in spec.rpmspec(
        "-P"
    ).replace(str(spec.topdir), "")
    text = wanted.read_text().replace("CONFIG_IP_VS=m\n", "").replace("CONFIG_NR_CPUS=512", "CONFIG_NR_CPUS=64")
    finished = tmp_path / ".config"
    finished.write_text(text.replace("# CONFIG_IP_VS_DEBUG is not set", "CONFIG_IP_VS_DEBUG=y"))
    # awk's language is the same in mawk; the builder has gawk
    log = tmp_path / "log"
    log.write_bytes(run(["awk", "-f", comparer, finished, wanted], accept=[1]).out)
    with pytest.raises(BuildFailed) as caught:
        recipe.explain(log, STOCK)
    compared = kconfig.compare(recipe.requested(STOCK), finished.read_text())
    assert len(compared) == 3
    assert all(str(difference) in caught.value.what for difference in compared)
    assert run(["awk", "-f", comparer, wanted, wanted]).out == b""


def test_a_log_that_tells_of_no_symbol_is_left_to_others(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: Bad exit status\n")
    recipe.explain(log, STOCK)


# --- Templates and rpmbuild ----------------------------------------------------------------------------


def test_a_variable_that_is_not_given_or_is_none_is_an_error_with_the_templates_line() -> None:
    with pytest.raises(PipelineError, match="undefined") as caught:
        templates.render(TEMPLATE, version="6.1.1")
    assert re.search(r"kernel\.spec\.j2:\d+$", caught.value.where)
    names = (
        "role",
        "version",
        "release",
        "uname",
        "summary",
        "tarball",
        "tree",
        "config",
        "comparer",
        "changelog_date",
    )
    given = dict.fromkeys(names, "x")
    templates.render(TEMPLATE, **given, patches=())
    with pytest.raises(PipelineError, match="None"):
        templates.render(TEMPLATE, **{**given, "release": None}, patches=())


def test_a_template_that_is_not_there_or_lies_elsewhere_is_an_error() -> None:
    for name in ("specs/lts61/nothing.j2", "lines/el6.toml", "specs/../lines/el6.toml"):
        with pytest.raises(PipelineError, match=r"template \S+: not found"):
            templates.render(name)
        with pytest.raises(PipelineError, match=r"template \S+: not found"):
            templates.source(name)
    assert templates.source(TEMPLATE) == (resources.specs_dir() / "debian-tarball" / "kernel.spec.j2").read_text()


def test_a_build_fixes_everything_that_could_differ() -> None:
    argv = rpmbuild.build_argv(recipe.SPEC, rpmbuild.Macros(jobs=3))
    assert argv[:3] == ["rpmbuild", "-bb", "--nodeps"] and argv[-1] == "/build/SPECS/kernel.spec"
    assert rpmbuild.build_argv(recipe.SPEC, rpmbuild.Macros(), with_source=True)[1] == "-ba"
    defined = dict(word.split(" ", 1) for word in argv if " " in word)
    assert defined["_smp_mflags"] == "-j3" and defined["kernel_cc"] == "ccache gcc"
    assert defined["_buildshell"] == "/bin/bash" and defined["_buildhost"] == "reproducible"
    assert rpmbuild.Macros(ccache=False, extra={"dist": ".x"}).defines()["kernel_cc"] == "gcc"
    assert rpmbuild.Macros(extra={"dist": ".x"}).defines()["dist"] == ".x"


def test_the_environment_has_one_time_and_no_place_of_the_host() -> None:
    environment = rpmbuild.environment(EPOCH, jobs=2)
    assert environment["SOURCE_DATE_EPOCH"] == str(EPOCH)
    assert environment["KBUILD_BUILD_TIMESTAMP"] == "Thu Oct 09 08:53:20 UTC 2025"
    paths_inside = {value for value in environment.values() if value.startswith("/")}
    assert paths_inside == {"/build", "/build/tmp", "/build/tmp/ccache.stats", "/ccache", "/dev/null"}
    without = rpmbuild.environment(EPOCH, ccache="")
    assert {name: text for name, text in without.items() if name.startswith("CCACHE")} == {"CCACHE_DISABLE": "1"}
