"""The scripts of roles, for real in network namespaces, run by dash and by busybox' shell and programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import process
from tests.fixtures.machine import OTHERS_RULES, Machine
from tests.fixtures.rolescripts import CONF, DR, FULLNAT, NAT, REDIRECT, TABLE, TUN, life, value

# --- A real server ---------------------------------------------------------------------------------------


def test_direct_routing_puts_the_vips_on_lo_and_is_silent_about_them(server: Machine) -> None:
    new = life(server, DR)
    assert [line for line in new if " inet " in line and " lo " in line and "203.0.113.1" in line] == [
        line for line in new if " inet " in line
    ]
    assert sum("/32" in line for line in new) == 2
    assert {line for line in new if "arp" in line} == {"conf/all/arp_ignore:1", "conf/all/arp_announce:2"}
    assert "iptables" not in server.log


def test_silence_comes_before_the_address_and_goes_after_it(server: Machine) -> None:
    server.configure(DR)
    server("start")
    items = [line.split()[:2] for line in Path(server.paths.state).read_text().splitlines()]
    assert items[1:4] == [
        ["atleast", "net/ipv4/conf/all/arp_ignore"],
        ["atleast", "net/ipv4/conf/all/arp_announce"],
        ["address", "203.0.113.10"],
    ]


def test_tunnels_get_the_vip_without_the_filter_and_other_devices_keep_theirs(server: Machine) -> None:
    new = life(server, TUN)
    # `all` was 1, which every device had at least; now each has it as its own.
    assert "conf/all/rp_filter:0" in new
    assert {"conf/eth0/rp_filter:1", "conf/lo/rp_filter:1", "conf/default/rp_filter:1"} <= set(new)
    assert not [line for line in new if "eth1/rp_filter" in line or "tunl0/rp_filter" in line]
    assert any("tunl0" in line and "203.0.113.10/32" in line for line in new)
    assert any("tunl0" in line and "UP" in line for line in new)


def test_a_filter_of_the_tunnels_own_is_given_back(server: Machine) -> None:
    server.sh(f"echo 2 >{CONF}/tunl0/rp_filter")
    assert "conf/tunl0/rp_filter:0" in life(server, TUN)


def test_a_missing_tunnel_device_is_made_by_the_module(server: Machine, tmp_path: Path) -> None:
    server.sh("ip link del tunl0")
    server.configure(TUN)
    before = server.snapshot()
    assert server("start") == 1
    assert server.snapshot() == before and server("status") == 3
    server.has_module("ipip", "/sbin/ip link add tunl0 type veth peer name peer2")
    assert server("start") == 0
    assert server("status") == 0 and server("stop") == 0


def test_redirection_adds_its_rules_and_leaves_all_others(server: Machine) -> None:
    new = life(server, REDIRECT)
    assert not [line for line in new if "inet" in line or "arp" in line]
    server("start")
    mine = server.rules.removeprefix(OTHERS_RULES)
    assert server.rules.startswith(OTHERS_RULES)
    assert mine.splitlines() == [
        "-A PREROUTING -d 203.0.113.10/32 -p tcp -m tcp --dport 80 -j REDIRECT ",
        "-A PREROUTING -d 203.0.113.10/32 -p udp -m udp --dport 53 -j REDIRECT ",
    ]
    calls = {line.split()[3] for line in server.log.splitlines() if line.startswith("iptables")}
    assert calls == {"-S", "-A", "-D"}, "nothing is flushed, ever"


def test_a_rule_that_was_there_already_stays(server: Machine) -> None:
    server.configure("MODES=dr\nVIP=192.0.2.77\nDR_RECEIVE=redirect\nREDIRECT_PORTS=tcp/80\n")
    assert [server("start"), server("status"), server("stop")] == [0, 0, 0]
    assert server.rules == OTHERS_RULES


def test_redirection_without_iptables_says_that_it_is_not_installed(server: Machine) -> None:
    script = Path(server.paths.script)
    # as `command -v` answers where there is none, whether or not this host has it
    script.write_text(script.read_text().replace("command -v iptables", "command -v no-iptables"))
    server.configure(REDIRECT)
    before = server.snapshot()
    found = server.call("start")
    assert (found.status, "iptables" in found.error_text) == (5, True)
    assert server.snapshot() == before


def test_toa_is_loaded_where_the_kernel_has_it(server: Machine, tmp_path: Path) -> None:
    server.has_module("toa", f": >{tmp_path}/proc/net/toa_stats")
    server.configure("MODES=fullnat\n")
    assert "toa is loaded" in server.call("start").text
    assert server("status") == 0
    assert server("stop") == 0
    assert server.log == "modprobe toa\n", "it stays loaded: connections may use it"


def test_without_toa_the_start_says_so_and_succeeds(server: Machine) -> None:
    server.configure("MODES=fullnat\n")
    started = server.call("start")
    assert started.status == 0 and "has no toa" in started.text
    found = server.call("status")
    assert found.status == 0 and "TOA is not read" in found.text


def test_toa_that_is_required_and_missing_is_an_error(server: Machine) -> None:
    server.configure("MODES=fullnat dr\nVIP=203.0.113.10\nTOA=require\n")
    before = server.snapshot()
    assert server("start") == 1
    assert server.snapshot() == before and server("status") == 3


def test_toa_is_left_alone_when_it_is_not_wanted(server: Machine) -> None:
    server.configure("MODES=fullnat\nTOA=no\n")
    assert server("start") == 0 and server.log == ""


# lvs-toa as it ends in each state; it is running while the file `running` is there.
LVS_TOA = """echo "lvs-toa $1" >>{root}/log
case $1 in
start) [ -e {root}/able ] || { echo "kernel: takes no BPF programs" >&2; exit 1; }; : >{root}/running ;;
status) [ -e {root}/running ] || exit 3 ;;
esac"""


def test_lvs_toa_is_started_where_it_is_not_running(packaged_server: Machine, tmp_path: Path) -> None:
    server = packaged_server
    server.has_program("lvs-toa", LVS_TOA.replace("{root}", str(tmp_path)))
    (tmp_path / "able").touch()
    server.configure("MODES=fullnat\nTOA=require\n")
    assert "lvs-toa: servers see the clients' addresses" in server.call("start").text
    assert server("start") == 0 and server("status") == 0 and server("stop") == 0
    asked = [line for line in server.log.splitlines() if line != "lvs-toa status"]
    assert asked == ["lvs-toa start"], "once, and it stays: connections may use it; no module is asked for"


def test_lvs_toa_that_cannot_start_says_so_itself_and_is_an_error_where_it_is_required(
    packaged_server: Machine, tmp_path: Path
) -> None:
    server = packaged_server
    server.has_program("lvs-toa", LVS_TOA.replace("{root}", str(tmp_path)))
    server.configure("MODES=fullnat\n")
    started = server.call("start")
    assert started.status == 0 and "lvs-toa cannot read TOA on this machine: behind FULLNAT" in started.text
    assert "kernel: takes no BPF programs" in started.error_text
    assert server("status") == 0 and server("stop") == 0
    server.configure("MODES=fullnat\nTOA=require\n")
    refused = server.call("start")
    assert refused.status == 1 and "TOA=require; nothing was changed" in refused.error_text
    assert server("status") == 3


def test_lvs_toa_that_ended_meanwhile_is_told_by_status(packaged_server: Machine, tmp_path: Path) -> None:
    server = packaged_server
    server.has_program("lvs-toa", LVS_TOA.replace("{root}", str(tmp_path)))
    (tmp_path / "able").touch()
    server.configure("MODES=fullnat\nTOA=require\n")
    assert server("start") == 0
    (tmp_path / "running").unlink()
    found = server.call("status")
    assert found.status == 1 and "TOA is not read" in found.text


def test_a_packaged_server_leaves_lvs_toa_alone_when_it_is_not_wanted(packaged_server: Machine, tmp_path: Path) -> None:
    packaged_server.has_program("lvs-toa", LVS_TOA.replace("{root}", str(tmp_path)))
    for text in ("MODES=fullnat\nTOA=no\n", DR):
        packaged_server.configure(text)
        assert packaged_server("start") == 0 and packaged_server.log == ""


def test_behind_fullnat_reused_time_waits_are_warned_of(server: Machine) -> None:
    server.file("sys/net/ipv4/tcp_tw_recycle", "1\n")
    server.configure("MODES=fullnat\n")
    assert "tcp_tw_recycle" in server.call("start").error_text


def test_a_gateway_that_is_not_the_director_is_told_and_not_changed(server: Machine) -> None:
    server.configure("MODES=nat\nGATEWAY=192.0.2.10\n")
    before = server.snapshot()
    started = server.call("start")
    assert started.status == 0 and "192.0.2.10" in started.error_text
    assert server("status") == 1
    assert server.snapshot() == before
    server.sh("ip route add default via 192.0.2.10")
    assert server("status") == 0


# --- A director ------------------------------------------------------------------------------------------


def test_a_nat_director_forwards_and_sends_no_redirects(director: Machine) -> None:
    new = life(director, NAT)
    assert "ip_forward:1" in new
    assert {f"conf/{name}/send_redirects:0" for name in ("all", "default", "eth0", "tunl0")} <= set(new)
    assert any("eth0" in line and "203.0.113.10/32" in line for line in new)
    assert director.log == "modprobe ip_vs\n", "loaded once, and never unloaded"


def test_what_the_kernel_resets_along_with_forwarding_is_given_back(director: Machine) -> None:
    before = director.snapshot()
    director.configure(NAT)
    director("start")
    director("stop")
    # With ip_forward off the kernel takes redirects, and forwards from no device at all.
    assert value(director, "all/accept_redirects") == "0"
    assert value(director, "eth1/forwarding") == "1"
    assert director.snapshot() == before


def test_forwarding_that_was_on_stays_on(director: Machine) -> None:
    director.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv4/conf/all/accept_redirects")
    assert not [line for line in life(director, NAT) if "ip_forward" in line or "accept_redirects" in line]


@pytest.mark.parametrize("mode", ["dr", "tun"])
def test_the_other_modes_need_no_sysctl(director: Machine, mode: str) -> None:
    new = life(director, f"MODES={mode}\nVIP=203.0.113.10\nVIP_DEVICE=eth0\n")
    assert len(new) == 1 and "203.0.113.10/32" in new[0]


def test_fullnat_is_refused_by_a_kernel_that_would_masquerade(director: Machine) -> None:
    director.configure(FULLNAT)
    before = director.snapshot()
    found = director.call("start")
    assert found.status == 1 and "has no FULLNAT" in found.error_text
    assert director.snapshot() == before and director("status") == 3


def test_fullnat_of_modules_is_refused_where_ipvsadm_finds_no_family_of_it(packaged_director: Machine) -> None:
    director = packaged_director
    director.has_program("ipvsadm", 'echo "no FULLNAT in this kernel" >&2; exit 1')
    director.configure(FULLNAT)
    before = director.snapshot()
    found = director.call("start")
    assert found.status == 1 and "has no FULLNAT, kmod-lvs-fullnat does" in found.error_text
    assert "(no FULLNAT in this kernel)" in found.error_text
    assert director.snapshot() == before and director("status") == 3


def test_fullnat_of_modules_is_told_by_its_family_whatever_sysctls_there_are(
    packaged_director: Machine, tmp_path: Path
) -> None:
    director = packaged_director
    director.has_program("ipvsadm", f'echo "ipvsadm $*" >>{tmp_path}/log; echo "FULLNAT version 1"')
    director.configure(FULLNAT)
    started = director.call("start")
    assert (started.status, started.error_text) == (0, "") and "FULLNAT version" not in started.text
    assert "ipvsadm --get-laddr" in director.log
    assert director("status") == 0 and director("stop") == 0


def test_a_packaged_director_without_fullnat_among_its_modes_asks_for_no_family(packaged_director: Machine) -> None:
    director = packaged_director
    director.has_program("ipvsadm", "exit 1")
    director.configure(NAT)
    assert director("start") == 0 and director("stop") == 0


def test_a_fullnat_director_answers_arp_per_network_and_has_local_addresses(director: Machine) -> None:
    director.file("sys/net/ipv4/vs/fullnat_lport_min", "5000\n")
    new = life(director, FULLNAT)
    assert {"conf/all/arp_ignore:1", "conf/all/arp_announce:2"} <= set(new)
    assert any("eth1" in line and "192.168.1.1/32" in line for line in new)
    assert "ip_forward:1" not in new


def test_the_size_of_the_table_goes_to_the_module(director: Machine) -> None:
    director.configure("MODES=dr\nIPVS_TAB_BITS=12\n")
    started = director.call("start")
    assert (started.status, started.error_text) == (0, "")
    assert director.log == "modprobe ip_vs conn_tab_bits=12\n"


def test_a_table_of_another_size_is_told(director: Machine) -> None:
    director.file("net/ip_vs", TABLE)
    director.configure("MODES=dr\nIPVS_TAB_BITS=13\n")
    started = director.call("start")
    assert started.status == 0 and "4096 entries, not 8192" in started.error_text


def test_a_kernel_without_ipvs_is_an_error(director: Machine) -> None:
    (director.root / "modules/ip_vs").unlink()
    director.configure("MODES=dr\n")
    assert director("start") == 1 and director("status") == 3


def test_a_loose_filter_is_set_and_given_back(director: Machine) -> None:
    assert life(director, "MODES=dr\nRP_FILTER=loose\n") == ["conf/all/rp_filter:2"]


def test_a_device_that_is_not_there_stops_the_start_before_anything(director: Machine) -> None:
    director.configure(NAT.replace("eth0", "eth7"))
    before = director.snapshot()
    assert director("start") == 1
    assert director.snapshot() == before and director.log == "" and director("status") == 3


# --- What belongs to others ------------------------------------------------------------------------------


def test_an_address_that_was_there_already_stays(server: Machine) -> None:
    server.sh("ip addr add 203.0.113.10/32 dev lo")
    before = server.snapshot()
    server.configure(DR)
    assert [server("start"), server("status"), server("stop")] == [0, 0, 0]
    assert server.snapshot() == before


def test_a_sysctl_changed_after_us_stays(server: Machine) -> None:
    server.configure(DR)
    server("start")
    server.sh(f"echo 3 >{CONF}/all/arp_ignore")
    assert server("status") == 0, "stricter is as good"
    stopped = server.call("stop")
    assert stopped.status == 0 and "arp_ignore is 3" in stopped.text
    assert value(server, "all/arp_ignore") == "3"
    assert value(server, "all/arp_announce") == "0"


def test_a_stricter_sysctl_is_not_loosened(server: Machine) -> None:
    server.sh(f"echo 2 >{CONF}/all/arp_ignore")
    assert not [line for line in life(server, DR) if "arp_ignore" in line]


def test_what_somebody_took_away_is_missed_and_repaired(server: Machine) -> None:
    server.configure(DR)
    server("start")
    during = server.snapshot()
    server.sh(f"ip addr del 203.0.113.11/32 dev lo; echo 0 >{CONF}/all/arp_announce")
    found = server.call("status")
    assert found.status == 1
    assert "missing: address 203.0.113.11 lo" in found.text and "arp_announce" in found.text
    assert server("start") == 0
    assert server.snapshot() == during and server("status") == 0


def test_a_changed_configuration_takes_back_what_it_no_longer_names(server: Machine) -> None:
    before = server.snapshot()
    server.configure(DR)
    server("start")
    server.configure(DR.replace(" 203.0.113.11", ""))
    found = server.call("status")
    assert found.status == 1 and "no longer wanted: address 203.0.113.11 lo" in found.text
    assert server("reload") == 0 and server("status") == 0
    assert "203.0.113.11" not in "".join(server.snapshot())
    server.configure(TUN)
    assert server("start") == 0 and server("status") == 0
    assert not [line for line in server.snapshot() if " lo " in line and "203.0.113" in line]
    assert server("stop") == 0
    assert server.snapshot() == before


def test_a_record_from_before_a_reboot_undoes_nothing(server: Machine) -> None:
    server.sh(f"ip addr add 203.0.113.10/32 dev lo; mkdir -p {Path(server.paths.state).parent}")
    Path(server.paths.state).write_text("boot another\naddress 203.0.113.10 lo\nstarted\n")
    before = server.snapshot()
    assert server("status") == 3
    assert server("stop") == 0
    assert server.snapshot() == before


# --- Kills -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["start", "stop"])
def test_a_killed_run_is_repaired_by_start_and_undone_by_stop(server: Machine, phase: str) -> None:
    before = server.snapshot()
    server.configure(TUN)
    assert server("start") == 0
    during = server.snapshot()
    number, step = 1, 3 if phase == "start" else 1
    while True:
        if phase == "start":
            server("stop")
        else:
            server("start")
        if not server.killed_at(number, phase):
            break
        if server("status") == (3 if phase == "start" else 0):
            assert server.snapshot() == (before if phase == "start" else during), "killed before it changed anything"
        else:
            assert server("status") in (1, 3)
        if number % 2:
            assert server("start") == 0, f"killed at call {number}"
            assert server("status") == 0 and server.snapshot() == during
        assert server("stop") == 0
        assert server.snapshot() == before, f"killed at call {number}"
        number += step
    assert number > 10


def test_two_starts_at_once_are_one_too_many(server: Machine) -> None:
    server.configure(DR)
    lock = Path(f"{server.paths.state}.lock")
    lock.parent.mkdir(parents=True)
    with process.start(["flock", str(lock), "sleep", "60"]):
        deadline = 100
        while process.run(["flock", "-n", lock, "true"], accept=(0, 1)).status == 0 and deadline:
            deadline -= 1
        found = server.call("start")
        assert found.status == 1 and "under way" in found.error_text
        assert server("status") == 3
    assert server("start") == 0
