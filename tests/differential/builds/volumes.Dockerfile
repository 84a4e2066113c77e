FROM base
VOLUME /data
VOLUME ["/json form", "/b"]
VOLUME /c /d
RUN mkdir -p /data/later && echo lost > /data/later/file
COPY a /data/copied
#: differs classic: file '* is missing* - row: VOLUME
#: differs classic: file 'data/later* is additional* - row: VOLUME
#: differs buildah: file '* is missing* - row: VOLUME
#: differs buildah: file 'data/later* is additional* - row: VOLUME
