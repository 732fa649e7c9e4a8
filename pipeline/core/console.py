"""Print progress and notes to standard error, and results to standard output.

On a terminal rich draws; elsewhere the same content comes as plain lines. `--json` leaves standard output to one JSON
document, `--quiet` silences notes and progress, never errors. Rich is imported only where something is drawn. Every
text is made neutral here, whatever its origin.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TextIO

from pipeline.core import decoder, neutral
from pipeline.core.units import human_bytes
from pipeline.errors import HostLacks, PipelineError

_CLEAR_LINE = "\x1b[K"  # ECMA-48, erase in line
PLAIN_INTERVAL = 5.0  # seconds between plain progress lines of one item


def write(stream: TextIO, text: str) -> None:
    """Print `text` to `stream`, made neutral; ignore further output once the reader of a pipe has gone.

    Raises `HostLacks` for a file or a disk that cannot be written.
    """
    _put(stream, neutral.text(text))


# Several threads print: each text goes out whole, and a status line is cleared before another text and drawn behind it.
_PRINTING = threading.RLock()


def _put(stream: TextIO, text: str, end: str = "\n") -> None:
    with _PRINTING, output_errors(stream):
        stream.write(text + end)  # in one piece: print() would write the end apart
        stream.flush()


@contextlib.contextmanager
def output_errors(stream: TextIO) -> Iterator[None]:
    """Convert the errors of writing to `stream` as `write` does."""
    try:
        yield
    except BrokenPipeError:
        silence(stream)
    except OSError as error:
        silence(stream)
        name = "standard error" if stream is sys.stderr else "standard output"
        what = f"{name}: cannot be written; expected space for the output, got {error.strerror}"
        raise HostLacks(what, hint="redirect it: ./inv ... > FILE") from None


def silence(stream: TextIO) -> None:
    """Discard all further output to `stream`."""
    with contextlib.suppress(OSError, ValueError):  # no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def make_usable() -> None:
    """Open closed standard streams on /dev/null, make the others neutral, and accept text of any locale.

    The next opened file would get the number of a closed one, and a child's output be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = neutral.stream(sys.stdout), neutral.stream(sys.stderr)


class Meter(Protocol):
    """Progress of one item; safe to call from any thread."""

    def start(self, total: int | None, done: int = 0) -> None:
        """Begin or restart; sizes in bytes, `total` None when unknown."""

    def advance(self, count: int) -> None:
        """Add `count` bytes."""

    def note(self, text: str) -> None:
        """Print a note about the item, such as a retry or another mirror."""


