# syntax=docker/dockerfile:1
# docker build -t sluice .
# docker run --rm -p 127.0.0.1:8080:8080 -v sluice:/var/lib/sluice --stop-timeout 40 sluice
# Final image: the binary, the C library and the certificates of authorities; no shell, no package manager, not root.

FROM rust:1.95-bookworm AS build
WORKDIR /src

# The dependencies are a layer of their own, made again only when the lock file changes: they are built with an empty crate in
# place of ours. Every target that the manifest names must exist for Cargo to read it.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches loadtest fuzz \
    && touch src/lib.rs \
    && benches=$(sed -n '/^\[\[bench]]/{n;s/^name = "\(.*\)"/benches\/\1/p}' Cargo.toml) \
    && for target in src/main loadtest/main fuzz/main $benches; do echo 'fn main() {}' > "$target.rs"; done \
    && cargo build --locked --release --bin sluice

COPY config config
COPY console console
COPY src src
# Cargo compares times, and the files that were copied may be older than what stood in their place.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --locked --release --bin sluice \
    && mkdir -p /image/usr/local/bin /image/var/lib/sluice \
    && cp target/release/sluice /image/usr/local/bin/ \
    && strip --strip-debug /image/usr/local/bin/sluice \
    && chown -R 65532:65532 /image/var/lib/sluice

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Sluice" \
      org.opencontainers.image.description="The audit log that never loses, never leaks, never lies" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# Inside a container all addresses; what is published to the outside is said by whoever runs it. The admin port has no
# authentication: do not publish it.
ENV SLUICE__DATA_DIR=/var/lib/sluice \
    SLUICE__HTTP__LISTEN=0.0.0.0:8080 \
    SLUICE__ADMIN__LISTEN=0.0.0.0:9090 \
    SLUICE__LOG__FORMAT=json
USER 65532:65532
VOLUME /var/lib/sluice
EXPOSE 8080 9090
# It drains, flushes and ends within `shutdown.deadline` (30 s): give it longer than Docker's 10 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["serve"]
