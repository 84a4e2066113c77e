FROM base
RUN --mount=type=cache,target=/cache echo cached > /cache/x && echo 1 > /one
RUN --mount=type=tmpfs,target=/scratch echo x > /scratch/x && echo 2 > /two
RUN --mount=type=bind,source=d,target=/mnt/d cat /mnt/d/x > /three
#: without classic: RUN --mount is BuildKit's
#: differs embedded: file '*' is missing: Inode(kind='dir'* - it leaves the mounts' directories behind
#: differs buildah: file 'mnt' is missing* - it leaves a directory that was made for a mount
