"""Draw networks, distributions, boots and sequence diagrams as shapes on a narrow sheet.

Geometry only: the template turns shapes into SVG, the style sheet gives them colours. Every sheet is made for the
width of a phone, so that its text stays readable there; texts never overlap, which is why each one's width is
reckoned here and then enforced (`textLength`), whatever font there is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Literal

from pipeline.lab.report.results import Distribution, Guest, Packet

WIDTH = 320.0  # units, one pixel each on a phone
NARROW = 300.0  # what does not scale must be narrower than a phone's card
SIZE = 12.0  # of a font, in units
ADVANCE = 0.6  # of a monospaced character, in sizes: DejaVu Sans Mono, Menlo and Roboto Mono have 0.60
LINE = 16.0  # from one line of text to the next
NO_BREAK = "\u00a0"  # SVG draws several spaces as one
PARTS = ("client", "router", "director", "server")  # from client to server


@dataclass(frozen=True)
class Line:
    """A line between two points."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str
    shape: Literal["line"] = "line"


@dataclass(frozen=True)
class Box:
    """A rectangle; `kind` is its class in the style sheet."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    shape: Literal["box"] = "box"


@dataclass(frozen=True)
class Dot:
    """A small circle."""

    x: float
    y: float
    kind: str
    radius: float = 4.0
    shape: Literal["dot"] = "dot"


@dataclass(frozen=True)
class Text:
    """A text whose base line begins at a point; `width` as it will be drawn."""

    x: float
    y: float
    text: str
    kind: str = ""
    shape: Literal["text"] = "text"

    @property
    def width(self) -> float:
        """In units."""
        return width_of(self.text)


@dataclass(frozen=True)
class Head:
    """The head of an arrow whose point is at a point, coming from the left."""

    x: float
    y: float
    kind: str
    shape: Literal["head"] = "head"


Shape = Line | Box | Dot | Text | Head


@dataclass
class Sheet:
    """Shapes with their extent; `label` describes the drawing in words, for screen readers."""

    label: str
    width: float = WIDTH
    scales: bool = True  # to the room there is; else it stays beside what is measured in pixels
    height: float = 0.0
    shapes: list[Shape] = field(default_factory=list)

    def put(self, *shapes: Shape) -> None:
        """Add shapes, later ones above earlier ones."""
        self.shapes += shapes


def width_of(text: str) -> float:
    """Return a text's width in units; East Asian wide characters take two columns."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return (len(text) + wide) * ADVANCE * SIZE


def wrapped(text: str, width: float) -> list[str]:
    """Wrap a text into lines of at most `width` units, at spaces where there are some."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(joined) <= width:
            lines[-1] = joined
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = lines[-1] or word
        while width_of(lines[-1]) > width and len(lines[-1]) > 1:
            fits = next(n for n in range(len(lines[-1]) - 1, 0, -1) if n == 1 or width_of(lines[-1][:n]) <= width)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


# --- Networks --------------------------------------------------------------------------------------------

_COLUMN, _LEFT = 34.0, 14.0  # between segments' bars, and before the first
_BESIDE = {"request": 8.0, "answer": -8.0}  # of a bar: where a packet's way runs
_ABOVE = {"request": -7.0, "answer": 0.0}  # of a card's line, for the same reason
Way = tuple[Packet, ...]  # the first packet of each hop


def ways(packets: Iterable[Packet], guests: Iterable[Guest]) -> tuple[Way, Way]:
    """Return the hops of the first connection's requests, and those of the answers back to the client."""
    names = {guest.name for guest in guests}
    hops = {(p.source, p.target, p.segment): p for p in reversed(list(packets)) if {p.source, p.target} <= names}
    ordered = sorted(hops.values(), key=lambda packet: packet.at)
    request = _way(ordered, ordered[0].source, "") if ordered else ()
    return request, _way(ordered, request[-1].target, request[0].source) if request else ()


