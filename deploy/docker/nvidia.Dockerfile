# The device runtime beside an NVIDIA GPU: the CUDA libraries and ONNX Runtime's GPU build.
#   docker build -f deploy/docker/nvidia.Dockerfile -t edgecl-device-gpu .
#   docker run --rm --gpus all --read-only --tmpfs /tmp -v /var/lib/edgecl:/var/lib/edgecl edgecl-device-gpu info
# On a Jetson take the L4T image of its JetPack as the base. The engine `onnxruntime` of this
# version still runs on the CPU of such a machine; the image is where its GPU engines will live.
ARG BASE=nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04
# By digest: --build-arg BASE=nvidia/cuda@sha256:...
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY VERSION ./
COPY deploy deploy
RUN python3 -m venv /opt/edgecl && /opt/edgecl/bin/pip install --no-cache-dir "./deploy[gpu]" \
    && rm -rf /src
RUN groupadd --gid 990 edgecl && useradd --uid 990 --gid edgecl --no-create-home edgecl-update
USER edgecl-update
ENV PATH=/opt/edgecl/bin:$PATH ORT_DISABLE_TELEMETRY=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgecl-device"]
CMD ["watch", "/var/lib/edgecl/store"]
