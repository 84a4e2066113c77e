FROM base
COPY dangling-dir /copied
