"""Write the pages of all nights: `index.html` for people, which needs no other file and no script, and `index.json`.

Both are made of the records alone, so that they can be made anew at any time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.core import decoder, faults, fs, neutral, templates
from pipeline.core.disk_space import writing
from pipeline.core.units import human_bytes, human_seconds
from pipeline.nights import record
from pipeline.nights.record import LineNight, Night, Unreadable, Upstream, Verdict

TEMPLATE = "specs/report/nights.html.j2"
# Of each verdict the sign, the class in the style sheet and the headline: a verdict is never colour alone.
SHOWN = {
    Verdict.GREEN: ("✓", "passed", "Green"),
    Verdict.UNREACHABLE: ("?", "running", "Green, upstream unreachable"),
    Verdict.RUNNING: ("…", "running", "Running"),
    Verdict.KILLED: ("†", "interrupted", "Killed"),
    Verdict.RED: ("✗", "failed", "Red"),
    Verdict.ALARM: ("!", "failed", "Alarm"),
}
_WIDTH, _HEIGHT, _LEAST = 320.0, 56.0, 2.0  # of a chart and its lowest bar, in units: one pixel each on a phone


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its place, the class of its verdict, and the text that names it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Chart:
    """A chart of all nights of a line, the newest at the right; `label` describes it in words."""

    title: str
    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Row:
    """A night of a line."""

    number: int
    date: str
    sign: str
    state: str
    verdict: str
    changes: tuple[str, ...]
    steps: tuple[tuple[str, str, str], ...]
    took: str
    phases: str
    size: str
    snapshot: str
    released: bool
    links: tuple[tuple[str, str], ...]
    smoke: str
    audit: str
    failure: dict[str, str]
    note: str


def write(nights: Path) -> Path:
    """Write both pages, each by one rename; return that for people. Raises `HostLacks`."""
    known, damaged = record.load(nights), record.unreadable(nights)
    entries = {**_entries(known), "unreadable": [{"night": each.number, "problem": each.problem} for each in damaged]}
    with writing(nights):
        fs.write_atomic(nights / record.INDEX_JSON, json.dumps(entries, indent=1) + "\n")
        faults.point("nights.index")
        fs.write_atomic(nights / record.INDEX, render(known, damaged))
    return nights / record.INDEX


def _entries(known: Sequence[Night]) -> dict[str, Any]:
    """Return the entry of each night by date and number, the newest first: each line's verdict and snapshot."""
    return {
        "nights": [
            {
                "night": night.number,
                "begun": night.date,
                "verdict": night.verdict,
                "notified": night.notified,
                "lines": {
                    line.directory: {
                        "verdict": line.verdict,
                        "snapshot": line.snapshot,
                        "released": line.released,
                        "failure": decoder.encode(line.failure) if line.failure else None,
                    }
                    for line in night.lines
                },
            }
            for night in reversed(known)
        ]
    }


def render(known: Sequence[Night], damaged: Sequence[Unreadable] = ()) -> str:
    """Return the page of all nights, and of those whose records are damaged."""
    last = known[-1] if known else None
    verdict = last.verdict if last else Verdict.RUNNING
    sign, state, headline = SHOWN[verdict]
    directories = list(dict.fromkeys(line.directory for night in reversed(known) for line in night.lines))
    shown = {
        "last": {"number": last.number, "date": last.date, "took": human_seconds(last.seconds)} if last else {},
        "notified": last.notified if last else "",
        "count": len(known),
        "unreadable": [str(each) for each in damaged],
        "lines": [_line(known, directory) for directory in directories],
    }
    return templates.render(TEMPLATE, **neutral.document(shown), sign=sign, state=state, headline=headline)


def _line(known: Sequence[Night], directory: str) -> dict[str, Any]:
    """Return a line's section of the page."""
    nights = [(night, line) for night in known if (line := night.line(directory))]
    last, since = nights[-1][1], record.broken_since(known, directory)
    released = record.last_released(known, directory)
    sign, state, headline = SHOWN[last.verdict]
    return {
        "name": directory,
        "sign": sign,
        "state": state,
        "headline": headline,
        "since": f"night {since.number}, {since.date}" if since else "",
        "latest": released.snapshot if released else "",
        "charts": [asdict(chart) for chart in _charts(nights)],
        "rows": [asdict(_row(night, line)) for night, line in reversed(nights)],
    }


