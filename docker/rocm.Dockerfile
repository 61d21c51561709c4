# flashinfer_jit on ROCm's PyTorch image, with the kernels of both GPUs compiled at build time: no GPU is needed to build.
#   docker build -f docker/rocm.Dockerfile --build-arg PRESETS=llama-3-8b,qwen3-32b -t flashinfer-jit:rocm .
#   docker run --device /dev/kfd --device /dev/dri --group-add video --ipc host -it flashinfer-jit:rocm
ARG BASE=rocm/pytorch:rocm7.0_ubuntu24.04_py3.12_pytorch_release_2.8.0
FROM ${BASE}

ARG PRESETS=all
ARG DTYPES=bfloat16
ARG ARCHS=gfx942,gfx950

WORKDIR /opt/flashinfer_jit
COPY pyproject.toml README.md LICENSE ./
COPY templates templates
COPY flashinfer_jit flashinfer_jit
# The image's torch satisfies the dependency; another one would not fit its ROCm.
RUN python3 -m pip install --no-cache-dir .

# Compiled in a cache of this layer alone; what is shipped is the folder, readable by every user and without a compiler.
RUN FLASHINFER_JIT_CACHE_DIR=/tmp/cache python3 -m flashinfer_jit.warmup \
      --preset "${PRESETS}" --dtype "${DTYPES}" --arch "${ARCHS}" --output /opt/flashinfer_jit/kernels --quiet \
 && rm -rf /tmp/cache

ENV FLASHINFER_JIT_PREBUILT_PATH=/opt/flashinfer_jit/kernels \
    FLASHINFER_JIT_DEVICE=hip

# Fails the build if a kernel that was asked for is missing from the image.
RUN python3 -m flashinfer_jit.warmup --preset "${PRESETS}" --dtype "${DTYPES}" --arch "${ARCHS}" --check --quiet

WORKDIR /workspace
CMD ["python3", "-m", "flashinfer_jit", "collect-env"]
