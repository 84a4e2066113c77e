FROM base
COPY --link a /linked/a
COPY --link --chown=1:2 d /linked/d
#: without classic: COPY --link is newer
#: without embedded: COPY --link is newer
#: without buildah: COPY --link is newer
#: differs newest: file 'linked'* - row: Directories above what COPY --link copies
