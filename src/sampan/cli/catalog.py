"""The table of commands: where each is declared. A module is imported only when its command is used."""

from __future__ import annotations

import os

from sampan.cli.failure import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.cli.flags import Command


class Entry:
    """Where a command's declaration is: an attribute of a module below `sampan.cli.commands`."""

    __slots__ = ("attribute", "module", "summary")

    def __init__(self, module: str, attribute: str, summary: str) -> None:
        self.module = module
        self.attribute = attribute
        self.summary = summary

    def load(self) -> Command:
        module = __import__(f"sampan.cli.commands.{self.module}", None, None, [self.attribute])
        command: Command = getattr(module, self.attribute)
        return command


class Group:
    """A management command (`container`, `image`, ...) and its subcommands."""

    __slots__ = ("aliases", "entries", "summary")

    def __init__(self, summary: str, entries: Mapping[str, Entry], aliases: Mapping[str, str]) -> None:
        self.summary = summary
        self.entries = entries
        self.aliases = aliases

    def find(self, name: str) -> Entry | None:
        return self.entries.get(self.aliases.get(name, name))


_RM = {"remove": "rm"}
_LS = {"list": "ls"}

_CONTAINER = {
    "attach": Entry("attach", "ATTACH", "Connect this terminal to a running container"),
    "commit": Entry("commit", "COMMIT", "Make an image from a container's changes"),
    "cp": Entry("cp", "CP", "Copy files between a container and this host"),
    "create": Entry("run", "CREATE", "Create a container without starting it"),
    "diff": Entry("look", "DIFF", "Show what a container changed in its file system"),
    "exec": Entry("exec", "EXEC", "Run a command in a running container"),
    "export": Entry("archive", "EXPORT", "Write a container's file system as a tar archive"),
    "kill": Entry("lifecycle", "KILL", "Send a signal to running containers (KILL by default)"),
    "logs": Entry("logs", "LOGS", "Show the output of a container"),
    "pause": Entry("lifecycle", "PAUSE", "Freeze all processes of containers"),
    "port": Entry("look", "PORT", "List the published ports of a container"),
    "rename": Entry("lifecycle", "RENAME", "Rename a container"),
    "restart": Entry("lifecycle", "RESTART", "Restart containers"),
    "rm": Entry("lifecycle", "RM", "Remove containers"),
    "run": Entry("run", "RUN", "Create a container from an image and run it"),
    "start": Entry("start", "START", "Start stopped containers"),
    "stats": Entry("stats", "STATS", "Show the resource usage of containers as it changes"),
    "stop": Entry("lifecycle", "STOP", "Stop running containers"),
    "top": Entry("look", "TOP", "Show the processes of a container"),
    "unpause": Entry("lifecycle", "UNPAUSE", "Let frozen containers go on"),
    "update": Entry("update", "UPDATE", "Change the limits of containers"),
    "wait": Entry("lifecycle", "WAIT", "Wait until containers stop, then print their exit codes"),
}
_IMAGE = {
    "build": Entry("build", "BUILD", "Build an image from a Dockerfile"),
    "history": Entry("history", "HISTORY", "Show the steps an image was made by"),
    "import": Entry("archive", "IMPORT", "Make an image from a tar archive of a file system"),
    "load": Entry("archive", "LOAD", "Load images from an archive"),
    "pull": Entry("pull", "PULL", "Download an image from a registry"),
    "push": Entry("push", "PUSH", "Upload an image to a registry"),
    "save": Entry("archive", "SAVE", "Write images to an archive (to STDOUT by default)"),
    "tag": Entry("images", "TAG", "Give an image another name"),
}
_SYSTEM = {
    "events": Entry("events", "EVENTS", "Show the engine's events as they happen"),
    "info": Entry("info", "INFO", "Show what the engine is and has"),
}

COMMANDS: dict[str, Entry] = {
    **_CONTAINER,
    **_IMAGE,
    **_SYSTEM,
    "daemon": Entry("daemon", "DAEMON", "Run the engine in the foreground"),
    "images": Entry("images", "IMAGES", "List images"),
    "inspect": Entry("inspect", "INSPECT", "Show everything about containers, images, volumes and networks"),
    "login": Entry("login", "LOGIN", "Log in to a registry"),
    "logout": Entry("login", "LOGOUT", "Log out from a registry"),
    "ps": Entry("ps", "PS", "List containers"),
    "rmi": Entry("images", "RMI", "Remove images"),
    "version": Entry("version", "VERSION", "Show the versions of client and engine"),
}

_BUILDER = {
    "build": _IMAGE["build"],
    "debug": Entry("build_debug", "BUILD_DEBUG", "Open a shell in the state before a build's failed step"),
    "du": Entry("build_cache", "BUILDER_DU", "Show what the build cache takes on the disk"),
    "prune": Entry("build_cache", "BUILDER_PRUNE", "Remove build cache"),
}

