"""What is written of a run: the page, JUnit XML, JSON, and the terminal's lines; whatever guests have said."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core import neutral
from pipeline.core.console import Console
from pipeline.lab.report import drawing, results, terminal
from pipeline.lab.report import page as report
from pipeline.lab.report.results import Check, Distribution, Finding, Packet, Report, Scenario, State
from tests.fixtures import labruns

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """What a page is made of: its elements, and the text that a person reads."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def read(run: Report) -> Reader:
    """The page of a run, whose elements are all closed."""
    reader = Reader(report.page(results.neutralized(run)))
    assert reader.open == []
    return reader


# --- The files -------------------------------------------------------------------------------------------


def test_three_files_are_written_and_the_json_is_the_run_itself(tmp_path: Path) -> None:
    run = labruns.report()
    page = report.write(run, tmp_path / "reports" / "el6")
    assert page == tmp_path / "reports" / "el6" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["junit.xml", "report.html", "report.json"]
    assert Report.model_validate_json((page.parent / "report.json").read_text()) == run


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (report.write(labruns.report(), tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in sorted(one.parent.iterdir())] == [
        p.read_bytes() for p in sorted(two.parent.iterdir())
    ]


def test_what_a_guest_said_is_made_neutral_for_eyes_and_xml_and_kept_whole_in_the_json(tmp_path: Path) -> None:
    trace = labruns.WILD
    finding = labruns.broken().guests[0].findings[0].model_copy(update={"trace": trace})
    guest = labruns.broken().guests[0].model_copy(update={"findings": (finding,)})
    page = report.write(labruns.report(labruns.broken().model_copy(update={"guests": (guest,)})), tmp_path)
    assert r"SeaBIOS\x1b[0m" in page.read_text() and "\x1b" not in page.read_text()
    failure = ElementTree.parse(tmp_path / "junit.xml").find(".//failure")
    assert failure is not None and "\\x00\\x07\\x1b]0;title\\x07 </pre><script>" in (failure.text or "")
    kept = Report.model_validate_json((tmp_path / "report.json").read_text())
    assert kept.scenarios[0].guests[0].findings[0].trace == trace


# --- The page --------------------------------------------------------------------------------------------


def test_the_page_says_everything_a_run_is_known_by() -> None:
    run, text = labruns.report(), read(labruns.report()).text
    known = [run.snapshot, run.fingerprint, run.acceleration, *run.packages, *run.packages.values()]
    for scenario in run.scenarios:
        known += [scenario.name, scenario.title, scenario.why, scenario.state.value]
        known += [part for check in scenario.checks for part in (check.name, check.expected, check.found)]
        known += [check.hint for check in scenario.checks if not check.passed]
        known += [guest.name for guest in scenario.guests]
        known += [packet.text for packet in scenario.sequence]
        known += [distribution.title for distribution in scenario.distributions]
        known += scenario.captures.values()
    assert [part for part in known if part not in text] == []


def test_checks_that_did_not_pass_come_first() -> None:
    text = read(labruns.report(labruns.fullnat())).text
    places = [text.index(check.name) for check in labruns.fullnat().checks]
    assert places[1] < places[0] < places[2]


@pytest.mark.parametrize("scenario", [labruns.passed(), labruns.fullnat(), labruns.broken(), labruns.left_out()])
def test_a_state_is_said_in_words_and_by_a_sign(scenario: Scenario) -> None:
    assert f"{report.SIGNS[scenario.state]} {scenario.state.value}" in read(labruns.report(scenario)).text


@pytest.mark.parametrize(
    ("scenarios", "said", "passed"),
    [
        ((labruns.passed(),), "1 of 1 scenario passed", True),
        ((labruns.passed(), labruns.left_out()), "1 of 1 scenario passed, 1 left out", True),
        ((labruns.passed(), labruns.fullnat(), labruns.broken()), "1 of 3 scenarios passed, 1 failed, 1 broken", False),
        ((labruns.left_out(),), "no scenario was run, so nothing is proven", False),
    ],
)
def test_the_headline_counts(scenarios: tuple[Scenario, ...], said: str, passed: bool) -> None:
    run = labruns.report(*scenarios)
    assert report.verdict(run) == said
    text = read(run).text
    assert said in text and ("✓ Passed: lab of el6" in text) is passed and ("✗ Not passed" in text) is not passed


def test_the_page_has_neither_scripts_nor_anything_from_elsewhere() -> None:
    elements = read(labruns.report()).elements
    assert not {tag for tag, _ in elements} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    names = {name for _, attributes in elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
    anchors = {attributes["id"] for _, attributes in elements if "id" in attributes}
    links = [attributes["href"] or "" for tag, attributes in elements if tag == "a"]
    assert links and {link.removeprefix("#") for link in links if not link.startswith("./")} <= anchors
    assert "url(" not in report.page(labruns.report()) and "@import" not in report.page(labruns.report())


ATTACK = (
    '</pre></svg></style><script>alert(\'&amp;\')</script><img src=x onerror=alert(1)>" onload="x" \x1b[31m\x00\u202e'
)


def filled(value: object) -> object:
    """A document with the attack in every text of it, keys too."""
    if isinstance(value, str):
        return ATTACK
    if isinstance(value, dict):
        return {f"{ATTACK}{key}": filled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(filled, value))
    return value


def attacked(scenario: Scenario) -> Scenario:
    """A scenario whose every text is an attack on the page."""
    guests = []
    for guest in scenario.guests:
        found = tuple(each.model_copy(update=_texts(each.model_dump())) for each in guest.findings)
        cards = tuple(each.model_copy(update=_texts(each.model_dump())) for each in guest.cards)
        update = {**_texts(guest.model_dump(exclude={"findings", "cards"})), "findings": found, "cards": cards}
        guests.append(guest.model_copy(update={**update, "console": f"{ATTACK}\n{guest.console}\n{ATTACK}"}))
    parts = {
        "guests": tuple(guests),
        "checks": tuple(each.model_copy(update=_texts(each.model_dump())) for each in scenario.checks),
        "distributions": tuple(each.model_copy(update=_texts(each.model_dump())) for each in scenario.distributions),
        "measurements": tuple(each.model_copy(update=_texts(each.model_dump())) for each in scenario.measurements),
        "sequence": tuple(each.model_copy(update=_texts(each.model_dump())) for each in scenario.sequence),
    }
    own = scenario.model_dump(exclude={*parts, "state"})
    return scenario.model_copy(update={**_texts(own), **parts})


def _texts(document: dict[str, object]) -> dict[str, object]:
    return {name: filled(value) for name, value in document.items()}


def test_no_text_anywhere_becomes_markup() -> None:
    run = labruns.report(attacked(labruns.fullnat()), attacked(labruns.broken()))
    own = _texts(run.model_dump(exclude={"scenarios", "schema_version", "state", "started", "seconds", "pid", "dirty"}))
    page = read(run.model_copy(update=own))
    plain = read(labruns.report(labruns.fullnat(), labruns.broken()))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    names = {name for _, attributes in plain.elements for name in attributes}
    assert {name for _, attributes in page.elements for name in attributes} <= names
    assert "<script>alert('&amp;')</script>" in page.text, "as text it is there"
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page.text)


def test_a_finding_is_marked_in_the_console_and_linked() -> None:
    page = read(labruns.report(labruns.broken()))
    (mark,) = [attributes["id"] for tag, attributes in page.elements if tag == "mark"]
    assert f"#{mark}" in [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    consoles = [attributes for tag, attributes in page.elements if tag == "details"][2:]
    assert ["open" in attributes for attributes in consoles] == [True, False], "only the one with a finding"
    (screen, _) = report._section(1, results.neutralized(labruns.broken())).consoles
    (piece,) = screen.findings
    assert piece.text == labruns.TRACE
    assert "\n".join(each.text for each in screen.parts) == neutral.text(screen.guest.console).rstrip("\n")


@given(st.lists(st.tuples(st.integers(-2, 60), st.integers(1, 30))), st.integers(0, 50))
def test_every_line_of_a_console_is_on_the_page_once_wherever_findings_are(
    places: list[tuple[int, int]], count: int
) -> None:
    rows = [f"row {number}" for number in range(count)]
    findings = tuple(
        Finding(guest="g", kind="oops", line=line, trace="\n".join(["t"] * length), meaning="m", look="l")
        for line, length in places
    )
    guest = labruns.guest("g", "client", "stock", console="\n".join(rows), findings=findings)
    screen = report._console("a", guest)
    assert [row for piece in screen.parts if piece.text for row in piece.text.split("\n")] == rows
    assert len(screen.findings) == len(findings)


def test_a_long_console_is_laid_out_in_pieces() -> None:
    rows = [f"[{number:8}.000000] something or other was said here" for number in range(25_000)]
    guest = labruns.guest("talker", "client", "stock", console="\n".join(rows))
    run = labruns.report(labruns.passed().model_copy(update={"guests": (guest,)}))
    page = report.page(run)
    assert all(row in page for row in (rows[0], rows[-1])) and page.count('<pre class="long"') == 1
    (screen,) = report._section(1, run.scenarios[0]).consoles
    assert {len(piece.text.split("\n")) for piece in screen.parts} <= {report.CHUNK_LINES, 25_000 % report.CHUNK_LINES}


# --- Text ------------------------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_good_for_xml_and_html(text: str) -> None:
    shown = neutral.text(text)
    ElementTree.fromstring(f"<a>{shown.replace('&', '&amp;').replace('<', '&lt;')}</a>".encode())


def test_cleaning_reaches_every_text_and_nothing_else() -> None:
    run = labruns.report(labruns.broken())
    shown = results.neutralized(run)
    assert "\\u001b" in run.model_dump_json()
    assert not re.search(r"\\u001b|\\u0000|\u202e", shown.model_dump_json())
    assert results.neutralized(labruns.report(labruns.fullnat())) == labruns.report(labruns.fullnat())


# --- Drawings --------------------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cf", "Mn", "Me"]), min_size=1, max_size=60
)


def texts_apart(sheet: drawing.Sheet) -> None:
    """No text of a sheet reaches into another, nor beyond the sheet."""
    texts = [shape for shape in sheet.shapes if isinstance(shape, drawing.Text) and shape.text.strip()]
    for number, one in enumerate(texts):
        assert one.x >= 0 and one.x + one.width <= sheet.width + 0.01 and one.y <= sheet.height, one
        for two in texts[number + 1 :]:
            beside = one.x + one.width <= two.x + 0.01 or two.x + two.width <= one.x + 0.01
            assert beside or abs(one.y - two.y) >= drawing.SIZE, (one, two)


@given(st.lists(st.tuples(NAMES, st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=3)), max_size=4)), max_size=5))
def test_no_name_is_in_the_way_of_another_in_a_network(rows: list[tuple[str, list[tuple[str, list[str]]]]]) -> None:
    guests = [
        labruns.guest(name, "server", "stock", *(labruns.card(segment, "eth0", 1, *held) for segment, held in cards))
        for name, cards in rows
    ]
    texts_apart(
        drawing.topology(guests, [labruns.sequence(1)[0].model_copy(update={"source": rows[0][0]})] if rows else [])
    )


