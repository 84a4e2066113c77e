"""The entry point of `sampan`: find the command, parse its flags, run it, turn failures into messages and exit codes.

Start-up time is part of the product, so nothing is imported here that a command could do without;
tests/unit/cli holds the list of modules that the hot paths may load.
"""

from __future__ import annotations

import os
import sys

from sampan.cli import catalog
from sampan.cli.failure import Exit, Failure, UsageError
from sampan.cli.flags import Flag, Invocation, check_count, flag_help, parse, show_help
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import NoReturn

    from sampan.cli.flags import Values
    from sampan.client.address import Address
    from sampan.client.api import Client

_GLOBAL_FLAGS = (
    Flag("config", "", "string", "Directory of the client's configuration files"),
    Flag("context", "c", "string", 'Accepted for compatibility; only "default" exists'),
    Flag("debug", "D", "bool", "Show tracebacks of errors"),
    Flag("host", "H", "list", "Socket of the engine to talk to"),
    Flag("log-level", "l", "string", "Accepted for compatibility", default="info"),
    Flag("tls", "", "bool", "Use TLS without verifying the engine's certificate"),
    Flag("tlscacert", "", "string", "Trust certificates signed by this CA only"),
    Flag("tlscert", "", "string", "The client's TLS certificate"),
    Flag("tlskey", "", "string", "The client's TLS key"),
    Flag("tlsverify", "", "bool", "Use TLS and verify the engine's certificate"),
    Flag("version", "v", "bool", "Print the version and quit"),
)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class GlobalOptions:
    """What was said before the command, and the client that follows from it."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._client: Client | None = None

    @property
    def config_directory(self) -> str:
        """Where config.json is, "" when it was not said."""
        return str(self._values["config"])

    @property
    def host(self) -> str:
        hosts: list[str] = self._values["host"]
        if len(hosts) > 1:
            raise Failure("Please specify only one -H")
        return hosts[0] if hosts else ""

    def client(self) -> Client:
        if self._client is None:
            from sampan import __version__
            from sampan.client.address import resolve_address
            from sampan.client.api import Client

            address = resolve_address(self.host)
            if address.host:
                self._add_tls(address)
            self._client = Client(address, user_agent=f"Sampan-Client/{__version__} (linux)")
        return self._client

    def _add_tls(self, address: Address) -> None:
        from sampan.cli.tls import add_tls

        values = self._values
        add_tls(
            address,
            use=values["tls"],
            verify=values["tlsverify"],
            ca=values["tlscacert"],
            cert=values["tlscert"],
            key=values["tlskey"],
            directory=self.config_directory,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.excepthook = _report_defect
    _open_missing_streams()
    try:
        return _flush(_run(arguments))
    except Exit as end:
        return _flush(end.status)
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        _flush(_INTERRUPTED)
        return _INTERRUPTED
    except (SampanError, OSError) as error:
        if _debugging():
            raise
        _flush(0)
        return _report(error)


def _open_missing_streams() -> None:
    """Started with a closed standard stream (`>&-`): its number must not become a socket's."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _flush(status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except OSError as error:  # a full disk, mostly
        _discard_output()
        print(f"write /dev/stdout: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1
    return status


def _run(arguments: list[str]) -> int:
    try:
        values, rest, wants_help = parse(_GLOBAL_FLAGS, arguments, interspersed=False)
    except UsageError as error:
        error.message += "\nSee 'sampan --help'."
        error.hint = "-"
        raise
    if values["debug"]:
        os.environ["SAMPAN_DEBUG"] = "1"
    if values["version"]:
        from sampan import __version__

        print(f"Sampan version {__version__}")
        return 0
    if rest and rest[0] == "help":
        rest, wants_help = [*rest[1:], "--help"] if rest[1:] else [], not rest[1:]
    if wants_help or not rest:
        print(catalog.overview(flag_help(_GLOBAL_FLAGS)))
        return 0
    if rest[0] == "daemon":
        from sampan.cli.commands.daemon import run_daemon

        return run_daemon(values["host"], rest[1:])
    found = catalog.find(rest[0], rest[1:])
    if found is None:
        wrong = bool(rest[1:]) and rest[1] not in ("--help", "-h")
        if wrong and not rest[1].startswith("-"):
            print(f"sampan: '{rest[0]} {rest[1]}' is not a sampan command.", file=sys.stderr)
        print(catalog.group_overview(rest[0]), file=sys.stderr if wrong else sys.stdout)
        return 1 if wrong else 0
    return _run_command(*found, GlobalOptions(values))


def _run_command(name: str, entry: catalog.Entry, arguments: list[str], options: GlobalOptions) -> int:
    command = entry.load()
    try:
        values, args, wants_help = parse(command.flags, arguments, interspersed=command.interspersed)
        if wants_help:
            show_help(command, name, entry.summary)
        check_count(command, name, entry.summary, args)
        return command.run(Invocation(name, values, args, options))
    except UsageError as error:
        if not error.hint:
            error.message += f"\nSee 'sampan {name} --help'."
            error.hint = "-"
        raise


def _report(error: SampanError | OSError) -> int:
    status = error.status if isinstance(error, Failure) else 1
    print(describe(error), file=sys.stderr)
    return status


def describe(error: BaseException) -> str:
    """The words for a failure: the engine's refusals are marked as such, file errors read as Docker's."""
    if isinstance(error, SampanError):
        refused = type(error).__name__ == "ApiError"
        text = f"Error response from daemon: {error.message}" if refused else error.message
        return f"{text}\n{error.hint}" if error.hint and error.hint != "-" else text
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return where + error.strerror[:1].lower() + error.strerror[1:]
    return str(error)


def _debugging() -> bool:
    return os.environ.get("SAMPAN_DEBUG", "") not in ("", "0")


def _discard_output() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _report_defect(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """One line for a defect of ours; the traceback only when it is asked for."""
    if _debugging():
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"sampan: internal error: {kind.__name__}: {error}", file=sys.stderr)
    print("This is a defect. SAMPAN_DEBUG=1 shows where it happened.", file=sys.stderr)


def entry() -> NoReturn:
    """`main` for the console script. Everything is written and closed when it returns: the process ends there.

    Taking the interpreter down in order would take as long as many a command.
    """
    status = main()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()
