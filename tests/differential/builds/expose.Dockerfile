FROM base
ARG P=9000
EXPOSE 80 443/tcp 53/udp 8000-8003
EXPOSE $P 80/tcp 10-11/UDP
#: differs buildah: config ExposedPorts* - it leaves ranges as they are
#: differs newest: history 3: * - row: History texts: their order there is by chance
