"""The one hierarchy of exceptions: all that this package raises on its own account derives from FlashInferJitError."""


class FlashInferJitError(Exception):
    """Base of all errors of this package."""


class InvalidSettingError(FlashInferJitError, ValueError):
    """An environment variable or a command-line option has a value that is not allowed."""


class UnsupportedConfigError(FlashInferJitError, ValueError):
    """A kernel was asked for that does not exist: the message names the argument, its value and what is allowed."""


class ToolchainNotFoundError(FlashInferJitError):
    """No compiler for AMDGPU code was found: the message lists every place searched and why it did not serve."""


class CompilationError(FlashInferJitError):
    """The compiler failed, hung, or produced something that is not a kernel.

    Attributes
    ----------
    log_path : str or None
        The file with everything the compiler printed.
    command : str or None
        The shell command that repeats the failing step.
    """

    def __init__(self, message: str, log_path: str | None = None, command: str | None = None) -> None:
        super().__init__(message)
        self.log_path = log_path
        self.command = command


class MissingKernelError(FlashInferJitError):
    """A kernel is not compiled yet and compiling is not allowed now: the message gives the warmup command to run."""


class UnsafeCacheError(FlashInferJitError):
    """The cache directory can be written by other users, so that a kernel in it could be anybody's code."""


class CacheLockTimeout(FlashInferJitError, TimeoutError):
    """Another process held the lock of a cache entry for longer than FLASHINFER_JIT_LOCK_TIMEOUT."""


class KernelLoadError(FlashInferJitError):
    """A compiled kernel could not be loaded."""


class HipRuntimeMismatchError(KernelLoadError):
    """Two different HIP runtime libraries are mapped into this process."""


class ArchMismatchError(KernelLoadError):
    """A kernel was compiled for another GPU than the one it is to run on."""


class AbiMismatchError(KernelLoadError):
    """A kernel was built for another version of the launch interface or of its parameter struct."""


class NoDeviceError(FlashInferJitError):
    """There is no device to run on."""


class HipError(FlashInferJitError):
    """A HIP call returned an error.

    Attributes
    ----------
    code : int
        The hipError_t value.
    name : str
        Its name, for example ``hipErrorIllegalAddress``.
    call : str
        What was called.
    """

    def __init__(self, code: int, name: str, call: str, detail: str = "") -> None:
        super().__init__(f"{call} failed: {name} ({code})" + (f": {detail}" if detail else ""))
        self.code = code
        self.name = name
        self.call = call