@dataclass
class Console:
    """The terminal, or its replacement. `json` and `quiet` are the options of the same name."""

    json: bool = False
    quiet: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    commands: Callable[[str], str] = str  # completes the commands in a printed text
    _status: str = field(init=False, default="")

    @property
    def refreshes(self) -> bool:
        """Whether a status line can be shown: on a terminal, unless `--quiet`."""
        return not self.quiet and self.err.isatty()

    def status(self, text: str) -> None:
        """Replace the status line, the last line of the terminal; an empty `text` removes it."""
        with _PRINTING:
            self._draw_status(text)

    def _draw_status(self, text: str) -> None:
        if self.refreshes and (text or self._status):
            width = shutil.get_terminal_size().columns - 1  # the last column would wrap
            _put(neutral.bare(self.err), f"\r{_CLEAR_LINE}{neutral.line(text)[:width]}", end="")
            self._status = text

    def _print(self, stream: TextIO, text: str) -> None:
        """Print a text above the status line."""
        with self._above_status():
            _put(stream, text)

    @contextlib.contextmanager
    def _above_status(self) -> Iterator[None]:
        with _PRINTING:
            status = self._status
            self._draw_status("")
            yield
            self._draw_status(status)

    def say(self, text: str = "") -> None:
        """Print a line of the result for people; indent further lines of `text`, so that none passes for a label."""
        if not self.json:
            self._print(self.out, _lines(self.commands(text)))

    def excerpt(self, text: str) -> None:
        """Print lines of a file as they are but for what is not neutral: nothing is indented."""
        if not self.json:
            self._print(self.out, neutral.text(text))

    def note(self, text: str) -> None:
        """Print a line about the work in progress."""
        if not self.quiet:
            self._print(self.err, _lines(self.commands(text)))

    def warn(self, text: str) -> None:
        """Print a warning; the work goes on."""
        self._print(self.err, _lines(f"warning: {self.commands(text)}"))

    def fail(self, error: PipelineError) -> None:
        """Print the error that ends the run; as JSON too when requested."""
        error.why, error.hint = self.commands(error.why), self.commands(error.hint)
        with contextlib.suppress(HostLacks):  # the error that there was counts
            if self.json:
                self.result(error)
        with contextlib.suppress(HostLacks):
            write(self.err, f"error: {error}")

    def result(self, data: object) -> None:
        """Print the whole result, a dataclass or what JSON can hold, as one document where `--json` requests that."""
        if self.json:
            # DEL is the one character that acts on a terminal which `json` lets through.
            _put(self.out, json.dumps(decoder.encode(data), indent=2).replace("\x7f", "\\u007f"))

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """Print a table for people: boxed on a terminal, aligned columns elsewhere."""
        if self.json:
            return
        title = self.commands(title)
        headings = [neutral.line(heading) for heading in headings]
        texts = [[neutral.line(str(cell)) for cell in row] for row in rows]
        if self.out.isatty():
            with self._above_status():
                self._rich_table(headings, texts, title)
            return
        lines = [_lines(title)] if title else []
        widths = [max(len(row[i]) for row in [headings, *texts]) for i in range(len(headings))]
        for row in [headings, ["-" * width for width in widths], *texts]:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        self._print(self.out, "\n".join(lines))

    def _rich_table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
        from rich import box
        from rich.console import Console as Rich
        from rich.table import Table
        from rich.text import Text

        shown = Text(neutral.text(title), style="table.title") if title else None
        table = Table(title=shown, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Rich(file=neutral.bare(self.out)).print(table)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show the progress of several items at once: bars on a terminal, plain lines elsewhere."""
        if self.err.isatty() and not self.quiet:
            with _bars(neutral.bare(self.err)) as bars:
                yield bars
        else:
            yield PlainProgress(self)


class Progress(Protocol):
    """A factory of meters, one per item."""

    def meter(self, name: str) -> Meter:
        """Return the meter of the item called `name`."""


@dataclass
class PlainProgress:
    """Progress as plain lines, at most one per item every `PLAIN_INTERVAL` seconds."""

    console: Console

    def meter(self, name: str) -> Meter:
        """Return the meter of the item called `name`."""
        return _PlainMeter(self.console, name)


@dataclass
class _PlainMeter:
    console: Console
    name: str
    total: int | None = None
    done: int = 0
    last: float = 0.0

    def start(self, total: int | None, done: int = 0) -> None:
        self.total, self.done, self.last = total, done, time.monotonic()
        of = f" of {human_bytes(total)}" if total else ""
        self.console.note(f"{self.name}: at {human_bytes(done)}{of}")

    def advance(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.last >= PLAIN_INTERVAL:
            self.last = time.monotonic()
            percent = f" ({100 * self.done // self.total} %)" if self.total else ""
            self.console.note(f"{self.name}: {human_bytes(self.done)}{percent}")

    def note(self, text: str) -> None:
        self.console.note(f"{self.name}: {text}")


@contextlib.contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console as Rich
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with RichProgress(*columns, TimeRemainingColumn(), console=Rich(file=stream)) as drawn:

        class Bar:
            def __init__(self, name: str) -> None:
                self.name = name
                self.task = drawn.add_task(neutral.line(name), total=None, start=False, visible=False)
                self.lock = threading.Lock()

            def start(self, total: int | None, done: int = 0) -> None:
                drawn.reset(self.task, total=total, completed=done, visible=True)

            def advance(self, count: int) -> None:
                with self.lock:
                    drawn.advance(self.task, count)

            def note(self, text: str) -> None:
                drawn.console.print(Text(_lines(f"{self.name}: {text}")))

        class Bars:
            def meter(self, name: str) -> Meter:
                return Bar(name)

        yield Bars()


def _lines(text: str) -> str:
    return neutral.text(text).replace("\n", "\n  ")


def local_time(at: float | None) -> str:
    """Format a time in seconds since 1970 by this host's clock, `-` for None."""
    return "-" if at is None else datetime.fromtimestamp(at).isoformat(" ", "seconds")
