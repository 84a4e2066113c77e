"""Lines at the lower end of a terminal that are rewritten in place. Pure: bytes to be written are given back.

A frame goes out in one piece, only changed lines are written, nothing is erased before it is written anew: so
nothing flickers. The cursor stands below the frame between frames, where output of others would go; it is hidden
while a frame is drawn only, so that whatever ends or stops this process leaves a terminal that can be used.
"""

from __future__ import annotations

from sampan.cli.build.text import width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.build.frame import Line

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
# "Synchronized output": terminals that know it show the frame at once, the others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[K", "\x1b[J"


class Screen:
    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._shown: list[str] = []
        self._lengths: list[int] = []
        self._size = (0, 0)

    def draw(self, lines: Sequence[Line], size: tuple[int, int]) -> str:
        """Show these lines in the place of the last ones; "" when nothing has changed. `size`: rows, columns."""
        # The last column stays free: a character there leaves the cursor in a state that terminals disagree on.
        usable = max(size[1] - 1, 1)
        texts = [line.render(usable, colour=self._colour) for line in lines]
        if texts == self._shown and size == self._size:
            return ""
        out = [_BEGIN, _HIDE]
        if self._shown and size != self._size:
            out.append(_up(self._rows(size[1])) + "\r" + _TO_END_OF_SCREEN)
            self._shown = []
        out.append(_up(len(self._shown)) + "\r")
        out += [self._row(index, text) for index, text in enumerate(texts)]
        if len(self._shown) > len(texts):
            out.append(_TO_END_OF_SCREEN)
        out += (_SHOW, _END)
        self._shown, self._size = texts, size
        self._lengths = [width(line.render(usable, colour=False)) for line in lines]
        return "".join(out)

    def close(self, lines: Sequence[Line], size: tuple[int, int]) -> str:
        """Replace the last frame by lines that stay, however many."""
        out = self.draw(lines, size)
        self._shown, self._lengths = [], []
        return out

    def _row(self, index: int, text: str) -> str:
        if index < len(self._shown) and self._shown[index] == text:
            return "\r\n"
        return text + _TO_END_OF_LINE + "\r\n"

    def _rows(self, columns: int) -> int:
        """Rows that the last frame takes on a terminal of another width, which has broken its lines anew."""
        return sum(max(-(-length // columns), 1) for length in self._lengths)


def _up(rows: int) -> str:
    return f"\x1b[{rows}A" if rows else ""
