"""From a configuration to a loaded kernel: arch, config, tiling, params, render, toolchain, cache, compiler, loader, kernels."""
