"""The lab's scenarios as data, and what they make of guests' answers, without any guest."""

from __future__ import annotations

import ast
import os
import re
import time
from collections.abc import Callable
from importlib import import_module
from ipaddress import ip_interface
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.core import resources
from pipeline.errors import FileProblems
from pipeline.lab import dialects, scenarios
from pipeline.lab.dialects import Dialect
from pipeline.lab.scenario import ScenarioPlan
from pipeline.lab.scenario_context import Response, ScenarioContext, parse_responses
from pipeline.lab.scenarios import boot, fullnat_churn, ipvs, keepalived, nat
from pipeline.lab.topology import Part
from pipeline.lab.vm.machine import CompletedCommand

ROOT = Path(__file__).parents[3]
ROLES = ("director", "realserver", "stock")
PATCHED = Dialect(dialects.PATCHED_DIRECTOR, dialects.MODULE_READER, 200)
PACKAGED = Dialect(dialects.MODULES_DIRECTOR, dialects.PROGRAM_READER, 200)
LISTED = """\
IP Virtual Server version 1.2.1 (size=4194304)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.168.192.10:80 wrr synproxy
  -> 192.168.1.11:8080            FullNat 1      0          10
  -> 192.168.1.10:8080            FullNat 2      0          20
TCP  192.168.192.10:81 wrr
  -> 192.168.1.10:8081            Masq    2      0          0
"""


class Guest:
    """A guest that says one thing, whatever it is asked."""

    name = "guest"

    def __init__(self, out: str) -> None:
        self.out = out

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        return CompletedCommand(argv, 0, self.out, "")

    def start(self, *argv: str) -> int:
        raise NotImplementedError

    def stop(self, number: int) -> None:
        raise NotImplementedError

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        raise NotImplementedError

    def read_file(self, path: str) -> bytes:
        raise NotImplementedError

    def open_shell(self, source: int, sink: int, size: Callable[[], os.terminal_size], *argv: str) -> int:
        raise NotImplementedError


def plans() -> list[ScenarioPlan]:
    return [scenarios.load_scenario(name, ROLES) for name in scenarios.NAMES]


def context(out: str = "") -> ScenarioContext:
    plan = scenarios.load_scenario("nat", ROLES)
    guests = {guest.name: Guest(out) for guest in plan.guests}
    return ScenarioContext(plan.guests, guests, {}, {}, {}, {}, PATCHED)


@pytest.mark.parametrize("plan", plans(), ids=lambda plan: plan.name)
def test_a_plan_holds_together(plan: ScenarioPlan) -> None:
    names = [guest.name for guest in plan.guests]
    assert len(set(names)) == len(names)
    wires = [wire for guest in plan.guests for wire in guest.interfaces]
    addresses = [ip_interface(address) for wire in wires for address in wire.addresses]
    assert len({address.ip for address in addresses}) == len(addresses), "an address twice"
    module = import_module(scenarios.module_name(plan.name))
    virtual = {getattr(module, name) for name in ("VIP", "UDP_VIP", "LOCAL") if hasattr(module, name)}
    assert not {str(address.ip) for address in addresses} & virtual, "a virtual address on a card"
    for segment in plan.segments:
        on_it = {ip_interface(a).network for wire in wires if wire.segment == segment for a in wire.addresses}
        assert len(on_it) <= 1, "a segment is one network"


@pytest.mark.parametrize("name", resources.line_names())
def test_a_line_says_of_every_scenario_what_boots_or_why_it_is_left_out(name: str) -> None:
    line = line_loader.load(name)
    assert set(line.data.lab) == set(scenarios.NAMES)
    for plan in plans():
        row = line.data.lab[plan.name]
        parts = {guest.part for guest in plan.guests if not guest.role}
        given = {part for part in Part if getattr(row, part.value, None)}
        assert row.left_out or given >= parts


def test_a_line_that_gives_a_scenario_an_unknown_role_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "house.toml"
    file.write_text('schema = 1\nextends = "lts612"\nname = "house"\n[lab.nat]\ndirector = "director"\n')
    with pytest.raises(FileProblems) as caught:
        line_loader.load(None, file)
    assert "house.toml:5" in str(caught.value) and "no role 'director'" in str(caught.value)


