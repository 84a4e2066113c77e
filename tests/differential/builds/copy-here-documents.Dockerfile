FROM base
ARG NAME=world
COPY <<first <<"second" /docs/
hello $NAME
first
not $expanded
second
COPY --chmod=755 --chown=web <<-EOF /indented.sh
	#!/bin/sh
	echo indented
EOF
#: without classic: here-documents are newer
#: without embedded: here-documents are newer
#: without buildah: here-documents are newer