def _charts(nights: Sequence[tuple[Night, LineNight]]) -> list[Chart]:
    seconds = [sum(line.seconds.values()) for _, line in nights]
    sizes = [float(line.bytes) for _, line in nights]
    size_texts = [human_bytes(line.bytes) if line.packages else "no packages" for _, line in nights]
    return [
        _chart("Duration", nights, seconds, [human_seconds(each) for each in seconds]),
        _chart("Size of all packages", nights, sizes, size_texts),
    ]


def _chart(
    title: str, nights: Sequence[tuple[Night, LineNight]], values: Sequence[float], texts: Sequence[str]
) -> Chart:
    """Return a chart of bars as high as their values, from 0 to the greatest."""
    most, wide = max(values) or 1.0, _WIDTH / max(len(values), 12)
    bars = []
    for number, ((night, line), value, text) in enumerate(zip(nights, values, texts, strict=True)):
        height = max(_LEAST, round(_HEIGHT * value / most, 1))
        place = _WIDTH - wide * (len(values) - number)
        state, name = SHOWN[line.verdict][1:]
        described = f"night {night.number}, {night.date}: {text}, {name.lower()}"
        bars.append(Bar(round(place, 1), round(_HEIGHT - height, 1), round(wide * 0.8, 1), height, state, described))
    greatest = texts[list(values).index(max(values))]
    return Chart(title, f"{title}: last {texts[-1]}, at most {greatest}, of {len(values)} nights", tuple(bars))


def _row(night: Night, line: LineNight) -> Row:
    sign, state, headline = SHOWN[line.verdict]
    ran = [(name, step) for name, step in line.steps.items() if step.state != "reused"]
    return Row(
        number=night.number,
        date=night.date,
        sign=sign,
        state=state,
        verdict=headline,
        changes=tuple(f"{each.source}: {each.state}: {each.text}" for each in line.upstream),
        steps=tuple((name, step.state, f"{step.why}; {step.seconds:.1f} s") for name, step in ran),
        took=human_seconds(sum(line.seconds.values())),
        phases=", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in line.seconds.items()),
        size=human_bytes(line.bytes) if line.packages else "",
        snapshot=line.snapshot,
        released=line.released,
        links=tuple(_links(night, line)),
        smoke=line.smoke.text,
        audit=line.audit.text + (", in an earlier night" if line.audit.reused else ""),
        failure=_failure(line),
        note=_note(night, line),
    )


def _links(night: Night, line: LineNight) -> list[tuple[str, str]]:
    """Return name and address of what lies beside the record; whatever a name is, it leads nowhere else."""
    place = record.place_of(Path(), night.number)
    files = {"lab": line.smoke.page, "audit": line.audit.page, "JUnit": record.JUNIT, "JSON": record.RECORD}
    return [(name, f"./{quote(f'{place}/{file}')}") for name, file in files.items() if file]


def _failure(line: LineNight) -> dict[str, str]:
    if line.failure is None:
        return {}
    step = f", step {line.failure.step}" if line.failure.step else ""
    error, _, printed = line.failure.error.partition("\n")  # behind the first line: what a program said
    return {
        "what": f"{line.failure.phase}{step}",
        "error": error,
        "printed": printed,
        "where": line.failure.where,
        "next": line.failure.next,
    }


def _note(night: Night, line: LineNight) -> str:
    """Return what is worth a sentence: how far a killed night came, or that nothing changed."""
    if line.verdict is Verdict.KILLED:
        return f"Killed in {line.phase}: {night.why}"
    quiet = not line.ran and all(each.state is Upstream.SAME for each in line.upstream)
    return "Nothing changed." if quiet and line.verdict is Verdict.GREEN else ""
