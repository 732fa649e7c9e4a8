"""The configuration and the command line of the roles' scripts: every mistake is told, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.line_model import RoleName
from pipeline.recipes import role_packages
from tests.fixtures.machine import Machine
from tests.fixtures.rolescripts import DR
from tests.fixtures.targets import roles

# --- Configuration ---------------------------------------------------------------------------------------


BROKEN_SERVER = {
    "": "MODES is empty",
    "MODES=\n": "MODES is empty",
    "MODES=dr nonsense\n": "line 1: MODES: 'nonsense' is none of: fullnat nat dr tun",
    "MODES=dr\n": "the mode dr needs VIP",
    "MODES=nat\nVIP=192.0.2.1\n": "VIP is for the modes dr and tun only",
    "MODES=dr\nVIP=192.0.2.256\n": "line 2: VIP: '192.0.2.256' is not an IPv4 address",
    "MODES=dr\nVIP=192.0.2.1/24\n": "line 2: VIP: '192.0.2.1/24'",
    "MODES=dr\nVIP=192.0.2.01\n": "line 2: VIP: '192.0.2.01'",
    "MODES=dr\nVIP=1.2.3\n": "line 2: VIP: '1.2.3'",
    "MODES=dr\nVIP=$(touch executed)\n": "line 2: VIP: only letters",
    'MODES="dr"\nVIP=192.0.2.1\n': "line 1: MODES: only letters",
    "MODES=dr\r\nVIP=192.0.2.1\r\n": "line 1: MODES: only letters",
    "MODES=dr\nVIP=192.0.2.1\nVIP=192.0.2.2\n": "line 3: VIP: given a second time",
    "MODES=dr\nVIP=192.0.2.1\nVPI=192.0.2.2\n": "line 3: no setting is called 'VPI'; there are: MODES VIP",
    "MODES=dr\nVIP=192.0.2.1\ntouch executed\n": "line 3: not KEY=value: touch executed",
    "MODES=dr\nVIP=192.0.2.1\nDR_RECEIVE=redirect\n": "DR_RECEIVE=redirect needs REDIRECT_PORTS",
    "MODES=dr\nVIP=192.0.2.1\nREDIRECT_PORTS=tcp/80\n": "REDIRECT_PORTS is for DR_RECEIVE=redirect only",
    "MODES=dr\nVIP=192.0.2.1\nDR_RECEIVE=redirect\nREDIRECT_PORTS=80 tcp/0 tcp/70000 sctp/1\n": "'tcp/70000' is not",
    "MODES=dr\nVIP=192.0.2.1\nTOA=\n": "line 3: TOA: '' must be one word",
    "MODES=dr\nVIP=192.0.2.1\nTOA=auto no\n": "line 3: TOA: 'auto no' must be one word",
    "MODES=dr\nVIP=192.0.2.1\nGATEWAY=192.0.2.9\n": "GATEWAY is for the mode nat only",
    "MODES=nat\nGATEWAY=192.0.2.9 192.0.2.8\n": "line 2: GATEWAY: '192.0.2.9 192.0.2.8' is not one IPv4 address",
}
BROKEN_DIRECTOR = {
    "MODES=nat\nVIP=192.0.2.1\n": "VIP needs VIP_DEVICE",
    "MODES=nat\nLOCAL_ADDRESS=192.0.2.1\nLOCAL_DEVICE=eth0\n": "LOCAL_ADDRESS is for the mode fullnat only",
    "MODES=fullnat\nLOCAL_ADDRESS=192.0.2.1\n": "LOCAL_ADDRESS needs LOCAL_DEVICE",
    "MODES=nat\nVIP_DEVICE=../../etc\n": "line 2: VIP_DEVICE: '../../etc' is not the name of a network device",
    "MODES=nat\nVIP_DEVICE=a2345678901234567\n": "line 2: VIP_DEVICE:",
    "MODES=nat\nIPVS_TAB_BITS=7\n": "line 2: IPVS_TAB_BITS: '7' is not a number from 8 to 22",
    "MODES=nat\nIPVS_TAB_BITS=23\n": "line 2: IPVS_TAB_BITS: '23'",
    "MODES=nat\nIPVS_TAB_BITS=0x10\n": "line 2: IPVS_TAB_BITS: '0x10'",
    "MODES=nat\nIP_FORWARD=no\n": "line 2: IP_FORWARD: 'no' is none of: auto yes keep",
}


def refused(one: Machine, broken: dict[str, str]) -> None:
    before = one.snapshot()
    for text, said in broken.items():
        one.configure(text)
        found = one.call("start")
        assert (found.status, found.text) == (6, ""), text
        assert said in found.error_text and "nothing was changed" in found.error_text, text
        assert one("check") == 6 and one("status") == 3, text
    assert one.snapshot() == before
    assert not Path(one.paths.state).exists() and one.log == ""


def test_a_broken_configuration_of_a_server_changes_nothing(server: Machine) -> None:
    refused(server, BROKEN_SERVER)


def test_a_broken_configuration_of_a_director_changes_nothing(director: Machine) -> None:
    refused(director, BROKEN_DIRECTOR)


def test_every_mistake_is_told_at_once(server: Machine) -> None:
    server.configure("# x\n\nMODES=x\n  VIP=y  \nZ=1\n")
    said = server.call("start").error_text.splitlines()
    assert [line.split(": ")[1] for line in said[:3]] == ["line 3", "line 4", "line 5"]
    assert len(said) == 4


def test_the_configuration_as_installed_is_not_configured_yet(server: Machine) -> None:
    found = server.call("start")
    assert found.status == 6 and "MODES is empty" in found.error_text


def test_a_missing_configuration_is_not_configured(server: Machine) -> None:
    Path(server.paths.conf).unlink()
    assert server("start") == 6


def test_a_configuration_without_a_last_newline_and_with_every_setting_is_read(director: Machine) -> None:
    rows = {"MODES": "dr", "LOCAL_ADDRESS": "", "LOCAL_DEVICE": "", "IPVS_TAB_BITS": "12"}
    text = "\n".join(
        f"{row.name}={rows.get(row.name, row.example or row.default)}"
        for row in role_packages.SETTINGS[RoleName.DIRECTOR]
    )
    director.configure(text)
    assert director("check") == 0
    director.configure(text + "0")
    assert director("check") == 6


def test_a_configuration_that_broke_takes_nothing_away_and_can_be_stopped(server: Machine) -> None:
    before = server.snapshot()
    server.configure(DR)
    server("start")
    during = server.snapshot()
    server.configure("MODES=nonsense\n")
    assert [server("start"), server("restart"), server("reload"), server("try-restart")] == [6, 6, 6, 6]
    assert server("status") == 4
    assert server.snapshot() == during
    assert server("stop") == 0
    assert server.snapshot() == before


# --- The command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["nonsense"], ["start", "now"], ["--help"]])
def test_a_wrong_command_line_is_told_the_usage(server: Machine, words: list[str]) -> None:
    found = server.call(*words)
    assert found.status == 2 and found.error_text.startswith("usage: ")


def test_only_root_may_start_and_stop(server: Machine) -> None:
    server.configure(DR)
    server.plays("id", "#!/bin/sh\necho 1000\n")
    before = server.snapshot()
    assert [server("start"), server("stop"), server("status")] == [4, 4, 3]
    assert server.snapshot() == before


def test_the_init_script_hands_its_word_and_the_status_through(server: Machine) -> None:
    parameters = roles("el6", epoch=0)
    text = next(file.text for file in role_packages.installed(parameters) if file.source.endswith("realserver.init"))
    assert f'exec {parameters.paths(RoleName.REALSERVER).script} "$@"' in text
    role = server.root / "role"
    role.write_text(
        role.read_text().replace("#!/bin/sh", f"#!{'/bin/busybox sh' if server.shell == 'busybox' else '/bin/sh'}")
    )
    role.chmod(0o755)
    init = server.root / "init"
    init.write_text(text.replace(parameters.paths(RoleName.REALSERVER).script, str(role)))
    server.configure(DR)

    def service(*words: str) -> int:
        return server.inside("/bin/sh", str(init), *words, accept=range(256)).status

    assert [service("status"), service("start"), service("status"), service("stop"), service()] == [3, 0, 0, 0, 2]
