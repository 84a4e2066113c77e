FROM base
COPY --parents d/sub/y docs/*.md /parents/
COPY --exclude=*.md --exclude=sub docs d /excluded/
#: without classic: newer
#: without embedded: newer
#: without newest: in BuildKit's labs syntax, or its next release
#: without buildah: newer
