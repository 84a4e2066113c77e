FROM base
RUN --mount=type=cache,target=/cache echo cached > /cache/x && echo 1 > /one
RUN --mount=type=tmpfs,target=/scratch echo x > /scratch/x && echo 2 > /two
RUN --mount=type=bind,source=d,target=/mnt/d cat /mnt/d/x > /three
#: without classic: RUN --mount is BuildKit's
