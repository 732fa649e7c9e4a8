"""Check keepalived with the role package's own example: failing servers, and two directors."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.errors import TestsFailed
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import ScenarioContext
from pipeline.lab.scenarios import ipvs, nat
from pipeline.lab.topology import GuestPlan, Interface, Part
from pipeline.lab.vm.machine import Machine

EXAMPLE = "/usr/share/doc/lvs-fnat-director/examples/keepalived-nat.conf"
CONF, DOWN = "/etc/keepalived/keepalived.conf", "/etc/keepalived/down"
TEST = "/usr/bin/test"  # what the example's script calls
SORRY_PORT = 81
DIRECTORS = ("director1", "director2")
# Seconds. A check a second and one retry: out after 3; VRRP: three advertisements of a second, and a part of one.
START_TIMEOUT, CHECK_TIMEOUT, FAILOVER_TIMEOUT = 30.0, 10.0, 10.0
# What the example says, and what is quicker or more here.
_EXAMPLE_CHANGES = (
    ("delay_loop 3", "delay_loop 1"),
    ("delay_before_retry 3", "delay_before_retry 1"),
    ("retry 3", "retry 1"),
    ("connect_timeout 3", "connect_timeout 1"),
    ("protocol TCP\n", f"protocol TCP\n    sorry_server 192.168.100.9 {SORRY_PORT}\n"),
)
_BACKUP = (("state MASTER", "state BACKUP"), ("priority 101", "priority 100"))


def act(context: ScenarioContext) -> None:
    """Run the scenario."""
    for name in DIRECTORS:
        _start(context, name)
    running = {name: context.start_tcp_server(name) for name in nat.SERVERS}
    context.start_tcp_server("server2", SORRY_PORT)
    context.check_eventually(
        "keepalived: directors with the VIP at first", ["director1"], lambda: _vip_holders(context), START_TIMEOUT
    )
    _check_table(context, "director1", "keepalived: servers in the table at first", [nat.FIRST, nat.SECOND])
    context.check_distribution(
        "keepalived, rr: requests per server", {"server1": 4, "server2": 4}, context.request("client", nat.VIP, count=8)
    )
    _check_server_failure(context, running)
    _check_sorry_server(context, running)
    _check_down_file(context)
    _check_cut_off(context)


def _start(context: ScenarioContext, name: str) -> None:
    machine = context[name]
    ipvs.configure_role(machine, "director", {"MODES": "nat"})
    text = machine.read_file(EXAMPLE).decode()
    for old, new in (*_EXAMPLE_CHANGES, *(_BACKUP if name == "director2" else ())):
        if old not in text:
            raise TestsFailed(f"{EXAMPLE}: no {old!r} in it; expected the example of the role packages", where=name)
        text = text.replace(old, new)
    machine.write_file(CONF, text.encode())
    # keepalived runs what a link leads to, and busybox goes by the name that it is called by.
    machine.run("rm", TEST)
    machine.write_file(TEST, b'#!/bin/sh\ntest "$@"\n', 0o755)
    machine.start("syslogd", "-n", "-O", "/run/messages")  # where an old keepalived says what it does
    machine.start("keepalived", "-n", "-l", "-D", "-f", CONF)


def _vip_holders(context: ScenarioContext) -> list[str]:
    return [name for name in DIRECTORS if _has_address(context[name], nat.VIP)]


def _has_address(machine: Machine, address: str) -> bool:
    return f" {address}/" in machine.run("ip", "-4", "address", "show", "dev", "eth0").out


def _check_table(context: ScenarioContext, director: str, name: str, wanted: list[str]) -> None:
    def look() -> list[str]:
        return [row.split()[0] for row in ipvs.list_servers(context[director], nat.SERVICE)]

    context.check_eventually(name, sorted(wanted), look, CHECK_TIMEOUT)


def _check_server_failure(context: ScenarioContext, running: dict[str, int]) -> None:
    context["server1"].stop(running.pop("server1"))
    _check_table(context, "director1", "keepalived: servers in the table after server1 died", [nat.SECOND])
    context.check_distribution(
        "keepalived, one server dead: requests per server", {"server2": 4}, context.request("client", nat.VIP, count=4)
    )
    running["server1"] = context.start_tcp_server("server1")
    _check_table(
        context, "director1", "keepalived: servers in the table after server1 returned", [nat.FIRST, nat.SECOND]
    )


def _check_sorry_server(context: ScenarioContext, running: dict[str, int]) -> None:
    for name, number in running.items():
        context[name].stop(number)
    _check_table(
        context, "director1", "keepalived: servers in the table when all are dead", [f"192.168.100.9:{SORRY_PORT}"]
    )
    found = context.request("client", nat.VIP, count=2)
    context.check(
        "keepalived: ports that answer when all servers are dead",
        [SORRY_PORT] * 2,
        [answer.server_address[1] for answer in found],
    )
    for name in nat.SERVERS:
        running[name] = context.start_tcp_server(name)
    _check_table(context, "director1", "keepalived: servers in the table after all returned", [nat.FIRST, nat.SECOND])


def _check_down_file(context: ScenarioContext) -> None:
    first = context["director1"]
    _check_failover(context, "keepalived: the file down is made", "director2", lambda: first.write_file(DOWN, b""))
    _check_failover(context, "keepalived: the file down is removed", "director1", lambda: first.run("rm", DOWN))


def _check_cut_off(context: ScenarioContext) -> None:
    def set_cards(state: str) -> None:
        context.run_script(context["director1"], f"ip link set eth0 {state}; ip link set eth1 {state}")

    _check_failover(context, "keepalived: director1 is cut off", "director2", lambda: set_cards("down"))
    _check_failover(context, "keepalived: director1 is back", "director1", lambda: set_cards("up"))


def _check_failover(context: ScenarioContext, name: str, to: str, cause: Callable[[], object]) -> None:
    """Cause a failover, check its end at the director `to`, and measure the times until there."""
    begun = time.monotonic()
    cause()
    if context.check_eventually(
        f"{name}: {to} has the VIP", True, lambda: _has_address(context[to], nat.VIP), FAILOVER_TIMEOUT
    ):
        context.measure(f"{name}, until {to} has the VIP", time.monotonic() - begun, FAILOVER_TIMEOUT)

    def request() -> str:
        return context.request("client", nat.VIP)[0].error or "answered"

    left = max(FAILOVER_TIMEOUT + CHECK_TIMEOUT - (time.monotonic() - begun), 1.0)
    if context.check_eventually(f"{name}: the client's request", "answered", request, left):
        context.measure(
            f"{name}, until requests are answered", time.monotonic() - begun, FAILOVER_TIMEOUT + CHECK_TIMEOUT
        )
    _check_table(context, to, f"{name}: servers in the table of {to}", [nat.FIRST, nat.SECOND])


def _director(name: str, number: int) -> GuestPlan:
    wires = Interface("front", (f"192.168.0.{number}/24",)), Interface("back", (f"192.168.100.{number}/24",))
    packages = ("ipvsadm", "keepalived", "lvs-fnat-director")
    modules = ("ip_vs", "ip_vs_rr", "ip_vs_wrr")
    return GuestPlan(name, Part.DIRECTOR, wires, packages, modules, vip=f"{nat.VIP} of the master")


PLAN = ScenarioPlan(
    name="keepalived",
    title="keepalived: servers die and return, the VIP moves between two directors and back",
    guests=(
        *(guest for guest in nat.PLAN.guests if guest.part is Part.CLIENT),
        *(_director(name, number) for number, name in enumerate(DIRECTORS, 2)),
        *(guest for guest in nat.PLAN.guests if guest.part is Part.SERVER),
    ),
    act=act,
)