def test_answers_are_read_whole_and_errors_stay_visible() -> None:
    text = "ok server1 192.168.192.1 40112 192.168.1.10 8080 | 192.168.192.1 40112 3\nerror timed out 3000\n"
    first, second = parse_responses(text)
    assert first == Response("server1", ("192.168.192.1", 40112), ("192.168.1.10", 8080), ("192.168.192.1", 40112), 3)
    assert first.is_client_preserved
    assert second.error == "error timed out 3000" and not second.is_client_preserved


def test_a_server_that_sees_another_port_of_the_client_does_not_see_the_client() -> None:
    (answer,) = parse_responses("ok server1 192.168.192.1 5000 192.168.1.10 8080 | 192.168.192.1 40112 3\n")
    assert not answer.is_client_preserved


def test_a_distribution_that_differs_is_a_failed_check_that_counts_errors_too() -> None:
    playing = context()
    found = [Response("server1"), Response("server1"), Response(error="refused")]
    assert not playing.check_distribution("rr", {"server1": 2, "server2": 1}, found)
    (check,) = playing.checks
    assert not check.passed
    assert check.expected == "server1 2, server2 1" and check.found == "(refused) 1, server1 2"
    assert playing.distributions[0].found == {"(refused)": 1, "server1": 2}


def test_what_never_comes_is_noted_with_what_was_seen_last() -> None:
    playing = context()
    seen = iter("abcdefghijklmnopqrstuvwxyz")
    assert not playing.check_eventually("letters", "Z", lambda: next(seen), 0.3)
    assert not playing.checks[0].passed and playing.checks[0].found in "abcdefg"


def test_the_servers_of_a_service_are_listed_without_those_of_another() -> None:
    listed = ipvs.list_servers(Guest(LISTED), "192.168.192.10:80")
    assert listed == ["192.168.1.10:8080 FullNat 2", "192.168.1.11:8080 FullNat 1"]
    assert ipvs.list_servers(Guest(LISTED), "192.168.192.10:81") == ["192.168.1.10:8081 Masq 2"]


def test_servers_are_found_in_the_kernels_own_table_of_connections() -> None:
    table = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State\nTCP C0A80001 9192 C0A8000A 0050 C0A86409 0050 NONE\n"
    assert ipvs.connected_servers(Guest(table), ("192.168.100.9", "192.168.100.7")) == ["192.168.100.9"]


def test_errors_of_the_kernels_log_are_found_at_their_level_and_traces_at_any() -> None:
    log = "<6>[    0.1] fine\n<3>[    0.2] toa: cannot hook\n<4>[    0.3] WARNING: CPU: 0 PID: 1 at net/core\n"
    found = ["[    0.2] toa: cannot hook", "[    0.3] WARNING: CPU: 0 PID: 1 at net/core"]
    assert boot.kernel_errors(log) == found
    slow = "<3>[   33.0] ACPI Error: Method execution failed \\_SB._PRT due to previous error (AE_AML_LOOP_TIMEOUT)\n"
    assert boot.kernel_errors(slow + log, slow=True) == found, "a slow guest is no error of the kernel"
    assert len(boot.kernel_errors(slow + log)) == 3


def test_connections_that_failed_are_counted_by_reason() -> None:
    good, hidden = (f"ok server {seen} 1 10.0.0.9 80 | 10.0.0.1 1 3.1" for seen in ("10.0.0.1", "10.0.0.2"))
    rows = parse_responses("\n".join([good, "error timeout 60.1", hidden, good, "error timeout 7"]))
    assert fullnat_churn._with_reasons(rows) == "2; 2: error timeout; 1: seen as one of 10.0.0.2"


@pytest.mark.parametrize(("patience", "sure", "changed"), [(1, "60", "0.05"), (10, "600", "0.5"), (100, "6000", "2.0")])
def test_a_slow_guest_s_connections_have_longer_and_the_changed_ones_not_for_minutes(
    patience: float, sure: str, changed: str
) -> None:
    limits = dict(re.findall(r"--timeout (\S+) >/run/(\w+)", fullnat_churn._traffic(patience)))
    assert limits == {sure: "sure", changed: "changed"}


# --- Checks ----------------------------------------------------------------------------------------------

LEANING = {"and", "but", "then", "also", "with", "without", "after", "before", "they", "it", "again", "the", "traffic"}


