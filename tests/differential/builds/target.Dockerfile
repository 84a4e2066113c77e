FROM base AS one
RUN echo one > /one
FROM one AS two
RUN echo two > /two
FROM two AS three
RUN echo three > /three
#: options: --target TWO
#: without buildah: names of stages are case-sensitive there
