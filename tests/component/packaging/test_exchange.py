"""Steps shared between hosts: made once, taken by the others, and nothing that is not as a trusted key signed it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.audit import dsse
from pipeline.commands.attesting import RunAttester
from pipeline.commands.preparation import Preparation
from pipeline.config import line_loader
from pipeline.core import documents, process
from pipeline.packaging import result_pack, step_record
from pipeline.packaging.exchange import PAYLOAD_TYPE, Exchange, SharedResult
from pipeline.packaging.forecast import forecast
from pipeline.packaging.graph import Step, StepGraph, Work
from pipeline.packaging.scheduler import Outcome, Scheduler, State
from pipeline.packaging.shared_store import DirectoryStore, SharedStore
from pipeline.packaging.step_record import Record
from tests.fixtures.commandline import ROOT


class Host(RunAttester):
    """A host with artifacts, an attestation key, and a directory of keys that it trusts."""

    def __init__(self, place: Path, store: Path) -> None:
        self.place, self.store, self.said = place, store, list[str]()
        (place / "trusted").mkdir(parents=True, exist_ok=True)
        line = line_loader.load("lts612")
        super().__init__(line, cast(Preparation, None), place, lambda: "", place / "trusted")

    def begin(self) -> None:
        """Its statements tell of no commit."""

    def statement(self, work: Work, record: Record) -> bytes:
        return dsse.sign(f"{record.step} at {self.place.name}".encode(), self.open_key())

    def trusts(self, other: Host) -> None:
        shutil.copy(self.public(other), self.place / "trusted" / f"{other.place.name}.pem")

    @staticmethod
    def public(other: Host) -> Path:
        other.open_key()
        return other.place / "keys/attestation/public.pem"

    def shared(self) -> SharedStore:
        return DirectoryStore(self.store)

    def runner(self, *force: str) -> Scheduler:
        exchange = Exchange("line", self.shared(), self, self.said.append)
        root = self.place / "steps/line"
        return Scheduler(root, 2, self.said.append, force, attester=self, exchange=exchange)

    def run(self, graph: StepGraph, *force: str) -> dict[str, Outcome]:
        return self.runner(*force).run(graph)


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Host, Host]:
    """Two hosts that trust each other and share a store."""
    store = tmp_path / "store"
    store.mkdir()
    one, other = Host(tmp_path / "one", store), Host(tmp_path / "other", store)
    one.trusts(other)
    other.trusts(one)
    return one, other


def writes(text: str = "") -> Callable[[Work], None]:
    def action(work: Work) -> None:
        needed = "".join((path / "rpms/text").read_text() for path in work.needs.values())
        (work.out / "rpms").mkdir()
        (work.out / "empty").mkdir(mode=0o755)
        (work.out / "rpms/text").write_text(needed + (text or work.step.name))
        (work.out / "rpms/text").chmod(0o444)
        (work.out / "program").write_bytes(b"\0\1")
        (work.out / "program").chmod(0o755)
        (work.out / "link").symlink_to("rpms/text")
        work.log.write_text("# reproduce: nothing\n")

    return action


def fails(work: Work) -> None:
    raise AssertionError(f"{work.step.name} was to be taken")


def plan(kernel: Callable[[Work], None] | None = None, tools: Callable[[Work], None] | None = None) -> StepGraph:
    return StepGraph(
        [
            Step("kernel:stock", kernel or writes(), {"source": "1"}),
            Step("tools", tools or writes(), {}, ("kernel:stock",)),
        ]
    )


def states(outcomes: Mapping[str, Outcome]) -> list[str]:
    return [outcome.state.value for outcome in outcomes.values()]


def listed(store: Path) -> list[Path]:
    return sorted(store.glob("results/line/*/*.json"))


def packs(store: Path) -> list[Path]:
    return sorted(path for path in store.glob("packs/*/*") if path.is_file())


def text(outcome: Outcome) -> str:
    return (outcome.out / "out/rpms/text").read_text()


def test_what_one_host_made_another_takes_and_a_third_run_reuses(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    made = one.run(plan())
    assert states(made) == ["ran", "ran"] and len(listed(one.store)) == len(packs(one.store)) == 2
    taken = other.run(plan(fails, fails))
    assert states(taken) == ["taken", "taken"]
    for name, outcome in taken.items():
        record, original = outcome.record, made[name].record
        assert record and original and record.digest == original.digest and record.attested == one.key_id
        assert record.root == str(other.place / "steps/line")
        found = step_record.compare(outcome.out, record, content=True)
        assert found[0] == [] and found[1] is record, "modes, links, empty directories and times are as recorded"
    assert text(taken["tools"]) == "kernel:stocktools"
    assert (taken["tools"].out / "log").read_text() == "# reproduce: nothing\n"
    assert states(other.run(plan(fails, fails))) == ["reused", "reused"]
    assert [path.name for path in taken["tools"].out.parent.iterdir() if "pack" in path.name] == []
    assert len(listed(one.store)) == len(packs(one.store)) == 2


def test_the_first_result_of_a_key_wins_and_the_second_host_takes_it(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    alone = other.run(plan(writes("another")))
    for path in (*listed(one.store), *packs(one.store)):
        path.unlink()
    one.run(plan(writes("first")))
    said = len(other.said)
    now = other.run(plan(fails, fails))
    assert (
        states(now) == ["taken", "taken"]
        and text(now["tools"]) == "firsttools"
        and text(now["kernel:stock"]) == "first"
    )
    assert any("the shared store has another result" in row and "gives way to it" in row for row in other.said[said:])
    assert alone["tools"].out == now["tools"].out


def forecast_of(host: Host, *force: str) -> list[str]:
    """What a run is forecast to do; the forecast changes nothing on the host and in the store."""
    places = [path for place in (host.place / "steps", host.store) for path in place.rglob("*")]
    found = forecast(host.runner(*force), plan(fails, fails))
    assert [path for place in (host.place / "steps", host.store) for path in place.rglob("*")] == places
    return [state.value for state, _ in found.values()]


def test_a_forecast_says_what_would_be_taken_and_takes_nothing(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    assert forecast_of(other) == ["ran", "ran"]
    one.run(plan())
    assert forecast_of(other) == ["taken", "taken"] and forecast_of(one) == ["reused", "reused"]
    assert forecast_of(other, "tools") == ["taken", "ran"]
    assert forecast_of(other, "kernel:stock") == ["ran", "ran"], "nobody knows what the tools would be made from"
    _, why = forecast(other.runner(), plan(fails, fails))["tools"]
    assert why == f"taken from the shared store, made with the key {one.key_id[:16]}…"
    assert states(other.run(plan(fails, fails))) == ["taken", "taken"] and forecast_of(other) == ["reused", "reused"]


def test_a_forecast_knows_that_another_result_gives_way_and_what_was_made_from_it_runs(
    hosts: tuple[Host, Host],
) -> None:
    one, other = hosts
    Host(other.place, other.place).run(plan(writes("another")))  # with a store of its own
    one.run(plan(writes("first")))
    assert forecast_of(other) == ["taken", "taken"]
    listed(one.store)[1].unlink()  # the tools'
    assert forecast_of(other) == ["taken", "ran"]
    assert states(other.run(plan(fails))) == ["taken", "ran"]


def test_a_damaged_result_is_kept_aside_and_taken_anew(hosts: tuple[Host, Host]) -> None:
    _, other = hosts
    made = other.run(plan())
    (made["tools"].out / "out/program").write_bytes(b"damaged")
    assert states(other.run(plan(fails, fails))) == ["reused", "taken"]
    (kept,) = other.place.glob("steps/line/tools/.damaged-*")
    assert (kept / "out/program").read_bytes() == b"damaged"
    assert "tools: its output was changed: out/program" in "\n".join(other.said)


def test_a_forced_step_stays_its_host_s_own_and_the_store_is_not_changed(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.run(plan())
    before = {path: path.read_bytes() for path in listed(one.store)}
    forced = other.run(plan(writes("forced"), writes("t")), "kernel:stock", "tools")
    assert states(forced) == ["ran", "ran"] and text(forced["tools"]) == "forcedt"
    assert any("kept here all the same" in row for row in other.said)
    assert {path: path.read_bytes() for path in listed(one.store)} == before


def test_a_step_that_changes_its_host_is_neither_offered_nor_taken(hosts: tuple[Host, Host]) -> None:
    one, other = hosts

    def publishes() -> StepGraph:
        return StepGraph([Step("publish", writes(), {}, local=True)])

    assert states(one.run(publishes())) == states(other.run(publishes())) == ["ran"]
    assert listed(one.store) == []


def test_a_key_that_nobody_trusts_counts_for_nothing(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    one, _ = hosts
    stranger = Host(tmp_path / "stranger", one.store)
    stranger.run(plan(writes("evil")))
    ended = one.run(plan())
    assert states(ended) == ["ran", "ran"] and text(ended["kernel:stock"]) == "kernel:stock"
    assert any("its record is refused: signed with the key" in row for row in one.said)


def forge(host: Host, path: Path, change: Callable[[Any], object], signer: Host | None = None) -> None:
    """Signs a changed record anew, with the key of `signer`."""
    payload = json.loads(dsse.payload(path.read_bytes()))
    change(payload)
    path.write_bytes(dsse.sign(json.dumps(payload).encode(), (signer or host).open_key(), PAYLOAD_TYPE))


Damage = Callable[[Host, Path], object]


def of_packs(change: Callable[[Path], object]) -> Damage:
    return lambda _, store: [change(path) for path in packs(store)]


def of_records(change: Callable[[Path], object]) -> Damage:
    return lambda _, store: [change(path) for path in listed(store)]


def signed(change: Callable[[Any], object]) -> Damage:
    """The records changed by who has a trusted key."""

    def damage(host: Host, store: Path) -> None:
        for path in listed(store):
            forge(host, path, change)

    return damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link_away(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(_: Host, store: Path) -> None:
    first, second = listed(store)
    first.write_bytes(second.read_bytes())


def without_type(host: Host, store: Path) -> None:
    for path in listed(store):
        path.write_bytes(dsse.sign(dsse.payload(path.read_bytes()), host.open_key()))


def out(found: Any) -> dict[str, Any]:
    entries: dict[str, Any] = found["record"]["made"]["out"]
    return entries


OUTSIDE = {"../../x": ["directory", 0o755, "", 0, 0, 0, 0]}
DAMAGES: dict[str, Damage] = {
    "other bytes in each pack": of_packs(flip),
    "shorter packs": of_packs(lambda path: path.write_bytes(path.read_bytes()[:-512])),
    "longer packs": of_packs(lambda path: path.write_bytes(path.read_bytes() + b"\0")),
    "no packs": of_packs(Path.unlink),
    "links as packs": of_packs(link_away),
    "no text as records": of_records(lambda path: path.write_bytes(b"\xff" * 99)),
    "records without an end": of_records(lambda path: path.write_bytes(path.read_bytes()[:-30])),
    "directories as records": of_records(make_directory),
    "statements as records": without_type,
    "the record of another step": swap,
    "another line": signed(lambda found: found["record"].update(line="other")),
    "other inputs": signed(lambda found: found["record"]["inputs"].update(source="2")),
    "a part elsewhere": signed(lambda found: found["record"]["made"].update({"/etc": {}})),
    "a path that leads out": signed(lambda found: out(found).update(OUTSIDE)),
    "a set-user-id program": signed(lambda found: out(found)["program"].__setitem__(1, 0o4755)),
    "a pack by another name": signed(lambda found: found.update(pack="../../../etc/passwd")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_as_signed_is_refused_said_and_built_here(hosts: tuple[Host, Host], damage: str) -> None:
    one, other = hosts
    one.run(plan())
    DAMAGES[damage](one, one.store)
    ended = other.run(plan())
    assert "ran" in states(ended) and text(ended["tools"]) == "kernel:stocktools"
    assert any("the shared store is not used" in row for row in other.said), other.said
    assert not list(other.place.glob("steps/line/*/.*"))
    assert not (other.place / "x").exists()


def hostile_pack(host: Host, member: tarfile.TarInfo, content: bytes = b"") -> None:
    """Signs, by a trusted key, packs with one more member."""
    for path in listed(host.store):
        shared = documents.parse(SharedResult, dsse.payload(path.read_bytes()))
        packed = io.BytesIO((host.store / "packs" / shared.pack[:2] / shared.pack).read_bytes())
        with tarfile.open(fileobj=packed, mode="a") as archive:
            archive.addfile(member, io.BytesIO(content))
        digest, size = hashlib.sha256(packed.getvalue()).hexdigest(), len(packed.getvalue())
        target = host.store / "packs" / digest[:2] / digest
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(packed.getvalue())
        forge(host, path, functools.partial(_name_pack, digest, size))


def _name_pack(digest: str, size: int, found: dict[str, object]) -> None:
    found.update(pack=digest, size=size)


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for attribute, value in more.items():
        setattr(made, attribute, value)
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside", size=1),
        member("/tmp/fnat-outside", size=1),
        member("out/surplus", size=1),
        member("meta.json", size=1),
        member("out/away", tarfile.SYMTYPE, linkname="/etc"),
        member("out/hard", tarfile.LNKTYPE, linkname="out/program"),
        member("out/null", tarfile.CHRTYPE),
        member("out/program", size=1),
    ],
    ids=lambda hostile: hostile.name,
)
def test_a_pack_with_other_members_than_its_record_is_refused(
    hosts: tuple[Host, Host], hostile: tarfile.TarInfo
) -> None:
    one, other = hosts
    one.run(plan())
    hostile_pack(one, hostile, b"x" * hostile.size)
    ended = other.run(plan())
    assert states(ended) == ["ran", "ran"]
    assert not (other.place / "steps/line/outside").exists() and not Path("/tmp/fnat-outside").exists()
    assert any("the shared store is not used" in row for row in other.said)
    assert not list(other.place.glob("steps/line/*/.*"))


def test_a_statement_by_another_key_than_the_record_s_is_refused(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.run(plan())
    for path in listed(one.store):  # `other` is trusted, and is not who made it
        forge(one, path, lambda found: found["record"].update(attested=other.key_id), other)
    assert states(other.run(plan())) == ["ran", "ran"]
    assert any("its statement is signed with the key" in row for row in other.said)


def test_a_result_that_changed_on_its_host_is_not_stored(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    made = one.run(plan())
    for path in listed(one.store):
        path.unlink()
    record = made["kernel:stock"].record
    assert record is not None
    program = made["kernel:stock"].out / "out/program"
    program.write_bytes(b"\0\2")
    with pytest.raises(Exception, match="other bytes than its record has"):
        result_pack.pack(made["kernel:stock"].out, record, io.BytesIO())


def test_a_store_that_is_gone_or_full_only_costs_the_work(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    shutil.rmtree(one.store)
    one.store.mkdir(mode=0o755)
    (one.store / "results").write_text("no directory")
    (one.store / "packs").write_text("no directory")
    assert states(one.run(plan())) == ["ran", "ran"]
    assert any("the shared store is not used" in row for row in one.said)


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.component.packaging.test_exchange import Host, plan
Host(Path(sys.argv[1]), Path(sys.argv[2])).run(plan())
"""


