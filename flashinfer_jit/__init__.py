"""JIT-compiled attention kernels for AMD Instinct GPUs, with FlashInfer's API."""

__version__ = "0.1.0"
