FROM base AS build
COPY src /src
RUN mkdir /out && cat /src/*.c > /out/program && chmod 755 /out/program
FROM base AS unused
RUN exit 3
FROM scratch
COPY --from=build /out/program /bin/program
COPY --from=0 /src/lib /lib
ENTRYPOINT ["/bin/program"]
#: without classic: it builds every stage up to the last
#: without buildah: 1.28 builds every stage up to the last