@pytest.mark.parametrize("point", ["step.packed", "step.taken"])
def test_killed_while_storing_or_taking_the_next_run_completes(hosts: tuple[Host, Host], point: str) -> None:
    one, other = hosts
    killed = one if point == "step.packed" else other
    if killed is other:
        one.run(plan())
    environment = process.clean_environment(FNAT_TRACE_KILL=f"{point}:1")
    argv = [sys.executable, "-c", PROGRAM, str(killed.place), str(killed.store), str(ROOT)]
    with process.start(argv, env=environment, stderr=subprocess.DEVNULL) as child:
        assert child.wait() == -9
    assert set(states(one.run(plan()))) <= {"ran", "reused"}
    assert set(states(other.run(plan(fails, fails)))) == {"taken"}
    assert len(listed(one.store)) == 2
    assert list(one.store.rglob(".*")) == list(other.place.glob("steps/line/*/.*")) == []


def test_who_is_slower_with_a_key_stores_nothing(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.run(plan())
    kept = {path: path.read_bytes() for path in (*listed(one.store), *packs(one.store))}
    alone = Host(other.place, other.place)  # with a store of its own
    made = alone.run(plan())["kernel:stock"]
    exchange = Exchange("line", DirectoryStore(one.store), other, other.said.append)
    assert made.record is not None and not exchange._offer(made.out, made.record)
    assert {path: path.read_bytes() for path in (*listed(one.store), *packs(one.store))} == kept


def test_two_hosts_that_store_at_once_store_one_result(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert store.create("results/x.json", tmp_path / "a") is True
    assert store.create("results/x.json", tmp_path / "b") is False
    assert store.read("results/x.json", 9) == b"a"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["x.json"]
    assert State.TAKEN.value == "taken"
