"""Credentials for registries: Docker's config.json, credential helpers, and the X-Registry-* headers."""

from __future__ import annotations

import binascii
import os

from sampan.cli.failure import Failure
from sampan.client.codec import dumps, loads, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOCKER_HUB = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"
_HELPER_LIMIT = 1 << 20


def config_path(directory: str = "") -> str:
    """The client's config.json: --config, SAMPAN_CONFIG, DOCKER_CONFIG, ~/.docker."""
    place = directory or os.environ.get("SAMPAN_CONFIG") or os.environ.get("DOCKER_CONFIG")
    return os.path.join(place or os.path.join(os.path.expanduser("~"), ".docker"), "config.json")


def load_config(path: str) -> dict[str, Any]:
    """The whole file, {} when there is none. Raises `Failure` when it is no JSON object."""
    try:
        with open(path, encoding="utf-8") as file:
            content = file.read()
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise Failure(f"open {path}: permission denied") from error
    try:
        config = loads(content) if content.strip() else {}
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise Failure(f"{path}: not a JSON object")
    return config


def save_config(path: str, config: dict[str, Any]) -> None:
    """Replace the file at once, mode 600; a symbolic link stays one."""
    from sampan.cli.replacing import Replacing
    from sampan.cli.streams import write_all

    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with Replacing(path, 0o600) as descriptor:
        write_all(descriptor, pretty(config, "\t").encode())
        os.fsync(descriptor)


class Credentials:
    """What a registry is told: user name and password, or an identity token."""

    __slots__ = ("identity_token", "password", "server", "username")

    def __init__(self, server: str, username: str = "", password: str = "", identity_token: str = "") -> None:
        self.server = server
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def as_json(self) -> dict[str, str]:
        fields = {
            "username": self.username,
            "password": self.password,
            "serveraddress": self.server,
            "identitytoken": self.identity_token,
        }
        return {name: value for name, value in fields.items() if value}

    def header(self) -> str:
        return encode_header(self.as_json())


def encode_header(value: Any) -> str:
    """JSON in URL-safe base64, as the X-Registry-* headers carry it."""
    text = binascii.b2a_base64(dumps(value).encode(), newline=False).decode()
    return text.replace("+", "-").replace("/", "_")


def server_key(domain: str) -> str:
    """The key in config.json for a registry's domain: Docker Hub has an old one of its own."""
    return DOCKER_HUB if domain in ("docker.io", "index.docker.io", "registry-1.docker.io") else domain


def find(directory: str, domain: str) -> Credentials:
    """The credentials for a registry, empty ones when there are none."""
    config = load_config(config_path(directory))
    key = server_key(domain)
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper:
        return _from_helper(helper, key)
    auths = config.get("auths") or {}
    entry = auths.get(key)
    if entry is None:
        entry = next((auths[name] for name in auths if _host_of(name) == _host_of(key)), {})
    return _from_entry(key, entry)


def find_all(directory: str) -> dict[str, dict[str, str]]:
    """Credentials of every registry in config.json, for X-Registry-Config of a build."""
    config = load_config(config_path(directory))
    helpers = config.get("credHelpers") or {}
    names = set(config.get("auths") or {}) | set(helpers)
    store = config.get("credsStore")
    if store:
        names |= set(_run_helper(store, "list", "") or {})
    result = {}
    for name in sorted(names):
        helper = helpers.get(name) or store
        entry = _from_helper(helper, name) if helper else _from_entry(name, (config.get("auths") or {})[name])
        if entry.username or entry.identity_token:
            result[name] = entry.as_json()
    return result


def _host_of(name: str) -> str:
    return name.removeprefix("https://").removeprefix("http://").split("/", 1)[0]


def _from_entry(server: str, entry: Any) -> Credentials:
    if not isinstance(entry, dict):
        return Credentials(server)
    username, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            decoded = binascii.a2b_base64(entry["auth"]).decode("utf-8")
        except ValueError as error:
            raise Failure(f"the credentials of {server} in config.json cannot be decoded: {error}") from None
        username, _, password = decoded.partition(":")
    return Credentials(server, username, password.strip("\x00"), entry.get("identitytoken", ""))


def _from_helper(helper: str, server: str) -> Credentials:
    answer = _run_helper(helper, "get", server)
    if not answer:
        return Credentials(server)
    username, secret = answer.get("Username", ""), answer.get("Secret", "")
    if username == _TOKEN_USER:
        return Credentials(server, identity_token=secret)
    return Credentials(server, username, secret)


def _run_helper(helper: str, action: str, text: str) -> Any:
    """Run docker-credential-HELPER; None when it has no such credentials. Raises `Failure`."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, action], input=text.encode(), capture_output=True, check=False)
    except (FileNotFoundError, PermissionError):  # the latter for a directory of $PATH that is out of reach
        raise Failure(
            f'error getting credentials - err: exec: "{program}": executable file not found in $PATH'
        ) from None
    output = done.stdout[:_HELPER_LIMIT].decode("utf-8", "replace").strip()
    if done.returncode != 0:
        if "credentials not found" in output:
            return None
        raise Failure(f"error getting credentials - err: exit status {done.returncode}, out: `{output}`")
    if action not in ("get", "list") or not output:
        return None
    try:
        return loads(output)
    except ValueError as error:
        raise Failure(f"{program} {action} answered no JSON: {error}") from None


def store(directory: str, credentials: Credentials) -> str:
    """Remember credentials in the helper or in config.json; returns where: "" or the file in clear text."""
    path = config_path(directory)
    config = load_config(path)
    server = credentials.server
    helper = (config.get("credHelpers") or {}).get(server) or config.get("credsStore")
    auths = config.setdefault("auths", {})
    if helper:
        user = _TOKEN_USER if credentials.identity_token else credentials.username
        secret = credentials.identity_token or credentials.password
        _run_helper(helper, "store", dumps({"ServerURL": server, "Username": user, "Secret": secret}))
        auths[server] = {}
        save_config(path, config)
        return ""
    pair = f"{credentials.username}:{credentials.password}".encode()
    auths[server] = {"auth": binascii.b2a_base64(pair, newline=False).decode()}
    if credentials.identity_token:
        auths[server] = {
            "auth": binascii.b2a_base64(f"{credentials.username}:".encode(), newline=False).decode(),
            "identitytoken": credentials.identity_token,
        }
    save_config(path, config)
    return path


def erase(directory: str, server: str) -> bool:
    """Forget credentials; False when there were none."""
    path = config_path(directory)
    config = load_config(path)
    helper = (config.get("credHelpers") or {}).get(server) or config.get("credsStore")
    auths = config.get("auths") or {}
    if server not in auths:
        return False
    if helper:
        _run_helper(helper, "erase", server)
    del auths[server]
    save_config(path, config)
    return True
