"""Names of containers: the rule for given ones, and made-up ones (adjective_noun)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container

from sampan.errors import Invalid

_VALID = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_ADJECTIVES = tuple(
    re.findall(
        r"\w+",
        """
able agile airy amber ample ancient arctic autumn bold brave breezy bright brisk broad busy calm candid
careful cheery clear clever coastal cool coral cosy crisp curious daring deep deft drifting early
earnest easy eastern even fair famous fast fine firm fleet fond free fresh frosty gentle gilded glad
golden grand hardy hasty hazy hidden humble idle indigo jolly keen kind lasting lively lofty loyal lucky
lunar mellow merry mighty mild misty modest nimble noble northern patient placid plain polite proud
quick quiet rapid ready rising roaming robust rosy sandy serene shining silent silver simple sleek
smooth snowy solid sound southern stable steady still stout strong sturdy subtle sunny swift tidal tidy
tranquil true vivid warm western wide willing windy wise witty young zesty
""",
    )
)

_NOUNS = tuple(
    re.findall(
        r"\w+",
        """
anchor atoll bay beacon bilge boom bosun breeze bridge buoy cabin canal canvas cape captain cargo
catamaran channel chart clipper cleat coast compass coral cove crane crew current cutter deck delta dhow
dinghy dock dory estuary ferry fjord fleet foam frigate funnel galley gannet gull gust harbour haven
hawser heron hull inlet island jetty junk kayak keel ketch lagoon lantern ledger lighthouse locker
lugger mainsail mariner marina mast mooring narwhal oar osprey otter outrigger packet paddle pelican
pennant pier pilot plank porthole puffin quay raft reef rigging river rope rudder sail salmon sampan
schooner sextant shoal shore skiff sloop sounding spar spindrift squall starboard stern strait tern tide
tiller topsail trawler tug voyage wake wave wharf whistle winch yawl
""",
    )
)


def check_name(name: str) -> str:
    """The name without a leading slash. Raises `Invalid` in Docker's words."""
    if not _VALID.fullmatch(name):
        raise Invalid(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def generate(taken: Container[str]) -> str:
    """A free name; after a few tries with a number at its end."""
    for attempt in range(100):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}"
        if attempt >= 5:
            name += str(secrets.randbelow(10 ** (attempt // 5)))
        if name not in taken:
            return name
    return f"container_{secrets.token_hex(6)}"
