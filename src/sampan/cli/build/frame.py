"""What the terminal shows of a build at one moment, as lines that fit it. Pure: `Screen` brings them there."""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.build.text import fit, pad, plain, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.build.status import Transfer
    from sampan.cli.build.steps import Step, Steps

WINDOW = 6
"""Lines of output shown below a running step where there is room."""
TRANSFERS = 4
NARROW = 40
"""Columns below which times have no column of their own."""

# Select Graphic Rendition (ECMA-48, 8.3.117); the display is as readable without.
BOLD, DIM, RED, GREEN, YELLOW, CYAN = "1", "2", "31", "32", "33", "36"


class Line:
    """`left` is cut where there is no room for it; `right` stands at the terminal's edge. `style`: SGR, "" none."""

    __slots__ = ("left", "right", "style")

    def __init__(self, left: str, right: str = "", style: str = "") -> None:
        self.left = left
        self.right = right
        self.style = style

    def render(self, columns: int, *, colour: bool) -> str:
        right = self.right if columns >= NARROW else ""
        room = columns - width(right) - (1 if right else 0)
        text = fit(self.left, max(room, 0))
        if right:
            text = pad(text, room) + " " + right
        return f"\x1b[{self.style}m{text}\x1b[0m" if colour and self.style else text


def running_frame(steps: Steps, now: float, rows: int, passed: float) -> list[Line]:
    """At most `rows` lines: the head, then steps; ended ones make room for what goes on. `passed`: seconds."""
    blocks = [_block(step, now) for step in steps.started]
    lines = [_head(steps, passed, "")]
    room = max(rows - 1, 0)
    going = [index for index, step in enumerate(steps.started) if not step.ended]
    shown = _chosen(len(blocks), going, room)
    left = room - len(shown)
    window = min(WINDOW, left // max(len(going), 1)) if going else 0
    for index in shown:
        step = steps.started[index]
        lines.append(blocks[index])
        if not step.ended and window > 0:
            lines += _inside(step, now, window)
    return lines[:rows]


def final_frame(steps: Steps, now: float, passed: float, *, failed: bool) -> list[Line]:
    """Every step, for the scroll-back; those that have not ended were given up."""
    lines = [_head(steps, passed, "ERROR" if failed else "FINISHED")]
    for step in steps.started:
        lines.append(
            _block(step, now) if step.ended else Line(f" => CANCELED {step.name}", _time(step, now), DIM)
        )
        lines += [Line(f" => => NOT CACHED: {reason}", style=DIM) for reason in step.reasons]
        if failed:  # else the summary has them
            lines += [Line(f" => => WARN: {warning}", style=YELLOW) for warning in step.warnings]
    return lines


def _chosen(count: int, going: list[int], room: int) -> list[int]:
    """Which steps are shown: all that go on as far as they fit, and the latest of the ended ones."""
    if count <= room:
        return list(range(count))
    chosen = set(going[-room:] if room else [])
    # Half of the room that is left belongs to windows, which are what is looked at.
    spare = (room - len(chosen)) // 2 if going else room
    for index in range(count - 1, -1, -1):
        if spare <= 0:
            break
        if index not in chosen:
            chosen.add(index)
            spare -= 1
    return sorted(chosen)


def _head(steps: Steps, passed: float, word: str) -> Line:
    text = f"[+] Building {passed:.1f}s ({steps.ended}/{max(len(steps.known), len(steps.started))})"
    return Line(f"{text} {word}".rstrip(), style=RED if word == "ERROR" else BOLD)


def _block(step: Step, now: float) -> Line:
    right = _time(step, now)
    if step.ended and step.moved:
        right = f"{units.human_size(step.moved, 3)} {right}"
    if step.cancelled:
        return Line(f" => CANCELED {step.name}", right, DIM)
    if step.error:
        return Line(f" => ERROR {step.name}", right, RED)
    if step.cached:
        return Line(f" => CACHED {step.name}", right, GREEN)
    return Line(f" => {step.name}", right, "" if step.ended else CYAN)


def _time(step: Step, now: float) -> str:
    return f"{step.passed(now):.1f}s"


def _inside(step: Step, now: float, rows: int) -> list[Line]:
    """What goes on inside a running step: transfers first, then the end of its output."""
    transfers = [each for each in step.transfers.values() if not each.completed]
    done = [each for each in step.transfers.values() if each.completed]
    # Those under way are the news; of the finished ones the latest fill up.
    count = min(TRANSFERS, rows)
    chosen = transfers[:count]
    chosen = done[len(done) - min(count - len(chosen), len(done)) :] + chosen
    lines = [_transfer(each) for each in chosen]
    output = step.last_lines(rows - len(lines)) if rows > len(lines) else []
    return lines + [Line(f" => => # {text}", style=DIM) for text in output]


def _transfer(transfer: Transfer) -> Line:
    amount = ""
    if transfer.total:
        share = min(transfer.current * 100 // transfer.total, 100)
        amount = (
            f"{share:3}%  {units.human_size(transfer.current, 3)} / {units.human_size(transfer.total, 3)}"
        )
    elif transfer.current:
        amount = units.human_size(transfer.current, 3)
    until = transfer.completed or transfer.timestamp
    time = f"{max(until - transfer.started, 0.0):.1f}s" if transfer.started else ""
    return Line(f" => => {plain(transfer.label)}", f"{amount} {time}".strip())
