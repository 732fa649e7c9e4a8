"""Provide scenarios with their running guests, operations on these, and a list of checks."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.formats import pcap
from pipeline.formats.pcap import Packet
from pipeline.lab.dialects import Dialect
from pipeline.lab.report.results import Check, Distribution, Measurement
from pipeline.lab.topology import GuestPlan
from pipeline.lab.vm.machine import Machine

GUEST = "/bin/fnat-guest"
ANY_STATUS = tuple(range(256))
NOTHING = "nothing"  # what is said of a value that has no text
_POLL = 0.2  # seconds
_RESPONSE = re.compile(r"ok (\S+) (\S+) (\d+) (\S+) (\d+) \| (\S+) (\d+) ([\d.]+)")


@dataclass(frozen=True)
class Response:
    """The response to one request: the server, the client as the server observed, the client's own end; or `error`."""

    server: str = ""
    observed_client: tuple[str, int] = ("", 0)
    server_address: tuple[str, int] = ("", 0)
    client: tuple[str, int] = ("", 0)
    milliseconds: float = 0.0
    error: str = ""

    @property
    def is_client_preserved(self) -> bool:
        """Whether the server observed the client's own address and port."""
        return not self.error and self.observed_client == self.client


def parse_responses(text: str) -> list[Response]:
    """Parse the output of `fnat-guest ask`, line by line."""
    found = []
    for line in text.splitlines():
        if match := _RESPONSE.fullmatch(line.strip()):
            server, observed, seen_port, served, served_port, own, own_port, took = match.groups()
            pairs = (observed, int(seen_port)), (served, int(served_port)), (own, int(own_port))
            found.append(Response(server, *pairs, float(took)))
        else:
            found.append(Response(error=line.strip() or "nothing"))
    return found


@dataclass
class ScenarioContext:
    """The context of a running scenario. `captures` are the capture files by segment."""

    guests: tuple[GuestPlan, ...]
    machines: Mapping[str, Machine]
    captures: Mapping[str, Path]
    macs: Mapping[str, tuple[str, ...]]
    releases: Mapping[str, str]  # what `uname -r` must say, by guest
    roles: Mapping[str, str]  # of the kernels, by guest
    dialect: Dialect  # of the line's FULLNAT and TOA
    known_defects: Mapping[str, str] = field(default_factory=dict)  # defects of upstream, by what does not work
    patience: float = 1.0  # how many times as long as usual guests may take
    checks: list[Check] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    checked: float = field(default_factory=time.monotonic)  # when the last check was recorded

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def packets(self, segment: str) -> list[Packet]:
        """Return the packets captured on a segment so far."""
        return list(pcap.packets(self.captures[segment]))

    def mac(self, name: str) -> str:
        """Return the MAC address of a guest's first card."""
        return self.macs[name][0]

    def check(self, name: str, expected: object, actual: object, *, passed: bool | None = None, hint: str = "") -> bool:
        """Record a check; without `passed` the actual value must equal the expected one.

        A name that was given before gets a number. The check's time is that since the last one.
        """
        good = expected == actual if passed is None else passed
        now, taken = time.monotonic(), {check.name for check in self.checks}
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        name = next(each for each in itertools.chain((name,), numbered) if each not in taken)
        found, seconds = _text(actual), round(now - self.checked, 3)
        check = Check(name=name, expected=_text(expected), found=found, passed=good, seconds=seconds, hint=hint)
        self.checks.append(check)
        self.checked = now
        return good

    def measure(self, name: str, seconds: float, limit: float) -> None:
        """Record a measured time, and the seconds after which it counts as failed."""
        self.measurements.append(Measurement(name=name, seconds=round(seconds, 2), limit=limit))

    def check_eventually(
        self, name: str, expected: object, read: Callable[[], object], within: float, hint: str = ""
    ) -> bool:
        """Read repeatedly until the value is as expected, for `within` seconds; record a check of the last value."""
        begun, within = time.monotonic(), within * self.patience
        while (actual := read()) != expected and time.monotonic() - begun < within:
            time.sleep(_POLL)
        return self.check(f"{name}, within {within:g} s", expected, actual, hint=hint)

    def configure_networks(self) -> None:
        """Configure the addresses and routes of all guests."""
        for guest in self.guests:
            machine = self[guest.name]
            lines = ["ip link set lo up"]
            for number, wire in enumerate(guest.interfaces):
                lines += [f"ip address add {address} dev eth{number}" for address in wire.addresses]
                lines.append(f"ip link set eth{number} up")
                # A card notices its carrier a moment later; the state that a scenario checks must not change meanwhile.
                lines.append(f"until grep -q 1 /sys/class/net/eth{number}/carrier; do usleep 20000; done")
            lines += [f"ip route add {route}" for route in guest.routes]
            self.run_script(machine, "\n".join(lines))

    def run_script(self, machine: Machine, script: str, *, timeout: float = 10.0) -> str:
        """Run lines of shell, ending at the first that fails; return their output."""
        return machine.run("sh", "-ec", script, timeout=timeout).out

    def start_tcp_server(self, name: str, port: int = 80, family: str = "4") -> int:
        """Start a TCP server that answers with its own name, and wait until it listens."""
        return self._start_server(self[name], "serve", name, str(port), family)

    def start_udp_server(self, name: str, port: int) -> int:
        """Start a UDP server that answers with its own name, and wait until it listens."""
        return self._start_server(self[name], "serve-udp", name, str(port))

    def start_closing_server(self, name: str, port: int, seconds: float = 0) -> int:
        """Start a TCP server that says its own name and closes first, after `seconds`; wait until it listens."""
        return self._start_server(self[name], "serve-close", name, str(port), f"{seconds:g}")

    def _start_server(self, machine: Machine, how: str, name: str, port: str, *more: str) -> int:
        number = machine.start(GUEST, how, name, port, *more)
        table = "/proc/net/udp*" if how == "serve-udp" else "/proc/net/tcp*"
        wanted = f":{int(port):04X} "
        machine.run(
            "sh", "-c", f"for i in $(seq 50); do grep -q '{wanted}' {table} && exit; usleep 100000; done; exit 1"
        )
        return number

    def request(
        self, client: str, address: str, port: int = 80, count: int = 1, *options: str, udp: bool = False
    ) -> list[Response]:
        """Send requests from a guest, one after the other unless `--together` is among `options`."""
        verb, what = ("ask-udp", "anything") if udp else ("ask", "/")
        words = (GUEST, verb, address, str(port), what, str(count), "--timeout", "3", *options)
        return parse_responses(self[client].run(*words, timeout=15 + 4 * count, accept=(0, 1)).out)

    def check_distribution(
        self, title: str, expected: Mapping[str, int], responses: Iterable[Response], hint: str = ""
    ) -> bool:
        """Record the number of requests that each server answered, and check them against the expected numbers."""
        counts = Counter(answer.server or f"({answer.error})" for answer in responses)
        ordered = {name: counts[name] for name in sorted(counts)}
        self.distributions.append(Distribution(title=title, expected=dict(expected), found=ordered))
        return self.check(title, _counts(expected), _counts(ordered), hint=hint)


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(numbers.items()) if count) or "none"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | dict):
        return ", ".join(map(_text, value)) or NOTHING
    return str(value) if str(value).strip() else NOTHING
