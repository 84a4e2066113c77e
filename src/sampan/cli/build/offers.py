"""What this build's client offers to it, and the session over which it does: opened only for a build that needs one."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.build.session import Offers
    from sampan.cli.flags import Values
    from sampan.client.api import Client


@contextmanager
def build_session(client: Client, flags: Values, more: Offers | None = None) -> Iterator[str]:
    """The session's id, "" when nothing is offered. `more`: what else this build's client gives or takes."""
    offers = dict(more or {})
    with ExitStack() as stack:
        if flags["secret"]:
            from sampan.cli.build.secrets import secret_offers

            offers.update(secret_offers(flags["secret"]))
        if flags["ssh"]:
            from sampan.cli.build.agents import Agents

            offers.update(stack.enter_context(Agents(flags["ssh"])).offers())
        if not offers:
            yield ""
            return
        from sampan.cli.build.session import BuildSession

        yield stack.enter_context(BuildSession(client, offers)).id
