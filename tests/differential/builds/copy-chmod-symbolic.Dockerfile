FROM base
COPY --chmod=u=rwX,go=rX d /d
COPY --chmod=a+x a /a
#: without classic: COPY --chmod is BuildKit's
#: without embedded: symbolic modes are newer
#: without buildah: symbolic modes are newer
