"""What this build's client offers to it, and the session over which it does: opened only for a build that needs one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack

    from sampan.cli.build.session import Offers
    from sampan.cli.flags import Values
    from sampan.client.api import Client


class Offering:
    """A context manager: the session's id, "" when nothing is offered.

    `more`: what else this build's client gives or takes. No generator: contextlib would be a third of a build's start.
    """

    def __init__(self, client: Client, flags: Values, more: Offers | None = None) -> None:
        self._client = client
        self._flags = flags
        self._more = more
        self._stack: ExitStack | None = None

    def __enter__(self) -> str:
        flags, offers = self._flags, dict(self._more or {})
        if flags["build-context"]:
            from sampan.cli.build.named import context_offers

            offers.update(context_offers(flags["build-context"]))
        if "=local" in "".join((*flags["cache-from"], *flags["cache-to"])):
            from sampan.cli.build.caches import cache_offers

            offers.update(cache_offers(flags))
        if not (offers or flags["secret"] or flags["ssh"]):
            return ""
        from contextlib import ExitStack

        from sampan.cli.build.session import BuildSession

        with ExitStack() as stack:
            if flags["secret"]:
                from sampan.cli.build.secrets import secret_offers

                offers.update(secret_offers(flags["secret"]))
            if flags["ssh"]:
                from sampan.cli.build.agents import Agents

                offers.update(stack.enter_context(Agents(flags["ssh"])).offers())
            session_id = stack.enter_context(BuildSession(self._client, offers)).id
            self._stack = stack.pop_all()
        return session_id

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()
