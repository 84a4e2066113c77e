FROM base
COPY --chown=web a /name
COPY --chown=web:ops a /names
COPY --chown=12:34 d /numbers
COPY --chown=77 a /uid-only
COPY --chown=:55 a /gid-only
#: without classic: an owner with a group alone is refused
#: without buildah: an owner with a group alone is refused
