FROM base
SHELL ["/bin/sh", "-exc"]
RUN echo $0 > /shell; false || true
CMD default
ENTRYPOINT through the shell
SHELL ["/bin/busybox", "ash", "-c"]
RUN echo second > /second
#: differs buildah: config Cmd* - it forgets SHELL
#: differs buildah: config Entrypoint* - it forgets SHELL
