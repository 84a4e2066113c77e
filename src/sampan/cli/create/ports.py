"""`--publish` and `--expose`: short and long syntax to the API's port maps."""

from __future__ import annotations

from sampan.cli.create.checks import is_ip

_PROTOCOLS = ("tcp", "udp", "sctp")

PortMap = dict[str, list[dict[str, str]]]


def parse_publish(specifications: list[str]) -> PortMap:
    """Port bindings by "port/protocol". Raises `ValueError` in Docker's words."""
    bindings: PortMap = {}
    for text in specifications:
        for port, binding in _parse_one(_short_form(text)):
            bindings.setdefault(port, []).append(binding)
    return bindings


def parse_expose(specifications: list[str]) -> list[str]:
    """The exposed "port/protocol" names. Raises `ValueError`."""
    ports = []
    for text in specifications:
        if ":" in text:
            raise ValueError(f"invalid port format for --expose: {text}")
        number, slash, protocol = text.partition("/")
        try:
            first, last = parse_range(number)
        except ValueError as error:
            raise ValueError(f"invalid range format for --expose: {text}, error: {error}") from None
        protocol = _protocol(protocol if slash else "tcp")
        ports += [f"{port}/{protocol}" for port in range(first, last + 1)]
    return ports


def parse_range(text: str) -> tuple[int, int]:
    """ "80" or "80-90" as (first, last). Raises `ValueError`."""
    if not text:
        raise ValueError("empty string specified for ports")
    first_text, dash, last_text = text.partition("-")
    first = _port(first_text)
    last = _port(last_text) if dash else first
    if last < first:
        raise ValueError(f"invalid range specified for port: {text}")
    return first, last


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _protocol(text: str) -> str:
    if text.lower() not in _PROTOCOLS:
        raise ValueError(f"Invalid proto: {text}")
    return text.lower()


def _short_form(text: str) -> str:
    """published=8080,target=80,protocol=tcp as 8080:80/tcp."""
    if "=" not in text:
        return text
    fields = {"protocol": "tcp"}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{item}')")
        fields[name] = value
    return f"{fields.get('published', '')}:{fields.get('target', '')}/{fields['protocol']}"


def _parse_one(text: str) -> list[tuple[str, dict[str, str]]]:
    head, slash, protocol = text.rpartition("/")
    if not slash:
        head, protocol = text, "tcp"
    address, host, container = _split(head)
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address and not is_ip(address):
        raise ValueError(f"Invalid ip address: {address}")
    if not container:
        raise ValueError(f"No port specified: {text}<empty>")
    try:
        first, last = parse_range(container)
    except ValueError:
        raise ValueError(f"Invalid containerPort: {container}") from None
    host_first, host_last = 0, 0
    if host:
        try:
            host_first, host_last = parse_range(host)
        except ValueError:
            raise ValueError(f"Invalid hostPort: {host}") from None
    if host and last - first != host_last - host_first and first != last:
        raise ValueError(f"Invalid ranges specified for container and host Ports: {container} and {host}")
    protocol = _protocol(protocol or "tcp")
    result = []
    for offset in range(last - first + 1):
        published = str(host_first + offset) if host else ""
        if host and first == last and host_first != host_last:
            published = f"{host_first}-{host_last}"
        result.append((f"{first + offset}/{protocol}", {"HostIp": address, "HostPort": published}))
    return result


def _split(text: str) -> tuple[str, str, str]:
    parts = text.rsplit(":", 2)
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return parts[0], parts[1], parts[2]