GROUPS: dict[str, Group] = {
    "builder": Group(
        "Manage builds",
        {
            **_BUILDER,
            "export-mount": Entry(
                "build_cache", "EXPORT_MOUNT", "Write a cache mount's content to a tar archive"
            ),
            "import-mount": Entry("build_cache", "IMPORT_MOUNT", "Fill a cache mount from a tar archive"),
        },
        {},
    ),
    "buildx": Group("Manage builds, by the names of Docker's buildx", _BUILDER, {"b": "build"}),
    "container": Group(
        "Manage containers",
        {
            **_CONTAINER,
            "inspect": Entry("inspect", "CONTAINER_INSPECT", "Show everything about containers"),
            "ls": Entry("ps", "CONTAINER_LS", "List containers"),
            "prune": Entry("prune", "CONTAINER_PRUNE", "Remove all stopped containers"),
        },
        {**_RM, **_LS, "ps": "ls"},
    ),
    "image": Group(
        "Manage images",
        {
            **_IMAGE,
            "bootstrap": Entry(
                "bootstrap", "BOOTSTRAP", "Make a Debian or Ubuntu base image from its package mirrors"
            ),
            "inspect": Entry("inspect", "IMAGE_INSPECT", "Show everything about images"),
            "ls": Entry("images", "IMAGES", "List images"),
            "prune": Entry("prune", "IMAGE_PRUNE", "Remove unused images"),
            "rm": Entry("images", "RMI", "Remove images"),
        },
        {**_RM, **_LS},
    ),
    "network": Group(
        "Manage networks",
        {
            "connect": Entry("network", "CONNECT", "Connect a container to a network"),
            "create": Entry("network", "CREATE", "Create a network"),
            "disconnect": Entry("network", "DISCONNECT", "Disconnect a container from a network"),
            "inspect": Entry("inspect", "NETWORK_INSPECT", "Show everything about networks"),
            "ls": Entry("network", "LS", "List networks"),
            "prune": Entry("prune", "NETWORK_PRUNE", "Remove all unused networks"),
            "rm": Entry("network", "RM", "Remove networks"),
        },
        {**_RM, **_LS},
    ),
    "system": Group(
        "Manage the engine",
        {
            **_SYSTEM,
            "df": Entry("df", "DF", "Show what takes space on the disk"),
            "prune": Entry("prune", "SYSTEM_PRUNE", "Remove unused data"),
        },
        {},
    ),
    "volume": Group(
        "Manage volumes",
        {
            "backup": Entry("volume_backup", "BACKUP", "Back up a volume to a file or a registry"),
            "clone": Entry("volume_copies", "CLONE", "Copy a volume under a new name"),
            "create": Entry("volume", "CREATE", "Create a volume"),
            "diff": Entry(
                "volume_copies", "DIFF", "Show what differs between volumes, snapshots and backups"
            ),
            "inspect": Entry("inspect", "VOLUME_INSPECT", "Show everything about volumes"),
            "ls": Entry("volume", "LS", "List volumes"),
            "prune": Entry("prune", "VOLUME_PRUNE", "Remove unused volumes"),
            "rename": Entry("volume_copies", "RENAME", "Rename a volume"),
            "restore": Entry("volume_backup", "RESTORE", "Make a volume from a backup or a snapshot"),
            "rm": Entry("volume", "RM", "Remove volumes"),
            "snapshot": Entry("volume_copies", "SNAPSHOT", "Make, list and remove snapshots of a volume"),
            "update": Entry("volume", "UPDATE", "Update a volume (cluster volumes only)"),
        },
        {**_RM, **_LS},
    ),
}

_ABOUT = "Build, ship and run containers"


def find(name: str, arguments: list[str]) -> tuple[str, Entry, list[str]] | None:
    """The full name, entry and arguments of a command line; None when it is a group that prints its help.

    Raises `UsageError` for a name that is no command.
    """
    group = GROUPS.get(name)
    if group is not None:
        if arguments and not arguments[0].startswith("-"):
            entry = group.find(arguments[0])
            if entry is not None:
                return f"{name} {group.aliases.get(arguments[0], arguments[0])}", entry, arguments[1:]
        return None
    if name == "build" and arguments[:1] == ["debug"] and (len(arguments) > 1 or not os.path.isdir("debug")):
        # A directory of that name is built, as Docker does it; `builder debug` is never in doubt.
        return "build debug", _BUILDER["debug"], arguments[1:]
    entry = COMMANDS.get(name)
    if entry is None:
        from sampan.cli.flags import meant

        close = meant(name, [*COMMANDS, *GROUPS])
        raise UsageError(f"sampan: '{name}' is not a sampan command.{close}\nSee 'sampan --help'", 1)
    return name, entry, arguments


def overview(options_help: str) -> str:
    """`sampan --help`."""
    return "\n".join(
        [
            "Usage:  sampan [OPTIONS] COMMAND",
            "",
            _ABOUT,
            "",
            "Options:",
            options_help,
            "",
            "Management Commands:",
            *_rows({name: group.summary for name, group in GROUPS.items()}),
            "",
            "Commands:",
            *_rows({name: entry.summary for name, entry in COMMANDS.items()}),
            "",
            "Run 'sampan COMMAND --help' for more information on a command.",
        ]
    )


def group_overview(name: str) -> str:
    """`sampan image --help`."""
    group = GROUPS[name]
    return "\n".join(
        [
            "",
            f"Usage:  sampan {name} COMMAND",
            "",
            group.summary,
            "",
            "Commands:",
            *_rows({key: entry.summary for key, entry in group.entries.items()}),
            "",
            f"Run 'sampan {name} COMMAND --help' for more information on a command.",
        ]
    )


def _rows(summaries: Mapping[str, str]) -> list[str]:
    width = max(len(name) for name in summaries) + 3
    return [f"  {name.ljust(max(width, 11))} {summaries[name]}" for name in sorted(summaries)]
