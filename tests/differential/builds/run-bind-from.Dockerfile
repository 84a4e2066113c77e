FROM base AS tools
RUN echo tool > /tool
FROM base
RUN --mount=type=bind,from=base,source=/etc,target=/mnt/etc cat /mnt/etc/group > /of-an-image
RUN --mount=type=bind,from=tools,target=/mnt/tools,rw cp /mnt/tools/tool /of-a-stage && touch /mnt/tools/lost
#: without classic: RUN --mount is BuildKit's
#: differs embedded: file '*' is missing: Inode(kind='dir'* - it leaves the mounts' directories behind
#: differs buildah: file 'mnt' is missing* - it leaves a directory that was made for a mount
