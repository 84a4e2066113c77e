"""BuildKit's rules: names, descriptions and addresses are those of its documentation, the fixes are ours."""

from __future__ import annotations

from sampan.build.rules.finding import Rule

_URL = "https://docs.docker.com/go/dockerfile/rule/"


def _rule(name: str, slug: str, description: str, fix: str, *, experimental: bool = False) -> Rule:
    return Rule(name, description, f"{_URL}{slug}/" if slug else "", fix, experimental)


STAGE_NAME_CASING = _rule(
    "StageNameCasing",
    "stage-name-casing",
    "Stage names should be lowercase",
    "Write the stage's name in lower case.",
)
FROM_AS_CASING = _rule(
    "FromAsCasing",
    "from-as-casing",
    "The 'as' keyword should match the case of the 'from' keyword",
    "Write FROM ... AS, or from ... as.",
)
EMPTY_CONTINUATION = _rule(
    "NoEmptyContinuation",
    "no-empty-continuation",
    "Empty continuation lines will become errors in a future release",
    "Remove the empty line, or make a comment of it.",
)
INSTRUCTION_CASING = _rule(
    "ConsistentInstructionCasing",
    "consistent-instruction-casing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
    "Write all instructions in upper case, or all in lower case.",
)
DUPLICATE_STAGE = _rule(
    "DuplicateStageName",
    "duplicate-stage-name",
    "Stage names should be unique",
    "Give each stage a name of its own: only the last one of a name can be meant by --target.",
)
RESERVED_STAGE = _rule(
    "ReservedStageName",
    "reserved-stage-name",
    "Reserved words should not be used as stage names",
    "Choose another name than scratch or context.",
)
JSON_ARGS = _rule(
    "JSONArgsRecommended",
    "json-args-recommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    'Write ["program", "argument"]; or, if a shell is needed, say so with SHELL.',
)
MAINTAINER = _rule(
    "MaintainerDeprecated",
    "maintainer-deprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    "Write LABEL org.opencontainers.image.authors=NAME.",
)
UNDEFINED_ARG_IN_FROM = _rule(
    "UndefinedArgInFrom",
    "undefined-arg-in-from",
    "FROM command must use declared ARGs",
    "Declare it with ARG before the first FROM.",
)
WORKDIR_RELATIVE = _rule(
    "WorkdirRelativePath",
    "workdir-relative-path",
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
    "base image changes",
    "Begin with an absolute WORKDIR.",
)
UNDEFINED_VAR = _rule(
    "UndefinedVar",
    "undefined-var",
    "Variables should be defined before their use",
    "Declare it with ARG or ENV above, in this stage or in one that it stands on.",
)
MULTIPLE = _rule(
    "MultipleInstructionsDisallowed",
    "multiple-instructions-disallowed",
    "Multiple instructions of the same type should not be used in the same stage",
    "Keep the last one and remove the others, which have no effect.",
)
LEGACY_PAIRS = _rule(
    "LegacyKeyValueFormat",
    "legacy-key-value-format",
    "Legacy key/value format with whitespace separator should not be used",
    'Write name=value, with quotes around a value that has blanks: name="a value".',
)
BASE_PLATFORM = _rule(
    "InvalidBaseImagePlatform",
    "",
    "Base image platform does not match expected target platform",
    "Pull the image for the platform, or name it in FROM --platform.",
)
REDUNDANT_PLATFORM = _rule(
    "RedundantTargetPlatform",
    "redundant-target-platform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    "Leave --platform out.",
)
SECRETS = _rule(
    "SecretsUsedInArgOrEnv",
    "secrets-used-in-arg-or-env",
    "Sensitive data should not be used in the ARG or ENV commands",
    "Hand it to the step that needs it with RUN --mount=type=secret; ARG and ENV stay readable in the image.",
)
DEFAULT_ARG_IN_FROM = _rule(
    "InvalidDefaultArgInFrom",
    "invalid-default-arg-in-from",
    "Default value for global ARG results in an empty or invalid base image name",
    "Give the ARG a default value with which FROM names an image.",
)
CONST_PLATFORM = _rule(
    "FromPlatformFlagConstDisallowed",
    "from-platform-flag-const-disallowed",
    "FROM --platform flag should not use a constant value",
    "Use $BUILDPLATFORM, leave --platform out, or name the stage after the platform.",
)
COPY_IGNORED = _rule(
    "CopyIgnoredFile",
    "copy-ignored-file",
    "Attempting to Copy file that is excluded by .dockerignore",
    "Take the file out of .dockerignore, or do not copy it.",
)
DESCRIPTION = _rule(
    "InvalidDefinitionDescription",
    "invalid-definition-description",
    "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
    "not intended to be a description comment, add an empty line or comment between the instruction and the "
    "comment.",
    "Begin the comment with the name, or put a line with # alone below it.",
    experimental=True,
)
EXPOSE_CASING = _rule(
    "ExposeProtoCasing",
    "expose-proto-casing",
    "Protocol in EXPOSE instruction should be lowercase",
    "Write tcp, udp or sctp.",
)
EXPOSE_FORMAT = _rule(
    "ExposeInvalidFormat",
    "expose-invalid-format",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
    "future release",
    "Name the container's port alone; addresses and host ports belong to run -p.",
)
