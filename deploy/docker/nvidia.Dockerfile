# The device runtime beside an NVIDIA GPU (x86): CUDA, cuDNN and ONNX Runtime's GPU build, for the engine `cuda`.
# Not built or run by this project, which has no GPU: docs/engines-nvidia.md.
#   docker build -f deploy/docker/nvidia.Dockerfile -t edgecl-device-gpu .
#   docker run --rm --gpus all --read-only --tmpfs /tmp -v /var/lib/edgecl:/var/lib/edgecl edgecl-device-gpu info
# For `tensorrt` and `tensorrt-ep` take a base that has TensorRT 10 and its Python package, and the extras of both:
#   docker build -f deploy/docker/nvidia.Dockerfile --build-arg BASE=NVIDIA_TENSORRT_IMAGE --build-arg EXTRAS=cuda,tensorrt .
# onnxruntime-gpu 1.27 and later want CUDA 13; for a base with CUDA 12 pin an older one: --build-arg PINS='onnxruntime-gpu<1.27'
ARG BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
# By digest: --build-arg BASE=nvidia/cuda@sha256:...
FROM ${BASE}
ARG EXTRAS=cuda
ARG PINS=
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY VERSION ./
COPY deploy deploy
RUN python3 -m venv --system-site-packages /opt/edgecl \
    && /opt/edgecl/bin/pip install --no-cache-dir "./deploy[${EXTRAS}]" ${PINS:+"${PINS}"} \
    && rm -rf /src
RUN groupadd --gid 990 edgecl && useradd --uid 990 --gid edgecl --no-create-home edgecl-update
USER edgecl-update
ENV PATH=/opt/edgecl/bin:$PATH ORT_DISABLE_TELEMETRY=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgecl-device"]
CMD ["watch", "/var/lib/edgecl/store"]
