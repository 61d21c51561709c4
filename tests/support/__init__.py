"""What several test modules share: a small kernel, a fake compiler, a stub of the HIP runtime."""
