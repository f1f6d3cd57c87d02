# The device runtime on a CPU (amd64, arm64). Build from the root of the repository:
#   docker build -f deploy/docker/cpu.Dockerfile -t edgecl-device .
# Run, with the bundle and the store on the host:
#   docker run --rm --read-only --tmpfs /tmp -v /var/lib/edgecl:/var/lib/edgecl edgecl-device status /var/lib/edgecl/store
FROM python:3.12-slim AS build
WORKDIR /src
COPY constraints.txt VERSION ./
COPY deploy deploy
RUN pip install --no-cache-dir --prefix=/opt/edgecl -c constraints.txt "./deploy[cpu]"

FROM python:3.12-slim
COPY --from=build /opt/edgecl /usr/local
RUN groupadd --gid 990 edgecl && useradd --uid 990 --gid edgecl --no-create-home edgecl-update
USER edgecl-update
ENV ORT_DISABLE_TELEMETRY=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgecl-device"]
CMD ["watch", "/var/lib/edgecl/store"]