def names_of_checks(scenario: str) -> list[str]:
    """The names that a scenario's module gives its checks; `{}` stands for what is filled in."""
    tree = ast.parse((ROOT / scenarios.module_name(scenario).replace(".", "/")).with_suffix(".py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "check" in ast.unparse(node.func)]
    found = []
    for call in calls:
        texts = [ast.unparse(a) for a in call.args if isinstance(a, ast.Constant | ast.JoinedStr)]
        named = [text.lstrip("f").strip("'\"") for text in texts if " " in text]
        found += [re.sub(r"\{[^}]*\}", "{}", text) for text in named[:1]]
    return found


@pytest.mark.parametrize("scenario", scenarios.NAMES)
def test_the_name_of_a_check_stands_alone_and_is_given_once(scenario: str) -> None:
    names = names_of_checks(scenario)
    assert names and [name for name in names if names.count(name) > 1] == []
    assert [name for name in names if name.split()[0].strip(",:") in LEANING or len(name.split()) < 3] == []
    modes = {"nat": "NAT", "dr": "DR", "tun": "TUN", "fullnat": "FULLNAT", "keepalived": "keepalived"}
    subject = modes.get(scenario, "")
    assert [name for name in names if not name.startswith((subject, "{}"))] == []


def test_a_name_that_a_scenario_gives_twice_is_numbered() -> None:
    playing = context()
    for _ in range(3):
        playing.check("director: start", 0, 0)
    assert [check.name for check in playing.checks] == ["director: start", "director: start (2)", "director: start (3)"]


@pytest.mark.parametrize("value", ["", "  \n", [], [""], set(), {}])
def test_no_value_of_a_check_is_blank(value: object) -> None:
    playing = context()
    playing.check("rules after ipvsadm -C", value, value)
    (check,) = playing.checks
    assert (check.expected, check.found) == ("nothing", "nothing")


def test_the_error_of_a_request_without_answer_is_among_the_values() -> None:
    playing = context()
    playing.check("requests answered", ["", ""], ["", "error timed out"])
    assert playing.checks[0].found == "nothing, error timed out"


def test_each_check_has_the_time_since_the_one_before() -> None:
    begun = time.monotonic()
    playing = context()
    time.sleep(0.2)
    playing.check("one of them", 1, 1)
    playing.check("another of them", 1, 1)
    first, second = (check.seconds for check in playing.checks)
    assert first >= 0.2 and second >= 0 and first + second <= time.monotonic() - begun + 0.002, "each from the last one"


def test_a_measured_time_is_kept_with_its_limit() -> None:
    playing = context()
    playing.measure("VIP moves to director2", 3.2049, 10)
    (measured,) = playing.measurements
    assert (measured.name, measured.seconds, measured.limit) == ("VIP moves to director2", 3.2, 10.0)


class Director(Guest):
    """A director, client or server of keepalived's scenario after a failover; `vip` is whether it has the address."""

    def __init__(self, *, vip: bool) -> None:
        super().__init__("")
        self.vip = vip

    def run(
        self, *argv: str, timeout: float = 10.0, stdin: bytes = b"", accept: tuple[int, ...] = (0,)
    ) -> CompletedCommand:
        rows = [f"  -> {address}:80 Masq 1 0 0" for address in nat.SERVERS.values()]
        said = {
            "ip": f"inet {nat.VIP}/32 scope global eth0" if self.vip else "",
            "ipvsadm": "\n".join([f"TCP  {nat.SERVICE} rr", *rows]),
            "/bin/fnat-guest": "ok server1 192.168.0.1 40112 192.168.100.7 80 | 192.168.0.1 40112 3",
        }
        return CompletedCommand(argv, 0, said[argv[0]], "")


@pytest.mark.parametrize("vip", [True, False])
def test_the_times_of_a_failover_are_measured_from_its_cause_and_only_where_it_came(
    monkeypatch: pytest.MonkeyPatch, vip: bool
) -> None:
    monkeypatch.setattr(keepalived, "FAILOVER_TIMEOUT", 0.5)
    guests = {name: Director(vip=vip) for name in ("client", "director2")}
    playing = ScenarioContext(keepalived.PLAN.guests, guests, {}, {}, {}, {}, PATCHED)
    keepalived._check_failover(playing, "keepalived: director1 is cut off", "director2", lambda: time.sleep(0.1))
    assert [check.passed for check in playing.checks] == [vip, True, True]
    measured = {measurement.name: measurement.seconds for measurement in playing.measurements}
    moved = "keepalived: director1 is cut off, until director2 has the VIP"
    answered = "keepalived: director1 is cut off, until requests are answered"
    assert list(measured) == ([moved, answered] if vip else [answered]) and min(measured.values()) >= 0.1
