# The device runtime on a Jetson with JetPack 6, for the engine `tensorrt` (TensorRT 10.3, Python 3.10).
# Not built or run by this project, which has no Jetson: docs/engines-nvidia.md.
# The base is NVIDIA's image l4t-tensorrt for r10.3, by its full name and digest: it has JetPack's
# TensorRT, with the Python package for Python 3.10.
#   docker build -f deploy/docker/jetson.Dockerfile --build-arg BASE=L4T_TENSORRT_IMAGE -t edgecl-device-jetson .
#   docker run --rm --runtime nvidia --read-only --tmpfs /tmp -v /var/lib/edgecl:/var/lib/edgecl edgecl-device-jetson info
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends python3.10 python3.10-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY VERSION ./
COPY deploy deploy
# cuda-bindings 12 is that of JetPack's CUDA; onnxruntime runs `match` and `classify` on the CPU.
RUN python3.10 -m venv --system-site-packages /opt/edgecl \
    && /opt/edgecl/bin/pip install --no-cache-dir "./deploy[cpu,tensorrt]" "cuda-bindings<13" \
    && /opt/edgecl/bin/python -c "import importlib.util as u; assert u.find_spec('tensorrt'), 'the base has no TensorRT for Python 3.10'" \
    && rm -rf /src
RUN groupadd --gid 990 edgecl && useradd --uid 990 --gid edgecl --groups video --no-create-home edgecl-update
USER edgecl-update
ENV PATH=/opt/edgecl/bin:$PATH ORT_DISABLE_TELEMETRY=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgecl-device"]
CMD ["watch", "/var/lib/edgecl/store"]
