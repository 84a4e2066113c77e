FROM fat AS build
WORKDIR /src
COPY go.mod ./
COPY *.go ./
RUN CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath -ldflags="-s -w -buildid=" -o /out/application .

FROM scratch
COPY --from=build /out/application /application
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/application"]
