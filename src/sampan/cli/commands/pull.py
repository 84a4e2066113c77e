"""`sampan pull`."""

from __future__ import annotations

import sys

from sampan.cli import registry_auth
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.progress import show_all
from sampan.oci.reference import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def pull_image(
    invocation: Invocation,
    name: str,
    *,
    platform: str = "",
    quiet: bool = False,
    all_tags: bool = False,
    out: TextIO,
) -> None:
    """Pull one image (or all tags of its repository) and show the progress on `out`."""
    reference = parse_reference(name)
    if not all_tags:
        reference = reference.with_default_tag()
    tag = "" if all_tags else str(reference.digest or reference.tag)
    credentials = registry_auth.find(invocation.options.config_directory, reference.domain)
    client = invocation.client()
    response = client.request(
        "POST",
        "/images/create",
        {"fromImage": reference.familiar_name, "tag": tag, "platform": platform.lower()},
        b"",
        {"X-Registry-Auth": credentials.header()},
    )
    messages = client.messages(response)
    if quiet:
        for message in messages:
            if message.get("error"):
                raise Failure(str(message["error"]))
        return
    show_all(messages, out)


def _pull(invocation: Invocation) -> int:
    flags, name = invocation.flags, invocation.args[0]
    reference = parse_reference(name)
    if flags["all-tags"] and (reference.tag or reference.digest):
        raise Failure("tag can't be used with --all-tags/-a")
    if not flags["all-tags"] and reference.tag is None and reference.digest is None and not flags["quiet"]:
        print("Using default tag: latest", flush=True)
    pull_image(
        invocation,
        name,
        platform=flags["platform"],
        quiet=flags["quiet"],
        all_tags=flags["all-tags"],
        out=sys.stdout,
    )
    print(reference.with_default_tag() if not flags["all-tags"] else reference)
    return 0


PULL = Command(
    _pull,
    "NAME[:TAG|@DIGEST]",
    (
        Flag("all-tags", "a", "bool", "Download all tags of the repository"),
        Flag("disable-content-trust", "", "bool", "Accepted for compatibility", default=True),
        Flag("platform", "", "string", "Platform to choose from a multi-platform image"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
    minimum=1,
    maximum=1,
    aliases=("image pull", "pull"),
)
