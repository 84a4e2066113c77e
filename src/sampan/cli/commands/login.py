"""`sampan login` and `logout`."""

from __future__ import annotations

import sys

from sampan.cli import registry_auth
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.registry_auth import DOCKER_HUB, Credentials
from sampan.client.api import ApiError


def _server(invocation: Invocation) -> str:
    """The key of a registry in config.json: as typed, without a scheme or path; Docker Hub's old one by default."""
    if not invocation.args:
        return DOCKER_HUB
    text = invocation.args[0]
    if text == DOCKER_HUB:
        return text
    host = text.removeprefix("https://").removeprefix("http://").split("/", 1)[0]
    return registry_auth.server_key(host)


def _password_from_stdin() -> str:
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def _login(invocation: Invocation) -> int:
    flags = invocation.flags
    username, password = flags["username"], flags["password"]
    if flags["password-stdin"]:
        if password:
            raise Failure("--password and --password-stdin are mutually exclusive")
        if not username:
            raise Failure("Must provide --username with --password-stdin")
        password = _password_from_stdin()
    elif password:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    server = _server(invocation)
    directory = invocation.options.config_directory
    known = registry_auth.find(directory, server)
    if not username and not password and (known.username or known.identity_token):
        status = _try_known(invocation, known)
        if status is not None:
            print(status)
            return 0
    credentials = _asked(server, username, password, known.username)
    body = credentials.as_json()
    answer = invocation.client().call("POST", "/auth", None, body) or {}
    if answer.get("IdentityToken"):
        credentials.password, credentials.identity_token = "", answer["IdentityToken"]
    path = registry_auth.store(directory, credentials)
    if path:
        print(f"WARNING! Your password will be stored unencrypted in {path}.", file=sys.stderr)
        print("Configure a credential helper to remove this warning. See", file=sys.stderr)
        print(
            "https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n", file=sys.stderr
        )
    if answer.get("Status"):
        print(answer["Status"])
    return 0


def _try_known(invocation: Invocation, known: Credentials) -> str | None:
    """Log in with what is stored; None when that is not good any more."""
    print("Authenticating with existing credentials...", flush=True)
    try:
        answer = invocation.client().call("POST", "/auth", None, known.as_json()) or {}
    except ApiError as error:
        if error.status not in (401, 403):
            raise
        print("Login did not succeed, error:", f"Error response from daemon: {error.message}", flush=True)
        return None
    return str(answer.get("Status", ""))


def _asked(server: str, username: str, password: str, default: str) -> Credentials:
    """Ask on the terminal for what is missing. Raises `Failure` without one."""
    if (not username or not password) and not sys.stdin.isatty():
        raise Failure("Error: Cannot perform an interactive login from a non TTY device")
    if not username:
        sys.stdout.write(f"Username ({default}): " if default else "Username: ")
        sys.stdout.flush()
        username = sys.stdin.readline().strip() or default
        if not username:
            raise Failure("Error: Non-null Username Required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
        if not password:
            raise Failure("Error: Password Required")
    return Credentials(server, username, password)


def _logout(invocation: Invocation) -> int:
    server = _server(invocation)
    if registry_auth.erase(invocation.options.config_directory, server):
        print(f"Removing login credentials for {server}")
    else:
        print(f"Not logged in to {server}")
    return 0


LOGIN = Command(
    _login,
    "[SERVER]",
    (
        Flag("password", "p", "string", "Password (anyone can read it in the list of processes)"),
        Flag("password-stdin", "", "bool", "Read the password from STDIN"),
        Flag("username", "u", "string", "User name"),
    ),
    maximum=1,
)
LOGOUT = Command(_logout, "[SERVER]", maximum=1)
