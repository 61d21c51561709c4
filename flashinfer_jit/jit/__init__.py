"""From a configuration to a loaded kernel; kernels.py is the entrance, the other modules are its steps."""