@given(st.dictionaries(NAMES, st.integers(0, 10**6), max_size=6), st.dictionaries(NAMES, st.integers(0, 9), max_size=6))
def test_no_name_is_in_the_way_of_another_in_a_distribution(expected: dict[str, int], found: dict[str, int]) -> None:
    sheet = drawing.distribution(Distribution(title="t", expected=expected, found=found))
    texts_apart(sheet)
    for bar in [shape for shape in sheet.shapes if isinstance(shape, drawing.Box)]:
        for text in [shape for shape in sheet.shapes if isinstance(shape, drawing.Text)]:
            assert not (bar.y < text.y - 4 < bar.y + bar.height and text.x < bar.x + bar.width), (bar, text)


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, st.floats(0, 1000), max_size=8)), max_size=5))
@example([("0", {"0": 5e-324})])
def test_no_mark_is_in_the_way_of_another_in_a_timeline(rows: list[tuple[str, dict[str, float]]]) -> None:
    sheet = drawing.boots([labruns.guest(name, "server", "stock", marks=marks) for name, marks in rows])
    texts_apart(sheet)
    for line in [shape for shape in sheet.shapes if isinstance(shape, drawing.Line)]:
        for text in [shape for shape in sheet.shapes if isinstance(shape, drawing.Text)]:
            crossed = text.x < line.x1 < text.x + text.width and line.y1 < text.y - 4 < line.y2
            assert not crossed, (line, text)


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_no_name_is_in_the_way_of_another_above_a_ladder(names: list[str]) -> None:
    packets = [
        packet.model_copy(update={"source": name, "target": names[0]})
        for name in names
        for packet in labruns.sequence(1)
    ]
    texts_apart(drawing.sequence_diagram(packets, []).head)


