FROM base
ENV A=1 B="two words" C='single $A' D=a\ b
ENV OLD style with spaces
ENV A=changed E=$A F=${A} G=${UNSET:-default} H=${A:+set} I=${UNSET:+set} J=\$A
ENV PATH=/opt/bin:$PATH
RUN env | sort | grep -E '^[A-J]=|^OLD' > /env
#: differs buildah: config Env* - it puts what is changed last
