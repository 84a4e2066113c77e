"""`sampan build debug`: look around in the state before a build's failed step."""

from __future__ import annotations

from sampan.cli.flags import Command, Invocation


def _debug(invocation: Invocation) -> int:
    from sampan.cli.build.shell import open_shell

    failure, *command = invocation.args or [""]
    return open_shell(invocation.client(), failure, command)


BUILD_DEBUG = Command(
    _debug,
    "[FAILURE [COMMAND ARG...]]",
    (),
    interspersed=False,
    aliases=("builder debug", "build debug"),
)
