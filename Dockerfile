# The worker in a small image: docker build -t keepstep .
# The Rust version is that of rust-toolchain.toml (tests/compose.rs compares).
FROM rust:1.95.0-bookworm AS build
# Or rustup would bring the rustfmt and clippy that rust-toolchain.toml asks for.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /keepstep
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home keepstep \
    && install -d -o keepstep -g keepstep /data
COPY --from=build /keepstep/target/release/keepstep /usr/local/bin/keepstep
USER keepstep
WORKDIR /data
VOLUME /data
EXPOSE 9464
ENTRYPOINT ["keepstep"]
CMD ["--help"]
