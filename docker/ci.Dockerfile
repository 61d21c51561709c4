# flashinfer_jit without a GPU and without ROCm: kernels are compiled by the ziglang package and run on the emulated GPU.
#   docker build -f docker/ci.Dockerfile -t flashinfer-jit:ci .
#   docker run flashinfer-jit:ci python examples/quickstart.py
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# An index that has PyTorch's CPU builds; empty takes pip's own.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PRESETS=llama-3-8b

RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ make git \
 && rm -rf /var/lib/apt/lists/*
RUN python -m pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch

WORKDIR /opt/flashinfer_jit
COPY . .
RUN python -m pip install --no-cache-dir '.[emulator,cli]'

# Not root: what runs here needs no right beyond its own cache.
RUN useradd --create-home user && chown -R user /opt/flashinfer_jit
USER user
RUN python -m flashinfer_jit.emulator build \
 && python -m flashinfer_jit.warmup --preset "${PRESETS}" --arch gfx942,gfx950 --quiet

ENV FLASHINFER_JIT_DEVICE=emulator
CMD ["python", "examples/quickstart.py"]
