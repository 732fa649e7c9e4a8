"""What a build says at its end, of outcomes given."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from pipeline.commands.build_summary import Forecast, Summary, failure
from pipeline.config import line_loader
from pipeline.core.console import Console
from pipeline.errors import BuildFailed, HostLacks, PipelineError, Refused
from pipeline.packaging.scheduler import Outcome, State
from pipeline.packaging.step_record import Facts, Phase, Published, Record


def failed(name: str, error: PipelineError) -> Outcome:
    return Outcome(name, "key", State.FAILED, "never run before", 1.0, Path(name), error)


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([HostLacks("no room"), HostLacks("no room either")], HostLacks),
        ([Refused("one"), Refused("other")], Refused),
        ([HostLacks("no room"), BuildFailed("a.c: error")], BuildFailed),
    ],
)
def test_steps_that_failed_for_one_reason_end_with_its_exit_code(
    errors: list[PipelineError], kind: type[PipelineError]
) -> None:
    found = failure({str(number): failed(str(number), error) for number, error in enumerate(errors)})
    assert type(found) is kind
    assert all(error.what in str(found) for error in errors)


def test_a_forecast_says_what_would_become_of_each_step() -> None:
    states = {"image": State.REUSED, "kernel:stock": State.TAKEN, "tools": State.RAN}
    told, forecast = (
        io.StringIO(),
        Forecast(line_loader.load("lts61"), {name: (state, "why") for name, state in states.items()}),
    )
    forecast.tell(Console(out=told))
    rows = dict(row.strip().split("  ", 1) for row in told.getvalue().splitlines() if "why" in row)
    assert {name: row.partition("why")[0].strip() for name, row in rows.items()} == {
        "image": "reused",
        "kernel:stock": "would be taken",
        "tools": "would run",
    }
    assert '"kernel:stock": {"would": "taken"' in json.dumps(forecast.to_json(), default=str)


def test_the_summary_says_by_which_certificate_modules_are_signed(tmp_path: Path) -> None:
    inputs = {"module-certificate": "CN=Key own, SHA-256 1234"}
    outcomes = {
        name: Outcome(
            name,
            "key",
            State.REUSED,
            "nothing changed",
            1.0,
            tmp_path,
            record=Record("lts61", name, "key", Phase.DONE, 0.0, 1, inputs=own),
        )
        for name, own in (("package:kmod-lvs-fullnat", inputs), ("ipvsadm", {}))
    }
    out, summary = io.StringIO(), Summary(outcomes, "repository", Path("repo"), 1.0)
    summary.tell(Console(out=out), "line lts61", "", steps=False)
    assert "package:kmod-lvs-fullnat: modules signed by CN=Key own, SHA-256 1234\n" in out.getvalue()
    assert summary.to_json()["certificates"] == {"package:kmod-lvs-fullnat": "CN=Key own, SHA-256 1234"}


def test_the_next_command_names_the_repo_file_of_every_set(tmp_path: Path) -> None:
    place = tmp_path / "el6" / "snapshots" / "one"
    place.mkdir(parents=True)
    for name in ("director", "realserver"):
        (place / f"el6-{name}.repo").write_text("")
    recorded = Path("elsewhere/el6")
    known = Published(
        *("one", recorded / "snapshots" / "one", recorded / "latest", "0" * 40),
        development=False,
        baseurl="http://r.example",
    )
    made = Record("el6", "repository", "key", Phase.DONE, 0.0, 1, facts=Facts(snapshot=known))
    outcome = Outcome("repository", "key", State.RAN, "never run before", 1.0, tmp_path, record=made)
    out = io.StringIO()
    Summary({"repository": outcome}, "repository", tmp_path, 1.0).tell(Console(out=out), "line el6", "", steps=False)
    said = out.getvalue()
    assert all(f"{tmp_path}/el6/latest/el6-{name}.repo" in said for name in ("director", "realserver"))
    assert "stock" not in said
