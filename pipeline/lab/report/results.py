"""Define the results of a run as one document: JSON, JUnit and the page are views of the document."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from pipeline.core import neutral

SCHEMA: Final = 2  # 1 had `seen` for `found`
PAGE, JSON, JUNIT = "report.html", "report.json", "junit.xml"  # in the directory of a run


class Model(BaseModel):
    """A part of the document: frozen, without additional fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=Model)


def neutralized(model: M) -> M:
    """Return the document with all texts made neutral, for page, JUnit file and terminal."""
    return type(model).model_validate(neutral.document(model.model_dump()))


class State(StrEnum):
    """The end states of a scenario."""

    PASSED = "passed"
    FAILED = "failed"  # a check saw something else, or the watcher found something
    BROKEN = "broken"  # it could not be run to its end: a guest died, a command did not answer
    LEFT_OUT = "left out"  # the line says why


class RunState(StrEnum):
    """The states of a run."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # it was stopped, killed, or ended by an error before all scenarios were played


class Check(Model):
    """One expectation, checked on the running network."""

    name: str
    expected: str
    found: str
    passed: bool
    seconds: float = 0.0  # since the check before
    hint: str = ""  # what to look at when it did not pass


class Finding(Model):
    """A finding on a console: `line` counts from 1, `trace` is the whole excerpt."""

    guest: str
    kind: str  # panic, oops, ...
    line: int
    trace: str
    meaning: str
    look: str


class Card(Model):
    """A network card: its segment, its device, and its addresses with their prefix."""

    segment: str
    device: str
    mac: str
    addresses: tuple[str, ...] = ()


class Guest(Model):
    """One machine of a scenario. `marks` are moments of its boot in seconds since QEMU was started."""

    name: str
    part: str  # director, server, client, router
    role: str  # of the kernel: director, realserver, stock
    kernel: str  # what `uname -r` said; empty when it never got there
    cards: tuple[Card, ...] = ()
    marks: dict[str, float] = {}
    vip: str = ""  # the virtual address that it holds, or may hold, and where
    routes: tuple[str, ...] = ()  # as `ip route add` takes them
    console: str = ""
    console_file: str = ""  # beside the report
    findings: tuple[Finding, ...] = ()


class Distribution(Model):
    """The number of requests that each server answered, and the expected number."""

    title: str
    expected: dict[str, int]
    found: dict[str, int]


class Measurement(Model):
    """A measured time, and the `limit` in seconds after which it counts as failed."""

    name: str
    seconds: float
    limit: float


class Packet(Model):
    """One packet of a capture. `at` in seconds since the first; `source` and `target` are guests where known."""

    at: float
    segment: str
    source: str
    target: str
    text: str  # such as "SYN 192.168.1.1:5001 > 192.168.1.10:8080 [TOA 192.168.192.1:40112]"


class Scenario(Model):
    """The result of one scenario. `started` in seconds since 1970, `seconds` of wall time."""

    name: str
    title: str
    state: State
    why: str = ""  # of a state other than passed
    started: float = 0.0
    seconds: float = 0.0
    guests: tuple[Guest, ...] = ()
    checks: tuple[Check, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    sequence: tuple[Packet, ...] = ()
    captures: dict[str, str] = {}  # segment to file beside the report, where one was kept


class Report(Model):
    """One run of the lab. `packages` are NEVRAs with their sha256, `snapshot` the repository's they came from.

    `server_snapshot` and `server_fingerprint` are those of the real servers, where they are another line's.
    `started` in seconds since 1970, `seconds` of wall time, `pid` the run's process on `host`, `commit` the checkout's
    whose code ran, `dirty` whether its files were changed since, `previous` the page of the run before.
    """

    schema_version: Literal[2] = SCHEMA
    line: str
    snapshot: str
    fingerprint: str  # of the key that signed it
    server_snapshot: str = ""
    server_fingerprint: str = ""
    accelerator: str
    accelerator_why: str
    state: RunState = RunState.RUNNING
    why: str = ""  # of an interrupted run
    started: float = 0.0
    seconds: float = 0.0
    host: str = ""
    pid: int = 0
    command: str = ""
    commit: str = ""
    dirty: bool = False
    previous: str = ""
    packages: dict[str, str] = {}
    scenarios: tuple[Scenario, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return it as `--json` prints it."""
        return self.model_dump(mode="json")

    @property
    def passed(self) -> bool:
        """Whether the run came to its end, all applicable scenarios passed, and at least one ran."""
        return self.state is RunState.PASSED and all_passed(self.scenarios)

    @property
    def acceleration(self) -> str:
        """How the guests ran, in words: `emulated (KVM unusable: /dev/kvm is not there)`."""
        if self.accelerator == "kvm":
            return f"with KVM ({self.accelerator_why})"
        return f"emulated (KVM unusable: {self.accelerator_why})"

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the scenarios that ran and did not pass."""
        return tuple(s.name for s in self.scenarios if s.state not in (State.PASSED, State.LEFT_OUT))


def all_passed(scenarios: Sequence[Scenario]) -> bool:
    """Return whether all applicable scenarios passed, and at least one ran."""
    ran = [scenario for scenario in scenarios if scenario.state is not State.LEFT_OUT]
    return bool(ran) and all(scenario.state is State.PASSED for scenario in ran)
