FROM base
ARG X=foo.bar.baz
ENV P1=${X#*.} P2=${X##*.} S1=${X%.*} S2=${X%%.*} R1=${X/bar/qux} R2=${X//a/A}
#: without classic: newer than its language
#: without embedded: newer than its language
#: without buildah: 1.28 does not know them
