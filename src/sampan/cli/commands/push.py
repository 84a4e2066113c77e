"""`sampan push`."""

from __future__ import annotations

from sampan.cli import registry_auth
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.platform import platform_json
from sampan.cli.progress import show_all
from sampan.client.api import quote_path
from sampan.oci.reference import parse_reference


def _push(invocation: Invocation) -> int:
    flags = invocation.flags
    reference = parse_reference(invocation.args[0])
    if flags["all-tags"] and reference.tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if reference.digest is not None:
        raise Failure("cannot push a digest reference")
    if not flags["all-tags"] and reference.tag is None:
        reference = reference.with_default_tag()
        if not flags["quiet"]:
            print(f"Using default tag: {reference.tag}", flush=True)
    credentials = registry_auth.find(invocation.options.config_directory, reference.domain)
    client = invocation.client()
    response = client.request(
        "POST",
        f"/images/{quote_path(reference.familiar_name)}/push",
        {"tag": reference.tag or "", "platform": platform_json(flags["platform"])},
        b"",
        {"X-Registry-Auth": credentials.header()},
    )
    if flags["quiet"]:
        for message in client.messages(response):
            if message.get("error"):
                raise Failure(str(message["error"]))
        print(reference)
    else:
        show_all(client.messages(response))
    return 0


PUSH = Command(
    _push,
    "NAME[:TAG]",
    (
        Flag("all-tags", "a", "bool", "Upload all tags of the image"),
        Flag("disable-content-trust", "", "bool", "Accepted for compatibility", default=True),
        Flag("platform", "", "string", "Upload only this platform of the image"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
    minimum=1,
    maximum=1,
    aliases=("image push", "push"),
)
