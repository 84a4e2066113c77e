"""Every rule that a check knows, for what lists them."""

from __future__ import annotations

from sampan.build.rules import catalog, practice, practice_run

BUILDKIT_RULES = catalog.RULES
OWN_RULES = (
    practice.RUNS_AS_ROOT,
    practice.UNPINNED_BASE,
    practice.BASE_WITHOUT_DIGEST,
    practice.ADD_FOR_COPY,
    practice.COPY_BEFORE_INSTALL,
    practice.NO_IGNORE_FILE,
    practice.NO_HEALTHCHECK,
    practice_run.CACHE_IN_LAYER,
    practice_run.SUDO,
    practice_run.UPGRADE,
    practice_run.CD_FOR_WORKDIR,
    practice_run.NO_PIPEFAIL,
)
