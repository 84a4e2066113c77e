"""What a stage has become so far: its configuration, its build arguments, the shell that RUN uses. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from sampan.build.model import Operation
from sampan.oci.image import ContainerDefaults

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
EPOCH_ARG = "SOURCE_DATE_EPOCH"
"""A build argument that says of when the result is; RUN sees it where ARG declares it."""
PREDEFINED_ARGS = frozenset(name for upper in _PROXIES for name in (upper, upper.lower()))
"""Usable in RUN without ARG, and left out of history and cache unless they are declared."""


@dataclass(frozen=True, slots=True)
class ArgScope:
    """Where the value of an ARG comes from: the request, then the default, then the global scope."""

    given: Mapping[str, str | None]
    global_args: Mapping[str, str]
    platform_args: Mapping[str, str]

    def value(self, name: str, default: str | None) -> str | None:
        given = self.given.get(name)
        if given is not None:
            return given
        if default is not None:
            return default
        return self.global_args.get(name, self.platform_args.get(name))


@dataclass(frozen=True, slots=True)
class StageState:
    config: ContainerDefaults
    scope: ArgScope
    escape: str = "\\"
    args: dict[str, str | None] = field(default_factory=dict)
    """The build arguments declared so far in this stage, with the value of a later ENV; None: declared, no value."""
    cmd_is_own: bool = False
    """CMD stands in this Dockerfile: a later ENTRYPOINT must not forget it."""
    author: str = ""
    exposed: int = 0
    """Ports that EXPOSE has named so far in this stage."""

    @property
    def shell(self) -> tuple[str, ...]:
        return self.config.shell or DEFAULT_SHELL

    @property
    def cwd(self) -> str:
        return self.config.working_dir or "/"

    def environment(self) -> dict[str, str]:
        """The image's ENV alone."""
        pairs = (item.partition("=") for item in self.config.env or ())
        return {name: value for name, _, value in pairs}

    def variables(self) -> dict[str, str]:
        """What `$name` means in an instruction: of ARG and ENV the later one (ENV writes itself into `args`)."""
        declared = {name: value for name, value in self.args.items() if value is not None}
        return {**self.environment(), **declared}

    def with_config(self, **changes: object) -> StageState:
        return replace(self, config=msgspec.structs.replace(self.config, **changes))

    def run_args(self) -> tuple[str, ...]:
        """The declared build arguments that RUN sees and the cache counts, sorted, as `name=value`."""
        environment = self.environment()
        return tuple(
            f"{name}={value}"
            for name, value in sorted(self.args.items())
            if value is not None and environment.get(name) != value
        )

    def inherited_args(self) -> dict[str, str | None]:
        """What a stage that stands on this one knows: its arguments, but ENV wins there whatever came later here."""
        environment = self.environment()
        return {name: environment.get(name, value) for name, value in self.args.items()}

    def told_args(self) -> tuple[str, ...]:
        """The declared build arguments as history shows them: in their order, with what RUN sees."""
        variables = self.variables()
        return tuple(f"{name}={variables.get(name, '')}" for name in self.args)

    def run_environment(self) -> tuple[str, ...]:
        """Everything a RUN process gets. A proxy that is given is there in capitals and in small letters."""
        proxies = {
            name: value for name, value in self.scope.given.items() if name in PREDEFINED_ARGS and value
        }
        merged = {
            spelled: value for name, value in proxies.items() for spelled in (name.upper(), name.lower())
        } | proxies
        merged |= self.variables()
        return tuple(f"{name}={value}" for name, value in merged.items())


@dataclass(frozen=True, slots=True)
class Applied:
    """What an instruction means for a state: the next state, and the work to do on files, if any."""

    state: StageState
    history: str
    """What `docker history` shows; empty for what it does not show."""
    operation: Operation | None = None


def initial_state(config: ContainerDefaults, scope: ArgScope, escape: str) -> StageState:
    """The start of a stage. An image without PATH gets the default one, as Docker does."""
    names = {item.partition("=")[0] for item in config.env or ()}
    if "PATH" not in names:
        config = msgspec.structs.replace(config, env=(*(config.env or ()), f"PATH={DEFAULT_PATH}"))
    return StageState(msgspec.structs.replace(config, on_build=None), scope, escape)
