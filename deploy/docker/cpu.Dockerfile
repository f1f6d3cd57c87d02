# The device runtime on a CPU (amd64, arm64). Build from the root of the repository:
#   docker build -f deploy/docker/cpu.Dockerfile -t edgecl-device .
# Run, with the bundle and the store on the host:
#   docker run --rm --read-only --tmpfs /tmp -v /var/lib/edgecl:/var/lib/edgecl edgecl-device status /var/lib/edgecl/store
# Every package that the device runs but our own, which is built here, is checked against its digest; the tool that builds ours
# (hatchling) is pinned by its version. For a base that cannot change, give it by digest, too:
#   docker build --build-arg BASE=python:3.12-slim@sha256:... (`docker buildx imagetools inspect` shows it)
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
WORKDIR /src
COPY VERSION ./
COPY deploy deploy
RUN pip install --no-cache-dir --prefix=/opt/edgecl --require-hashes -r deploy/requirements.txt \
    && pip install --no-cache-dir --prefix=/opt/edgecl --no-deps ./deploy

FROM ${BASE}
COPY --from=build /opt/edgecl /usr/local
RUN groupadd --gid 990 edgecl && useradd --uid 990 --gid edgecl --no-create-home edgecl-update
USER edgecl-update
ENV ORT_DISABLE_TELEMETRY=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgecl-device"]
CMD ["watch", "/var/lib/edgecl/store"]
