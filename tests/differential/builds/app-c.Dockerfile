FROM fat AS build
ARG CFLAGS="-O2 -static"
WORKDIR /usr/src/application
COPY . .
RUN make && make install DESTDIR=/out

FROM base AS runtime
COPY --from=build /out/ /
RUN application > /said
ENTRYPOINT ["application"]