def _way(hops: Sequence[Packet], start: str, end: str) -> Way:
    """Follow the hops from guest to guest; no guest is met twice, and `end` is the last."""
    found: list[Packet] = []
    met = [start]
    while met[-1] != end and (hop := next((h for h in hops if h.source == met[-1] and h.target not in met), None)):
        found.append(hop)
        met.append(hop.target)
    return tuple(found)


def in_words(way: Way) -> str:
    """Return the guests of a way: `client → director → server1`."""
    return " → ".join([*(hop.source for hop in way[:1]), *(hop.target for hop in way)])


def topology(guests: Sequence[Guest], packets: Sequence[Packet] = ()) -> Sheet:
    """Draw segments as vertical bars, guests as boxes beside them, and each card's line to its segment.

    Names stand like stairs above the bars, so that long ones do not overlap. Beside the bars go the ways of the first
    connection's packets, which are written below the guests.
    """
    ordered = sorted(guests, key=lambda guest: PARTS.index(guest.part) if guest.part in PARTS else len(PARTS))
    segments = list(dict.fromkeys(card.segment for guest in ordered for card in guest.cards))
    places = {name: _LEFT + _COLUMN * number for number, name in enumerate(segments)}
    left = _LEFT + _COLUMN * len(segments)
    found = dict(zip(_BESIDE, ways(packets, guests), strict=True))
    sheet = Sheet(_describe_network(ordered, found), width=max(WIDTH, left + 250.0))
    names = {name: wrapped(name, sheet.width - places[name] - 8) for name in segments}
    starts: dict[str, float] = {}
    top = 0.0
    for name, lines in names.items():
        starts[name] = top + LINE * len(lines) + 3
        for number, line in enumerate(lines):
            sheet.put(Text(places[name] - 3, top + LINE * number + 13, line, "segment"))
        top = starts[name]
    boxes = Sheet("")
    bottom = top + 6
    cards: dict[tuple[str, str], float] = {}  # guest and segment to the y of the card's line
    for guest in ordered:
        bottom = _guest(boxes, guest, places, left, sheet.width, bottom, cards) + 8
    sheet.put(*(Line(places[name], starts[name], places[name], bottom - 4, "segment") for name in segments))
    sheet.put(*boxes.shapes)
    sheet.height = bottom
    for kind, way in found.items():
        _draw_way(sheet, kind, way, places, cards, left)
    return sheet


def _draw_way(
    sheet: Sheet,
    kind: str,
    way: Way,
    places: Mapping[str, float],
    cards: Mapping[tuple[str, str], float],
    left: float,
) -> None:
    """Draw each hop from card to card beside its segment's bar, and the way in words below all that is there."""
    for hop in way:
        ends = [cards.get((name, hop.segment)) for name in (hop.source, hop.target)]
        if ends[0] is None or ends[1] is None:
            continue
        x, start, end = places[hop.segment] + _BESIDE[kind], ends[0] + _ABOVE[kind], ends[1] + _ABOVE[kind]
        sheet.put(Line(left, start, x, start, kind), Line(x, start, x, end, kind), Line(x, end, left - 6, end, kind))
        sheet.put(Head(left, end, kind))
    for number, line in enumerate(wrapped(f"{kind} {in_words(way)}", sheet.width - 40) if way else ()):
        if number == 0:
            sheet.put(Line(2, sheet.height + 9, 26, sheet.height + 9, kind), Head(32, sheet.height + 9, kind))
        sheet.put(Text(38, sheet.height + 13, line))
        sheet.height += LINE


