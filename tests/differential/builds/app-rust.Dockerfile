FROM fat AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --offline --quiet

FROM base
COPY --from=build /src/target/release/application /usr/local/bin/
RUN application > /said
USER nobody
CMD ["application"]
