"""Listens to a builder as somebody with Docker's classic client would."""

from __future__ import annotations

from sampan.api.classic_build import ClassicBuild
from sampan.build.events import BuildEvent


class BuildReader:
    """Call it with every event of a build; `text` is what the client has printed, `events` what it was told."""

    def __init__(self) -> None:
        self._classic = ClassicBuild()
        self.text = ""
        self.events: list[BuildEvent] = []

    def __call__(self, event: BuildEvent) -> None:
        self.events.append(event)
        for message in self._classic.feed(event):
            self.text += str(message.get("stream", ""))
