"""`--platform` of commands about images that are here."""

from __future__ import annotations

from sampan.client.codec import dumps


def platform_json(text: str) -> str:
    """os/architecture[/variant] as the API's JSON."""
    if not text:
        return ""
    return dumps(dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False)))
