"""Every flag of `build`: those of Docker's classic builder, those of `docker buildx build`, and sampan's own."""

from __future__ import annotations

from sampan.cli.create import checks, texts
from sampan.cli.flags import Flag


def _tag(text: str) -> str:
    if _is_plain(text):
        return text
    from sampan.errors import SampanError
    from sampan.oci.reference import parse_reference

    try:
        parse_reference(text)
    except SampanError as error:
        raise ValueError(error.message) from None
    return text


def _is_plain(text: str) -> bool:
    """A reference that is surely valid, letters and digits only: most are, and the grammar takes long to import."""
    name, colon, tag = text.partition(":")
    words = (*name.split("/"), tag) if colon else name.split("/")
    return (
        text.isascii() and len(text) < 64 and name == name.lower() and all(word.isalnum() for word in words)
    )


def _hosts(texts: list[str]) -> list[str]:
    """As buildx has it: also several in one, separated by commas."""
    return [checks.extra_host(text) for text in texts]


def _progress(text: str) -> str:
    if text not in ("auto", "plain", "tty", "quiet", "rawjson", "none"):
        raise ValueError("expected auto, plain, tty, quiet, rawjson or none")
    return text


_LIMITS = (
    Flag("cgroup-parent", "", "string", "Parent control group of RUN instructions"),
    Flag("cpu-period", "", "int", "Length of a CFS period in microseconds"),
    Flag("cpu-quota", "", "int", "CPU time per CFS period in microseconds"),
    Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
    Flag("cpuset-cpus", "", "string", "CPUs that may be used (0-3, 0,1)"),
    Flag("cpuset-mems", "", "string", "Memory nodes that may be used (0-3, 0,1)"),
    Flag("memory", "m", "bytes", "Memory limit"),
    Flag("memory-swap", "", "memswap", "Limit of memory and swap together, -1 for unlimited swap"),
    Flag("shm-size", "", "bytes", "Size of /dev/shm"),
    Flag("ulimit", "", "ulimit", "Limits of the processes (name=soft[:hard])", check=checks.ulimit),
)
_OUTPUTS = (
    Flag("annotation", "", "list", "Annotate the image's manifest ([manifest|index...:]NAME=VALUE)"),
    Flag("attest", "", "list", "Attach an attestation (type=sbom, type=provenance,mode=max)"),
    Flag("iidfile", "", "string", "Write the image's ID to this file"),
    Flag("load", "", "bool", "Keep the image here, which is the default (short for --output type=docker)"),
    Flag("metadata-file", "", "string", "Write what came out of the build to this file, as JSON"),
    Flag("output", "o", "list", "Where the result goes (type=image|local|tar|oci|docker|registry,dest=PATH)"),
    Flag("provenance", "", "string", "Attach how the image was made (short for --attest type=provenance)"),
    Flag("push", "", "bool", "Push the image to its registry (short for --output type=registry)"),
    Flag("sbom", "", "string", "Attach what is in the image (short for --attest type=sbom)"),
    Flag("tag", "t", "list", "Name of the image, with a tag if wanted (name:tag)", check=_tag),
)
_SOURCES = (
    Flag("build-arg", "", "list", "Set variables of the build", check=texts.environment),
    Flag("build-context", "", "list", "Additional contexts (name=path)"),
    Flag("file", "f", "string", "The Dockerfile (by default PATH/Dockerfile), - for STDIN"),
    Flag("label", "", "list", "Set labels of the image", check=checks.label),
    Flag("platform", "", "strings", "Platforms to build for (linux/amd64,linux/arm64)"),
    Flag("pull", "", "bool", "Look for newer base images first"),
    Flag("secret", "", "list", "Secret of the build (id=NAME,src=FILE or id=NAME,env=VARIABLE)"),
    Flag("ssh", "", "list", "SSH agent or keys of the build (default|ID[=SOCKET|KEY,...])"),
    Flag("target", "", "string", "The stage to build"),
)
_CACHE = (
    Flag(
        "cache-from",
        "",
        "list",
        "Caches to take steps from (IMAGE, type=registry,ref=IMAGE, type=local,src=DIR)",
    ),
    Flag(
        "cache-to",
        "",
        "list",
        "Where to write the cache (type=registry,ref=IMAGE,mode=max, type=local,dest=DIR, type=inline)",
    ),
    Flag("no-cache", "", "bool", "Use no cached steps"),
    Flag("no-cache-filter", "", "list", "Use no cached steps for these stages"),
)
_STEPS = (
    Flag("add-host", "", "strings", "Add a line to /etc/hosts (host:ip)", check=_hosts),
    Flag("allow", "", "list", "Let steps be more than ordinary ones (network.host, security.insecure)"),
    Flag("host-ca", "", "bool", "Let RUN trust the host's CA certificates, without a trace in the image"),
    Flag("network", "", "string", "Network of RUN instructions", default="default"),
    Flag("security-opt", "", "strings", "Security options of RUN instructions"),
)
_SEEING = (
    Flag("call", "", "string", "What to do with the Dockerfile (build, check, outline, targets)"),
    Flag("check", "", "bool", "Check the Dockerfile and build nothing (short for --call check)"),
    Flag("explain", "", "bool", "Say of every step that was done anew what has changed"),
    Flag("format", "", "string", "Format of --list-context and --explain (json) or --check (json, sarif)"),
    Flag("list-context", "", "bool", "Build nothing: list what the context sends and what is left out"),
    Flag("on-error", "", "string", "What to do when a step fails (shell: open one in the state before it)"),
    Flag(
        "progress",
        "",
        "string",
        "How to show the build (auto, plain, tty, quiet, rawjson, none; also BUILDKIT_PROGRESS)",
        check=_progress,
    ),
    Flag("quiet", "q", "bool", "Print nothing but the image's ID"),
    Flag(
        "reproducible",
        "",
        "bool",
        "Same input, same image: nothing is newer than SOURCE_DATE_EPOCH (0 when unset)",
    ),
)
_COMPATIBLE = (
    Flag("builder", "", "string", "Accepted for compatibility: there is one builder"),
    Flag("compress", "", "bool", "Accepted for compatibility"),
    Flag("debug", "D", "bool", "Accepted for compatibility: the engine's log has a level of its own"),
    Flag("disable-content-trust", "", "bool", "Accepted for compatibility", default=True),
    Flag("force-rm", "", "bool", "Remove intermediate containers also after a failure"),
    Flag("isolation", "", "string", "Isolation technology (Windows only)"),
    Flag("rm", "", "bool", "Remove intermediate containers", default=True),
    Flag("squash", "", "bool", "Make one layer of all new ones", hidden=True),
)
FLAGS = (*_SOURCES, *_OUTPUTS, *_CACHE, *_STEPS, *_LIMITS, *_SEEING, *_COMPATIBLE)
