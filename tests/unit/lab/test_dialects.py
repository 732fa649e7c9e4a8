"""The words in which lines speak of FULLNAT and TOA: which a line has, and what its scripts do in real shells."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import LineData, RoleName
from pipeline.core import process, resources
from pipeline.core.process import clean_environment
from pipeline.lab import dialects
from tests.fixtures.machine import SHELLS

STATS = """\
                            CPU0       CPU1
syn_recv_sock_toa            :20          4
syn_recv_sock_no_toa         :1           0
getname_toa_ok               :24          0
"""
PACKAGES = """
[roles.stock]
[roles.director]
kernel = "stock"
packages = ["modules"]
[roles.realserver]
kernel = "stock"
packages = ["modules"]
[packages.modules]
kind = "module-set"
source = "linux"
summary = "x"
version = "1"
modules = ["x"]
"""


def line_of(text: str) -> LineData:
    given = {"schema": 1, "name": "toy", "title": "x", "kernel": "6.1", "sources": {}}
    return LineData.model_validate({**given, **tomllib.loads(text)})


def test_roles_with_kernels_of_their_own_speak_as_the_patches_do() -> None:
    found = dialects.of_line(line_loader.load("el6").data)
    assert (found.director, found.reader) == (dialects.PATCHED_DIRECTOR, dialects.MODULE_READER)
    assert found.option == 200


def test_the_words_follow_from_the_kinds_of_the_roles_packages_not_from_their_names() -> None:
    found = dialects.of_line(line_of(PACKAGES))
    assert found.director is dialects.MODULES_DIRECTOR
    assert found.reader is dialects.MODULE_READER, "modules on a real server are no lvs-toa"
    assert found.option is None


def test_directors_and_real_servers_of_two_lines_each_speak_as_their_own() -> None:
    el6, lts61 = (line_loader.load(name).data for name in ("el6", "lts61"))
    found = dialects.of_line(lts61, el6)
    assert (found.director, found.reader) == (dialects.MODULES_DIRECTOR, dialects.MODULE_READER)
    found = dialects.of_line(el6, lts61)
    assert (found.director, found.reader) == (dialects.PATCHED_DIRECTOR, dialects.PROGRAM_READER)
    assert dialects.of_line(el6, line_of("[roles.stock]")).option == 200, "the number that the director writes"


def test_a_line_without_roles_but_stock_has_words_all_the_same() -> None:
    assert dialects.of_line(line_of("[roles.stock]")).option is None


def test_what_toa_counts_is_summed_over_processors() -> None:
    assert dialects.MODULE_READER.count(STATS) == (24, 1)
    assert dialects.MODULE_READER.count("") == (0, 0)


def test_what_lvs_toa_counts_is_read_out_of_its_status() -> None:
    counters = {"seen": 25, "accepted": 24, "without": 3, "answered": 50}
    said = json.dumps({"version": "1.0", "state": "running", "counters": counters})
    assert dialects.PROGRAM_READER.count(said) == (24, 3)
    assert dialects.PROGRAM_READER.count(json.dumps({"version": "1.0", "state": "stopped"})) == (0, 0)
    assert dialects.PROGRAM_READER.count("") == (0, 0), "there is no such program"


def run(shell: str, script: str, place: Path) -> process.Result:
    """A script in a shell that can mount nothing: busybox' prefers its own programs to the path's, not to functions."""
    words = ["busybox", "sh"] if shell == "busybox" else [shell]
    mounting = f'mount() {{ echo "mount $*" >>{place}/log; }}\n'
    given = clean_environment(PATH=f"{place}/bin:/usr/bin:/bin")
    return process.run([*words, "-ec", mounting + script], env=given, accept=range(256), timeout=20)


def program(place: Path, name: str, text: str) -> None:
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
    (place / "bin" / name).chmod(0o755)


@pytest.mark.parametrize("shell", SHELLS)
def test_local_ports_are_limited_and_given_back_as_they_were(shell: str, tmp_path: Path) -> None:
    words = dialects.PATCHED_DIRECTOR
    limits = {"fullnat_lport_min": "5000\n", "fullnat_lport_max": "65000\n"}
    for name, value in limits.items():
        (tmp_path / name).write_text(value)

    def here(script: str) -> str:
        return script.replace("/proc/sys/net/ipv4/vs", str(tmp_path)).replace("/run/", f"{tmp_path}/")

    assert run(shell, here(f"FIRST=60000\nLAST=60001\n{words.limit_ports}"), tmp_path).status == 0
    assert [(tmp_path / name).read_text() for name in limits] == ["60000\n", "60001\n"]
    assert run(shell, here(words.free_ports), tmp_path).status == 0
    assert {name: (tmp_path / name).read_text() for name in limits} == limits


@pytest.mark.parametrize("shell", SHELLS)
def test_ports_of_a_local_address_are_limited_by_ipvsadm(shell: str, tmp_path: Path) -> None:
    program(tmp_path, "ipvsadm", f'echo "$*" >>{tmp_path}/log')
    for script in (dialects.MODULES_DIRECTOR.limit_ports, dialects.MODULES_DIRECTOR.free_ports):
        named = "SERVICE=192.0.2.1:80\nLOCAL=192.0.2.9\nFIRST=60000\nLAST=60001\n"
        assert run(shell, named + script, tmp_path).status == 0
    assert (tmp_path / "log").read_text().splitlines() == [
        "--edit-laddr -t 192.0.2.1:80 --laddr 192.0.2.9:60000-60001",
        "--edit-laddr -t 192.0.2.1:80 --laddr 192.0.2.9",
    ]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("status", [0, 1])
def test_reading_by_lvs_toa_starts_with_the_director_in_its_configuration(
    shell: str, status: int, tmp_path: Path
) -> None:
    conf = tmp_path / "lvs-toa.conf"
    conf.write_text("option = 200\n")
    program(tmp_path, "lvs-toa", f'echo "lvs-toa $*" >>{tmp_path}/log; exit {status}')
    script = dialects.PROGRAM_READER.start.replace("/etc/lvs-toa.conf", str(conf)).replace("/proc/mounts", "/dev/null")
    assert run(shell, f"TRUST=192.0.2.9\n{script}", tmp_path).status == status
    assert conf.read_text() == "option = 200\ntrust = 192.0.2.9\n"
    rows = (tmp_path / "log").read_text().splitlines()
    assert rows == ["mount -t cgroup2 cgroup2 /sys/fs/cgroup", "mount -t bpf bpf /sys/fs/bpf", "lvs-toa start"]
    assert run(shell, script, tmp_path).status == status
    assert conf.read_text().count("trust") == 1, "nobody more is trusted"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_guest_without_lvs_toa_reads_nothing_and_ends_with_an_error(shell: str, tmp_path: Path) -> None:
    reader = dialects.PROGRAM_READER
    assert run(shell, reader.start.replace("/proc/mounts", "/dev/null"), tmp_path).status == 127
    assert run(shell, reader.reads, tmp_path).status == 127
    assert reader.count(run(shell, reader.stats, tmp_path).text) == (0, 0)


@pytest.mark.parametrize("line", resources.line_names())
def test_the_option_is_the_one_that_the_lines_rules_prove(line: str) -> None:
    data = line_loader.load(line).data
    rules = {role: rule.option_number for role, rule in data.rules.items()}
    assert dialects.of_line(data).option == rules.get(RoleName.DIRECTOR)
