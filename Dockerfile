# On a CPU:    docker build -t sarsynth .
# With a card: docker build -t sarsynth-cuda --build-arg BASE=nvidia/cuda:13.0.2-runtime-ubuntu24.04 \
#                  --build-arg TORCH=cuda .
# Run it:      docker run --rm -v "$PWD:/work" sarsynth sarsynth-evaluate doctor=true    (--gpus all with a card)
ARG BASE=debian:trixie-slim
FROM ${BASE}
ARG TORCH=cpu
# Where torch without CUDA is found; it is 2 GB smaller than that of the Python registry, which works too.
ARG CPU_WHEELS=
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PATH=/opt/sarsynth/bin:$PATH HF_HOME=/work/.huggingface
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/sarsynth
# The libraries first: they change less often than the code.
COPY requirements.txt /tmp/requirements.txt
RUN if [ "$TORCH" = cpu ] && [ -n "$CPU_WHEELS" ]; then \
        sed -Ei '/^(nvidia-|cuda-|triton)/d' /tmp/requirements.txt \
        && pip install --index-url "$CPU_WHEELS" $(grep -E '^(torch|torchvision)==' /tmp/requirements.txt); \
    fi && pip install -r /tmp/requirements.txt
COPY pyproject.toml README.md LICENSE /src/
COPY sarsynth /src/sarsynth
RUN pip install --no-deps /src && rm -rf /src
WORKDIR /work
CMD ["sarsynth-evaluate", "--help"]
