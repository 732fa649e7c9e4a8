"""Buildbot's configuration: one builder a step, workers that can do it, and nothing open to the network unprotected."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks  # noqa: F401 - its verbs are what commands are made of
from pipeline.ci import cluster_file
from pipeline.ci.buildbot import Buildbot
from pipeline.ci.kinds import Request, TimeOfDay
from pipeline.config import line_loader
from pipeline.config.settings import Settings
from pipeline.errors import FileProblems, UsageError
from pipeline.packaging.graph import Step, StepGraph, Work

WORKER = 'capabilities = ["bubblewrap"]\nmemory = 16384\ncheckout = "/opt/fnat"\n'
SIGNER = '[workers.signer]\ncapabilities = ["sign", "kvm"]\nmemory = 4096\ncheckout = "/srv/fnat"\n'


def nothing(_: Work) -> None:
    """The action of a step that is only planned."""


def plan(_: object = None) -> StepGraph:
    return StepGraph(
        [
            Step("kernel:stock", nothing),
            Step("ipvsadm", nothing),
            Step("modules:toa", nothing, {}, ("kernel:stock",)),
            Step("repository", nothing, {}, ("modules:toa", "ipvsadm"), local=True),
        ]
    )


def request(place: Path, text: str, **settings: Any) -> Request:
    file = place / "cluster.toml"
    file.write_text(text)
    made = replace(Settings(), **settings)
    return Request((line_loader.load("lts61"),), made, TimeOfDay(3, 17), {"cluster": str(file)}, plan)


def data(place: Path, text: str = f"[workers.one]\n{WORKER}", **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Buildbot().files(request(place, text, **settings))["cluster.json"])
    return found


def test_each_step_is_a_builder_whose_command_is_one_of_ours(tmp_path: Path) -> None:
    (line,) = data(tmp_path, kernel_config="small")["lines"]
    assert [step["builder"] for step in line["steps"]] == ["lts61 kernel:stock", "lts61 ipvsadm", "lts61 modules:toa"]
    assert line["steps"][0]["command"] == [
        *("/usr/bin/setpriv", "--pdeathsig", "KILL", "--", "./inv", "build-all", "--only", "kernel:stock"),
        *("--line", "lts61", "--kernel-config", "small"),
    ]


def test_a_night_begins_steps_when_their_needs_are_met_and_all_others_beside_each_other(tmp_path: Path) -> None:
    (line,) = data(tmp_path)["lines"]
    assert line["levels"] == [["lts61 ipvsadm", "lts61 kernel:stock"], ["lts61 modules:toa"]]
    assert line["night"] == "night of lts61"


def test_who_only_builds_is_not_told_of_the_release_key(tmp_path: Path) -> None:
    (line,) = data(tmp_path, f"[workers.one]\n{WORKER}{SIGNER}", gpg_key="/etc/fnat/release.asc")["lines"]
    told = [step["name"] for step in line["steps"] if "/etc/fnat/release.asc" in step["command"]]
    assert told == ["repository"]


def test_where_the_release_key_is_nothing_is_built_and_there_alone_is_published(tmp_path: Path) -> None:
    (line,) = data(tmp_path, f"[workers.one]\n{WORKER}{SIGNER}")["lines"]
    workers = {step["name"]: step["workers"] for step in line["steps"]}
    assert workers == {"kernel:stock": ["one"], "ipvsadm": ["one"], "modules:toa": ["one"], "repository": ["signer"]}
    assert line["levels"][-1] == ["lts61 repository"]
    assert line["steps"][-1]["command"][4:] == ["./inv", "build-all", "--line", "lts61"], "the lab at its end too"


@pytest.mark.parametrize(
    ("change", "settings", "lacks"),
    [
        ("bubblewrap", {"runtime": "docker"}, "one: no capability docker"),
        ("kvm", {}, "one: no capability bubblewrap or docker"),
        ("bubblewrap", {"build_memory": 20000}, "one: 16384 MiB of memory, less than --build-memory 20000"),
        ("sign", {}, "one: it signs, and where the release key is nothing is built"),
    ],
)
def test_a_step_that_no_worker_can_do_is_refused(
    tmp_path: Path, change: str, settings: dict[str, Any], lacks: str
) -> None:
    with pytest.raises(UsageError, match="no worker can do it") as caught:
        data(tmp_path, f"[workers.one]\n{WORKER}".replace("bubblewrap", change), **settings)
    assert lacks in caught.value.why


@pytest.mark.parametrize("key", ["listen", "page"])
def test_nothing_is_open_to_the_network_without_tls(tmp_path: Path, key: str) -> None:
    text = f'{key} = "0.0.0.0:9000"\n[workers.one]\n{WORKER}'
    with pytest.raises(UsageError, match="expected an address of loopback, or the table"):
        data(tmp_path, text)
    found = data(tmp_path, f'{text}[tls]\nkey = "/etc/fnat/key.pem"\ncertificate = "/etc/fnat/cert.pem"\n')
    ports = (found["workers_port"], found["page_port"])
    assert all(port.startswith("ssl:") and port.endswith("certKey=/etc/fnat/cert.pem") for port in ports)
    assert found["page_url"].startswith("https://")


def test_by_default_all_is_on_loopback_and_a_stopped_worker_is_noticed_within_a_minute(tmp_path: Path) -> None:
    found = data(tmp_path)
    assert found["workers_port"] == "tcp:9989:interface=127.0.0.1"
    assert found["page_port"] == "tcp:8010:interface=127.0.0.1"
    assert found["watch_every"] + found["watch_answer"] <= 60


def test_the_rendered_programs_are_python_that_reads_all_from_the_data(tmp_path: Path) -> None:
    files = Buildbot().files(request(tmp_path, f"[workers.one]\n{WORKER}"))
    for name in ("master.cfg", "fnat_master.py", "buildbot.tac", "worker/buildbot.tac"):
        ast.parse(files[name])
        assert "kernel" not in files[name] and "lts61" not in files[name].partition("\n")[2]
    assert 'collapseRequests": False' in files["fnat_master.py"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "workers: Field required"),
        ("[workers]\n", "workers: Dictionary should have at least 1 item"),
        (f"wach = 3.0\n[workers.one]\n{WORKER}", "wach: Extra inputs are not permitted"),
        (f"[workers.one]\n{WORKER}".replace("bubblewrap", "magic"), "workers.one.capabilities.0: Input should be"),
        (f"keep-days = 0\n[workers.one]\n{WORKER}", "keep-days: Input should be greater than or equal to 1"),
    ],
)
def test_every_mistake_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(FileProblems, match="mistake") as caught:
        data(tmp_path, text)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["../up", "operator", "Big"])
def test_a_worker_s_name_is_a_file_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected small letters"):
        data(tmp_path, f'[workers."{name}"]\n{WORKER}')


def starts(text: str) -> list[str]:
    return [row for row in text.splitlines() if row.startswith("ExecStart")]


def test_the_units_name_the_checkouts_of_the_file_and_not_the_one_that_renders(tmp_path: Path) -> None:
    twistd = ".venv-buildbot/bin/twistd --nodaemon --pidfile= --python"
    files = Buildbot().files(request(tmp_path, f"[workers.one]\n{WORKER}{SIGNER}"))
    assert starts(files["fnat-worker@.service"]) == [f"ExecStart=/opt/fnat/{twistd} /var/lib/fnat-worker/buildbot.tac"]
    assert starts(files["fnat-worker@signer.service.d/checkout.conf"]) == [
        "ExecStart=",
        f"ExecStart=/srv/fnat/{twistd} /var/lib/fnat-worker/buildbot.tac",
    ]
    assert "fnat-worker@one.service.d/checkout.conf" not in files
    master = starts(files["fnat-master.service"])
    assert master[0].startswith("ExecStartPre=/opt/fnat/.venv-buildbot/bin/buildbot upgrade-master")
    assert master[1] == f"ExecStart=/opt/fnat/{twistd} /var/lib/fnat-master/buildbot.tac"
    own = Buildbot().files(request(tmp_path, f'checkout = "/opt/the master"\n[workers.one]\n{WORKER}'))
    assert starts(own["fnat-master.service"])[1].startswith('ExecStart="/opt/the master/.venv-buildbot/bin/twistd" ')
    assert str(Path.cwd()) not in "".join(starts("\n".join(files.values())))


@pytest.mark.parametrize("place", ["fnat", "", "~/fnat", "/opt/a\\nb"])
def test_a_checkout_is_a_whole_path(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match=r"workers\.one\.checkout: .* expected a whole path"):
        data(tmp_path, f"[workers.one]\n{WORKER}".replace("/opt/fnat", place))


def test_no_worker_has_the_name_of_the_master_s_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"workers\.coordinator: expected another name"):
        data(tmp_path, f"[workers.coordinator]\n{WORKER}")
    assert data(tmp_path, f"[workers.master]\n{WORKER}")["coordinator"] == "coordinator"


@pytest.mark.parametrize("value", ["9989", "127.0.0.1:", "127.0.0.1:99999", "a b:1", "127.0.0.1:80;id"])
def test_an_address_is_host_and_port(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        cluster_file.endpoint(value, "listen", tmp_path)


def test_not_every_worker_becomes_a_writer_of_compiler_caches(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ccache-writer: every worker would write to ccache-remote"):
        data(tmp_path, ccache_remote=tmp_path, ccache_writer=True)
    [command] = {" ".join(step["command"]) for step in data(tmp_path, ccache_remote=tmp_path)["lines"][0]["steps"][:1]}
    assert f"--ccache-remote {tmp_path}" in command and "--ccache-writer" not in command


def test_without_the_file_the_kind_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cluster: not given"):
        Buildbot().files(replace(request(tmp_path, ""), options={}))
    (tmp_path / "cluster.toml").write_text("= no toml")
    with pytest.raises(UsageError, match="no TOML"):
        Buildbot().files(replace(request(tmp_path, "= no toml")))