def test_wide_characters_take_twice_the_room() -> None:
    assert drawing.width_of("東京") == drawing.width_of("abcd") == drawing.SIZE * drawing.ADVANCE * 4
    assert drawing.wrapped("東京東京", drawing.width_of("abcd")) == ["東京", "東京"]


def test_a_text_is_cut_at_spaces_and_only_where_it_must_within_words() -> None:
    assert drawing.wrapped("one two three", drawing.width_of("one two")) == ["one two", "three"]
    assert drawing.wrapped("one twothree", drawing.width_of("four")) == ["one", "twot", "hree"]


def test_bars_are_as_long_as_their_counts() -> None:
    sheet = drawing.distribution(Distribution(title="t", expected={"a": 20, "b": 10}, found={"a": 20, "c": 5}))
    bars = [(shape.kind, shape.width) for shape in sheet.shapes if isinstance(shape, drawing.Box)]
    full = bars[0][1]
    assert [(kind, round(width / full, 2)) for kind, width in bars if width > 1] == [
        ("expected", 1.0),
        ("got", 1.0),
        ("expected", 0.5),
        ("got other", 0.25),
    ]


def test_a_drawing_says_in_words_what_it_shows() -> None:
    labels = [
        attributes["aria-label"]
        for tag, attributes in read(labruns.report(labruns.fullnat())).elements
        if attributes.get("role") == "img"
    ]
    assert any(
        "director (director) on front with 192.168.192.10/24 and on back with" in (label or "") for label in labels
    )
    assert "10 requests, drained. one: expected 10, got 7; two: expected 0, got 3" in labels
    assert any("server-one: kernel 0.9 s, init 1.8 s" in (label or "") for label in labels)


