FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin doorbell

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home doorbell \
    && mkdir /data && chown doorbell /data
COPY --from=build /src/target/release/doorbell /usr/local/bin/doorbell
USER doorbell
# The root file system may be read-only: everything that is written lies here.
VOLUME /data
ENV DOORBELL_CONFIG=/etc/doorbell/doorbell.toml
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["doorbell", "health"]
ENTRYPOINT ["doorbell"]
CMD ["serve"]
