# syntax=docker/dockerfile:1
# The image of the bridge, without a shell and a package manager. The build context has no repository, so the commit is an argument:
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag session-buddy-bridge .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# The dependencies, as those of a program without code: a layer that only a change of the manifests rebuilds.
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs && cp src/main.rs build.rs \
    && cargo build --profile dist --locked --bin session-buddy-bridge \
    && rm -r src build.rs
COPY build.rs ./
COPY src src
ARG REVISION=
# Cargo compares times: those of the sources are older than the program without code.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    touch build.rs src/lib.rs src/main.rs \
    && BUILD_REVISION="$REVISION" cargo build --profile dist --locked --bin session-buddy-bridge \
    && cp target/dist/session-buddy-bridge /usr/local/bin/ \
    && mkdir /state && mkdir --mode=0770 /state/session-buddy-bridge

# Debian 12, as above, for its C library; with CA roots for wss://, and a user that is not root.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG REVISION=
# A release adds `source` and `created`, which are its own.
LABEL org.opencontainers.image.title="session-buddy-bridge" \
      org.opencontainers.image.description="Counts Session-Buddy's invocations and anomalies exactly once for Prometheus" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
COPY LICENSE-MIT LICENSE-APACHE THIRD-PARTY-NOTICES.md /usr/share/doc/session-buddy-bridge/
COPY --from=build /usr/local/bin/session-buddy-bridge /usr/local/bin/
# A container's own loopback interface reaches nobody; what is published, the container's host decides.
ENV SESSION_BUDDY_BRIDGE_WEB_DEFAULT_ADDRESS=0.0.0.0:9090
# The directory comes with its owner, so that a new volume over it belongs to the user. Other users (`--user 1000`) have the group root.
COPY --from=build --chown=nonroot:root /state/ /var/lib/
ENV SESSION_BUDDY_BRIDGE_STATE_PATH=/var/lib/session-buddy-bridge/state.db
# One heap for all threads: with one for each, memory at 10,000 skills is larger and grows with scrapes.
ENV MALLOC_ARENA_MAX=1
VOLUME /var/lib/session-buddy-bridge
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s \
    CMD ["/usr/local/bin/session-buddy-bridge", "healthcheck", "--healthcheck.pid=1"]
ENTRYPOINT ["/usr/local/bin/session-buddy-bridge"]
