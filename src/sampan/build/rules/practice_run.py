"""sampan's own rules about what RUN does. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from sampan.build.model import Instruction
from sampan.build.rules.finding import Finding, Rule, at
from sampan.build.rules.shell import Command, commands_of
from sampan.build.rules.subject import Body

CACHE_IN_LAYER = Rule(
    "PackageCacheInLayer",
    "What a package manager downloaded stays in the layer, in every copy of the image, and is never used again",
    fix="Remove it in the same RUN (rm -rf /var/lib/apt/lists/*, apk add --no-cache, dnf clean all, "
    "pip install --no-cache-dir, npm cache clean --force), or keep it outside with RUN --mount=type=cache.",
)
SUDO = Rule(
    "SudoInRun",
    "RUN is root already unless USER says otherwise; sudo adds a set-user-id program that an attacker can use",
    fix="Leave sudo out; write USER root before steps that need it, and USER app after them.",
)
UPGRADE = Rule(
    "PackageUpgrade",
    "Upgrading all packages makes a layer that differs from build to build and doubles files of the base image",
    fix="Use a newer base image (build --pull), and upgrade single packages by name where it can't wait.",
)
CD_FOR_WORKDIR = Rule(
    "CdInsteadOfWorkdir",
    "cd counts for its own RUN only; the next instruction is back in the old directory",
    fix="Write WORKDIR before the RUN.",
)
NO_PIPEFAIL = Rule(
    "PipeWithoutPipefail",
    "The status of a pipe is that of its last command: when an earlier one fails, the build goes on",
    fix='Write SHELL ["/bin/bash", "-o", "pipefail", "-c"] before it, or RUN set -o pipefail && ... in a shell that '
    "has it.",
)

_POSIX = frozenset({"sh", "bash", "ash", "dash", "ksh", "zsh"})
_HARMLESS_BEFORE_PIPE = frozenset({"echo", "printf", "yes", "true", ":"})
_APT = frozenset({"apt", "apt-get", "aptitude"})
_DNF = frozenset({"dnf", "yum", "microdnf", "tdnf", "dnf5"})
_PIP = frozenset({"pip", "pip3", "pip2"})
_MOUNT_TARGET = re.compile(r"(?:^|,)(?:target|dst|destination)=([^,]*)")


def run_findings(
    body: Body, shell: tuple[str, ...], env: Mapping[str, str], *, kept: bool
) -> Iterator[Finding]:
    """`shell`: what the stage begins with. `kept`: its layers are in the image, and with them what it leaves there."""
    for item in body.instructions:
        if item.keyword == "SHELL":
            shell = item.args
        if item.keyword != "RUN":
            continue
        posix = item.is_json or _is_posix(shell)
        found = commands_of(item) if posix else ()
        if kept:
            yield from _caches(item, found, env)
        yield from _commands(item, found)
        if not item.is_json and posix:
            yield from _pipes(item, found, shell)


def install_step(run: Instruction) -> str:
    """The command by which this RUN installs what a list in the sources names; "" when it does not."""
    for command in commands_of(run):
        words = (command.name, *command.operands[:2])
        for wanted in _INSTALLS:
            if words[: len(wanted)] == wanted:
                return " ".join(wanted)
        if _is_pip_install(command) and {"-r", "--requirement"} & set(command.args):
            return "pip install -r"
    return ""


_INSTALLS = (
    ("npm", "ci"),
    ("npm", "install"),
    ("npm", "i"),
    ("yarn", "install"),
    ("pnpm", "install"),
    ("bun", "install"),
    ("poetry", "install"),
    ("uv", "sync"),
    ("pipenv", "install"),
    ("pipenv", "sync"),
    ("bundle", "install"),
    ("composer", "install"),
    ("go", "mod", "download"),
    ("cargo", "fetch"),
    ("mvn", "dependency:go-offline"),
    ("mvn", "dependency:resolve"),
    ("dotnet", "restore"),
    ("mix", "deps.get"),
)


def _is_posix(shell: Sequence[str]) -> bool:
    return not shell or shell[0].rpartition("/")[2] in _POSIX


def _commands(item: Instruction, found: Sequence[Command]) -> Iterator[Finding]:
    for command in found:
        if "sudo" in command.wrappers:
            yield at(SUDO, f"sudo {command.name} in RUN", item)
            break
    for command in found:
        if _is_upgrade(command):
            yield at(
                UPGRADE, f"{command.name} {command.operands[0]} changes packages of the base image", item
            )
            break
    if found and found[0].first and found[0].name == "cd" and found[0].operands:
        path = found[0].operands[0][:200]
        only = "has no effect after this RUN" if len(found) == 1 else "stands where WORKDIR would do"
        yield at(CD_FOR_WORKDIR, f"cd {path} {only}", item)


def _is_upgrade(command: Command) -> bool:
    if not command.operands:
        return False
    verb, alone = command.operands[0], len(command.operands) == 1
    if command.name in _APT:
        return verb in ("upgrade", "dist-upgrade", "full-upgrade", "safe-upgrade")
    if command.name == "apk":
        return verb == "upgrade" and alone
    if command.name in _DNF:
        return verb in ("upgrade", "update", "distro-sync") and alone
    return command.name == "zypper" and verb in ("update", "up", "dist-upgrade", "dup") and alone


def _pipes(item: Instruction, found: Sequence[Command], shell: Sequence[str]) -> Iterator[Finding]:
    if any("pipefail" in word for word in shell):
        return
    if any(command.name == "set" and "pipefail" in command.args for command in found):
        return
    for command in found:
        if command.piped and command.name not in _HARMLESS_BEFORE_PIPE:
            yield at(NO_PIPEFAIL, f"A failure of {command.name[:100]} before the pipe goes unnoticed", item)
            return


def _caches(item: Instruction, found: Sequence[Command], env: Mapping[str, str]) -> Iterator[Finding]:
    removed = [path for command in found if _removes(command) for path in command.operands]
    mounted = [
        match for flag in item.flags if flag.startswith("--mount=") for match in _MOUNT_TARGET.findall(flag)
    ]
    gone = " ".join([*removed, *mounted])
    for name in dict.fromkeys(left for command in found if (left := _leaves(command, found, gone, env))):
        yield at(CACHE_IN_LAYER, f"{name} leaves its cache in the layer", item)


def _removes(command: Command) -> bool:
    """A tree, or what is in it."""
    if command.name == "rm":
        return any("r" in option.lower() for option in command.options)
    return command.name == "find" and ("-delete" in command.args or "rm" in command.args)


def _leaves(command: Command, found: Sequence[Command], gone: str, env: Mapping[str, str]) -> str:
    """The package manager that leaves something behind; "" for none. `gone`: removed or mounted paths."""
    verb = command.operands[0] if command.operands else ""
    if command.name in _APT:
        return "" if verb not in ("install", "update") or "/var/lib/apt" in gone else command.name
    if command.name == "apk":
        kept = verb in ("add", "update") and "--no-cache" not in command.args
        return "apk" if kept and not _any_in(gone, "/var/cache/apk", "/etc/apk/cache") else ""
    if command.name in _DNF:
        cleaned = any(one.name in _DNF and one.operands[:1] == ("clean",) for one in found)
        kept = verb in ("install", "update", "upgrade", "groupinstall", "makecache") and not cleaned
        return (
            command.name
            if kept and not _any_in(gone, "/var/cache/dnf", "/var/cache/yum", "/var/cache/lib")
            else ""
        )
    if _is_pip_install(command):
        return "" if _pip_cleans(command, found, env) or _any_in(gone, "/.cache") else "pip"
    if command.name == "npm" and verb in ("install", "ci", "i", "add"):
        cleaned = any(one.name == "npm" and one.operands[:2] == ("cache", "clean") for one in found)
        return "" if cleaned or "/.npm" in gone else "npm"
    return ""


def _is_pip_install(command: Command) -> bool:
    if command.name in _PIP or re.fullmatch(r"pip[23]\.\d+", command.name):
        return command.operands[:1] == ("install",)
    python = re.fullmatch(r"python[0-9.]*", command.name)
    return bool(python) and command.args[:1] == ("-m",) and command.args[1:3] == ("pip", "install")


def _pip_cleans(command: Command, found: Sequence[Command], env: Mapping[str, str]) -> bool:
    purged = any(one.name in _PIP and one.operands[:2] == ("cache", "purge") for one in found)
    return (
        purged or "--no-cache-dir" in command.args or env.get("PIP_NO_CACHE_DIR", "0").lower() not in _FALSE
    )


_FALSE = ("0", "false", "off", "no", "")


def _any_in(text: str, *parts: str) -> bool:
    return any(part in text for part in parts)