def test_the_network_shows_vip_gateway_and_the_way_of_a_packet() -> None:
    sheet = drawing.topology(labruns.fullnat().guests, labruns.sequence())
    texts = [shape.text for shape in sheet.shapes if isinstance(shape, drawing.Text)]
    assert {"VIP 192.168.192.10", "gateway 192.168.1.2"} <= set(texts)
    assert "request client → director → server-one" in " ".join(texts)
    assert "answer server-one → director → client" in " ".join(texts)
    assert "VIP 192.168.192.10" in sheet.label and "request client → director → server-one" in sheet.label
    heads = [shape.kind for shape in sheet.shapes if isinstance(shape, drawing.Head)]
    assert heads.count("request") == heads.count("answer") == 3, "two hops and the legend"
    texts_apart(sheet)


def test_an_answer_that_bypasses_the_director_goes_its_own_way() -> None:
    hops = [("client", "director"), ("director", "server-one"), ("server-one", "client"), ("client", "director")]
    packets = [
        Packet(at=at, segment="front", source=source, target=target, text="")
        for at, (source, target) in enumerate(hops)
    ]
    request, answer = drawing.ways(packets, labruns.fullnat().guests)
    assert drawing.in_words(request) == "client → director → server-one"
    assert drawing.in_words(answer) == "server-one → client"
    assert drawing.ways([], labruns.fullnat().guests) == ((), ())


def test_arrows_go_from_who_sent_to_who_got_it() -> None:
    drawn = drawing.sequence_diagram(labruns.sequence(4), labruns.fullnat().guests)
    client, director, server = drawn.places
    ways = [(rung.start, rung.end) for rung in drawn.arrows]
    assert ways == [(client, director), (director, server), (server, director), (director, client)]
    assert drawn.arrows[1].milliseconds == "1.2"


# --- The terminal ----------------------------------------------------------------------------------------


def told(run: Report) -> str:
    console = Console(out=io.StringIO(), err=io.StringIO())
    terminal.print_report(run, console, Path("/reports/report.html"))
    assert isinstance(console.out, io.StringIO)
    return console.out.getvalue()


def test_the_terminal_gets_a_line_for_each_scenario_and_where_the_page_lies() -> None:
    lines = told(labruns.report()).splitlines()
    assert lines[0] == "lab of el6, emulated (KVM unusable: /dev/kvm is not there)"
    rows = [re.split(" {2,}", line) for line in lines[3:7]]
    assert rows == [
        ["✓", "boot", "passed", "3.2 s", "1/1"],
        ["✗", "fullnat", "failed", "21.4 s", "2/3", "1 of 3 checks saw something else"],
        ["!", "keepalived", "broken", "6.0 s", "the director ended while it was waited for"],
        ["–", "tun", "left out", labruns.left_out().why],
    ]
    assert lines[-1] == "1 of 3 scenarios passed, 1 failed, 1 broken, 1 left out; report: /reports/report.html"


def test_the_terminal_gets_what_was_wrong_and_the_beginning_of_each_trace() -> None:
    text = told(labruns.report(labruns.fullnat(), labruns.broken()))
    assert "  expected: 192.168.192.1:40112\n  got:      192.168.1.1:5001\n  look at:  grep toa" in text
    assert "-Ln shows FullNat" not in text
    head, _, rest = text.partition("keepalived: oops on the console of director, line 64: ")
    assert head and "  | BUG: unable to handle kernel NULL pointer" in rest
    long = labruns.TRACE + "\nmore" * 10
    finding = labruns.broken().guests[0].findings[0].model_copy(update={"trace": long})
    guest = labruns.broken().guests[0].model_copy(update={"findings": (finding,)})
    cut = told(labruns.report(labruns.broken().model_copy(update={"guests": (guest,)})))
    assert "  | ... and 10 more lines" in cut and cut.count("  | ") == 7


def test_nothing_a_guest_said_reaches_the_terminal_raw() -> None:
    check = Check(name="says", expected="x", found="\x1b[2J\x07boo", passed=False)
    text = told(labruns.report(labruns.passed().model_copy(update={"checks": (check,), "state": State.FAILED})))
    assert "got:      \\x1b[2J\\x07boo" in text and "\x1b" not in text
