FROM base
HEALTHCHECK --start-interval=2s CMD ["/bin/test", "-e", "/ok"]
#: without classic: --start-interval is newer
#: without embedded: --start-interval is newer
#: without buildah: --start-interval is newer
