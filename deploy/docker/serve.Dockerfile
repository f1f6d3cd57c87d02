# The server of a device on a CPU (amd64, arm64): docs/serve.md. Build from the root of the repository:
#   docker build -f deploy/docker/serve.Dockerfile -t edgecl-serve .
# It listens on all addresses of the container, so it asks for a token. With the store and a file of tokens (group 990, mode 0640) on the host:
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8080:8080 -v /var/lib/edgecl:/var/lib/edgecl:ro \
#     -v /var/lib/edgecl/store/health:/var/lib/edgecl/store/health -v /var/lib/edgecl/store/local:/var/lib/edgecl/store/local -v ./tokens:/run/secrets/edgecl-tokens:ro edgecl-serve
# Packages are checked against their digests, as in cpu.Dockerfile. deploy/compose has the updater and Prometheus beside it.
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
WORKDIR /src
COPY VERSION ./
COPY deploy deploy
RUN pip install --no-cache-dir --prefix=/opt/edgecl --require-hashes -r deploy/requirements-server.txt \
    && pip install --no-cache-dir --prefix=/opt/edgecl --no-deps ./deploy

FROM ${BASE}
COPY --from=build /opt/edgecl /usr/local
RUN groupadd --gid 990 edgecl && useradd --uid 991 --gid edgecl --no-create-home edgecl-app
USER edgecl-app
ENV ORT_DISABLE_TELEMETRY=1
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s --interval=10s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=3)"]
ENTRYPOINT ["edgecl-device"]
CMD ["serve", "/var/lib/edgecl/store", "--listen", "0.0.0.0:8080", "--token-file", "/run/secrets/edgecl-tokens", "--host", "edgecl", "--json"]