def _guest(
    sheet: Sheet,
    guest: Guest,
    places: Mapping[str, float],
    left: float,
    right: float,
    top: float,
    cards: dict[tuple[str, str], float],
) -> float:
    """Draw a guest's box and the lines of its cards, whose places go to `cards`; return the box's lower edge."""
    available = right - left - 18
    title = wrapped(guest.name, available)
    under = wrapped(f"{guest.part}, {guest.role} kernel", available)
    texts: list[Shape] = []
    joints: list[Shape] = []
    y = top + 16
    for line in title:
        texts.append(Text(left + 10, y, line, "name"))
        y += LINE
    for line in under:
        texts.append(Text(left + 10, y, line, "quiet"))
        y += LINE
    for card in guest.cards:
        x = places[card.segment]
        joints += [Line(x, y - 4, left, y - 4, "card"), Dot(x, y - 4, "card")]
        cards.setdefault((guest.name, card.segment), y - 4)
        for line in _card_lines(card.device, card.addresses, available):
            texts.append(Text(left + 10, y, line))
            y += LINE
    for words in _virtual_and_routes(guest):
        for line in wrapped(words, available):
            texts.append(Text(left + 10, y, line, "virtual"))
            y += LINE
    kind = guest.part if guest.part in PARTS else "other"
    sheet.put(*joints, Box(left, top, right - left - 1, y - 8 - top, f"guest {kind}"), *texts)
    return y - 8


def _virtual_and_routes(guest: Guest) -> list[str]:
    """Return what a guest has beside its cards: `VIP 192.168.0.10`, `gateway 192.168.100.10`."""
    gateway = "default via "
    routes = [f"gateway {r.removeprefix(gateway)}" if r.startswith(gateway) else f"route {r}" for r in guest.routes]
    return [*([f"VIP {guest.vip}"] if guest.vip else []), *routes]


def _card_lines(device: str, addresses: Sequence[str], available: float) -> list[str]:
    """Return the card's name once, with its addresses below each other beside it."""
    name = wrapped(device, available / 2)
    beside = available - max(map(width_of, name)) - width_of(NO_BREAK)
    lines = [line for address in addresses or ("no address",) for line in wrapped(address, beside)]
    length = max(map(len, name))
    pairs = zip_longest(name, lines, fillvalue="")
    return [f"{left.ljust(length, NO_BREAK)}{NO_BREAK}{right}" for left, right in pairs]


def _describe_network(guests: Iterable[Guest], found: Mapping[str, Way]) -> str:
    cards = [
        f"{guest.name} ({guest.part}) "
        + " and ".join(f"on {card.segment} with {', '.join(card.addresses) or 'no address'}" for card in guest.cards)
        + "".join(f", {words}" for words in _virtual_and_routes(guest))
        for guest in guests
    ]
    return "Network: " + "; ".join([*cards, *(f"{kind} {in_words(way)}" for kind, way in found.items() if way)])


# --- Requests --------------------------------------------------------------------------------------------


def distribution(of: Distribution) -> Sheet:
    """Draw two bars a server: the expected and the actual number of requests."""
    names = list(dict.fromkeys([*of.expected, *of.found]))
    counts = {name: (of.expected.get(name, 0), of.found.get(name, 0)) for name in names}
    words = "; ".join(f"{name}: expected {expected}, got {found}" for name, (expected, found) in counts.items())
    sheet = Sheet(f"{of.title}. {words}")
    most = max((count for pair in counts.values() for count in pair), default=0)
    available = WIDTH - width_of(f"expected {most}") - 12
    y = 0.0
    for name, pair in counts.items():
        for line in wrapped(name, WIDTH - 4):
            sheet.put(Text(2, y + 13, line, "name"))
            y += LINE
        for what, count in zip(("expected", "got"), pair, strict=True):
            length = available * count / most if most else 0.0
            kind = what if what == "expected" or pair[0] == pair[1] else "got other"
            sheet.put(Box(2, y + 3, max(length, 1.0), 12, kind), Text(length + 8, y + 13, f"{what} {count}"))
            y += LINE
        y += 6
    sheet.height = y
    return sheet


# --- Boots -----------------------------------------------------------------------------------------------


def boots(guests: Sequence[Guest]) -> Sheet:
    """Draw a row per guest: a bar from QEMU's start to the last mark, on one scale, with all marks named below."""
    last = max((at for guest in guests for at in guest.marks.values()), default=0.0)
    labels = [_mark(*mark) for guest in guests for mark in guest.marks.items()]
    reserved = min(max(map(width_of, labels), default=0.0) + 8, WIDTH * 0.6)
    sheet = Sheet(_describe_boots(guests))
    y = 0.0
    for guest in guests:
        for line in wrapped(guest.name, WIDTH - 4):
            sheet.put(Text(2, y + 13, line, "name"))
            y += LINE
        y = _boot(sheet, guest.marks, last, reserved, y) + 8
    sheet.height = y
    return sheet


