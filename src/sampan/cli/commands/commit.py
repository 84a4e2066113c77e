"""`sampan commit`."""

from __future__ import annotations

from sampan.cli.flags import Command, Flag, Invocation
from sampan.oci.reference import parse_reference


def _commit(invocation: Invocation) -> int:
    flags = invocation.flags
    name, *target = invocation.args
    repository, tag = "", ""
    if target:
        reference = parse_reference(target[0]).with_default_tag()
        repository, tag = reference.familiar_name, reference.tag or ""
    pause = flags["pause"] and not flags["no-pause"]
    query = {
        "container": name,
        "repo": repository,
        "tag": tag,
        "comment": flags["message"],
        "author": flags["author"],
        "changes": flags["change"],
        "pause": None if pause else "0",
    }
    print(invocation.client().call("POST", "/commit", query, {})["Id"])
    return 0


COMMIT = Command(
    _commit,
    "CONTAINER [REPOSITORY[:TAG]]",
    (
        Flag("author", "a", "string", 'Author ("Name <mail@example.org>")'),
        Flag("change", "c", "list", "Apply a Dockerfile instruction to the image"),
        Flag("message", "m", "string", "Commit message"),
        Flag("no-pause", "", "bool", "Do not freeze the container meanwhile"),
        Flag("pause", "p", "bool", "Freeze the container meanwhile", default=True),
    ),
    minimum=1,
    maximum=2,
    aliases=("container commit", "commit"),
)
