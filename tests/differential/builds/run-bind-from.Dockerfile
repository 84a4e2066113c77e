FROM base AS tools
RUN echo tool > /tool
FROM base
RUN --mount=type=bind,from=base,source=/etc,target=/mnt/etc cat /mnt/etc/group > /of-an-image
RUN --mount=type=bind,from=tools,target=/mnt/tools,rw cp /mnt/tools/tool /of-a-stage && touch /mnt/tools/lost
#: without classic: RUN --mount is BuildKit's
