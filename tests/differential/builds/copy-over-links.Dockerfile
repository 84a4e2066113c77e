FROM base
RUN mkdir -p /real && ln -s /real /to-dir && echo x > /file && ln -s /file /to-file && ln -s /nowhere /to-nothing
COPY a /to-dir/
COPY d /to-dir
COPY a /to-file
COPY a /to-nothing
#: differs buildah: file * - it replaces links, and makes directories of dangling ones