def _boot(sheet: Sheet, marks: Mapping[str, float], last: float, reserved: float, top: float) -> float:
    """Draw one guest's bar and marks; return the lower edge. The last mark is `reserved` before the right edge.

    From right to left: a name that would reach the next mark's line goes below all that are there, and its own
    line passes left of them.
    """
    if not marks:
        sheet.put(Text(2, top + 13, "no sign of life", "quiet"))
        return top + LINE
    ordered = sorted(marks.items(), key=lambda mark: mark[1])
    ends = [2 + (WIDTH - reserved) * (at / last if last else 0.0) for _, at in ordered]
    for number, (start, end) in enumerate(pairwise([2.0, *ends])):
        sheet.put(Box(start, top + 3, max(end - start, 0.5), 10, "boot" if number % 2 else "boot other"))
    bottom, border = top + 16, WIDTH * 2
    for (name, at), x in zip(reversed(ordered), reversed(ends), strict=True):
        lines = wrapped(_mark(name, at), max(reserved - 6, WIDTH - x - 6))
        widest = max(map(width_of, lines))
        y = bottom if x + 6 + widest > border else top + 16
        sheet.put(Line(x, top + 3, x, y + 12, "mark"))
        for number, line in enumerate(lines):
            sheet.put(Text(x + 4, y + 12 + LINE * number, line))
        bottom = max(bottom, y + LINE * len(lines))
        border = x
    return bottom


def _mark(name: str, at: float) -> str:
    return f"{name} {at:.1f} s"


def _describe_boots(guests: Iterable[Guest]) -> str:
    rows = [f"{g.name}: {', '.join(_mark(*mark) for mark in g.marks.items()) or 'no sign of life'}" for g in guests]
    return "Boots, in seconds since QEMU was started. " + "; ".join(rows)


# --- Packets ---------------------------------------------------------------------------------------------

_LIFELINE_DISTANCE = 24.0  # between two guests' lines


@dataclass(frozen=True)
class Arrow:
    """One packet's arrow between lifelines; `start` and `end` are x, in units."""

    packet: Packet
    milliseconds: str
    start: float
    end: float


@dataclass(frozen=True)
class SequenceDiagram:
    """The packets of a connection; `head` names the guests above their lifelines, which are at `places`."""

    head: Sheet
    places: tuple[float, ...]
    width: float
    arrows: tuple[Arrow, ...]


def sequence_diagram(packets: Sequence[Packet], guests: Sequence[Guest]) -> SequenceDiagram:
    """Draw a lifeline for each guest that sent or got a packet, and an arrow for each packet."""
    parts = {guest.name: PARTS.index(guest.part) if guest.part in PARTS else len(PARTS) for guest in guests}
    met = dict.fromkeys(name for packet in packets for name in (packet.source, packet.target))
    names = sorted(met, key=lambda name: parts.get(name, len(PARTS)))
    places = {name: 10 + _LIFELINE_DISTANCE * number for number, name in enumerate(names)}
    head = Sheet("Lines, from left to right: " + ", ".join(names), scales=False)
    starts: dict[str, float] = {}
    for name, x in places.items():
        for line in wrapped(name, max(NARROW - x, 80.0)):
            head.put(Text(x - 3, head.height + 13, line, "name"))
            head.height += LINE
        starts[name] = head.height + 2
    head.height += 6
    head.put(*(Line(x, starts[name], x, head.height, "life") for name, x in places.items()))
    head.width = max([NARROW, *(x + 90 for x in places.values())])
    rungs = [Arrow(p, f"{1000 * p.at:.1f}", places[p.source], places[p.target]) for p in packets]
    return SequenceDiagram(
        head, tuple(places.values()), 20 + _LIFELINE_DISTANCE * max(len(places) - 1, 0), tuple(rungs)
    )
