FROM base AS rich
ENV A=1
LABEL a=1
EXPOSE 80
VOLUME /v
USER web
WORKDIR /w
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=1h CMD true
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["e"]
CMD ["c"]
FROM rich
ENV B=2
LABEL b=2
EXPOSE 81
VOLUME /v2
#: differs classic: file 'w': * - row: Who owns a WORKDIR
#: differs buildah: file 'v2' is missing* - it makes a volume's directory
