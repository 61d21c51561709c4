"""Other libraries' kernels behind this package's functions."""
