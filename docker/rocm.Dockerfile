# flashinfer_jit on ROCm's PyTorch image, with the kernels of both GPUs compiled at build time: no GPU is needed to build.
#   docker build -f docker/rocm.Dockerfile --build-arg PRESETS=llama-3-8b,qwen3-32b -t flashinfer-jit:rocm .
#   docker run --device /dev/kfd --device /dev/dri --group-add video --ipc host -it flashinfer-jit:rocm
# The tag and its digest (sha256:a3b65813621095e3389269417e963725b59310184588c9d2490d44e6e83fa01c) are those that public
# build files name; hub.docker.com/r/rocm/pytorch/tags has them all. ROCm before 7.0 does not know gfx950.
ARG BASE=rocm/pytorch:rocm7.2_ubuntu24.04_py3.12_pytorch_release_2.9.1
FROM ${BASE}

ARG PRESETS=all
ARG DTYPES=bfloat16
ARG ARCHS=gfx942,gfx950

WORKDIR /opt/flashinfer_jit
COPY pyproject.toml README.md LICENSE ./
COPY templates templates
COPY flashinfer_jit flashinfer_jit
# The image's torch satisfies the dependency; another one would not fit its ROCm. Where python3 is the distribution's own,
# pip wants to be told that this image is nobody else's.
RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir .

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
