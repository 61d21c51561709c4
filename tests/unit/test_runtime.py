"""Choosing the runtime, and launching on a GPU runtime that is simulated: no device, no emulator."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from flashinfer_jit import runtime
from flashinfer_jit.errors import HipError, InvalidSettingError, NoDeviceError, UnsupportedConfigError
from flashinfer_jit.runtime import gpu
from flashinfer_jit.runtime.emulated import extent


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(runtime, "_runtimes", {})
    monkeypatch.delenv("FLASHINFER_JIT_DEVICE", raising=False)


@pytest.fixture
def rocm_torch(monkeypatch):
    """A ROCm build of PyTorch that sees two GPUs, as far as this package asks."""
    monkeypatch.setattr(torch.version, "hip", "7.2.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    properties = SimpleNamespace(gcnArchName="gfx950:sramecc+:xnack-")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(gpu, "_raw_stream", lambda index: 0x1000 + index)
    return properties


class FakeHip:
    """The functions of libamdhip64 that launching needs; remembers the device and what was set."""

    def __init__(self, device):
        self.device = device
        self.devices_set = []

    def hipGetDevice(self, pointer):
        pointer._obj.value = self.device
        return 0

    def hipSetDevice(self, index):
        self.device = index
        self.devices_set.append(index)
        return 0

    def hipGetLastError(self):
        return 0


def text_function(texts):
    def function(code):
        return texts.get(code)

    return function


class FakeKernel:
    key = "prefill-f16-d64-g1-q128x64-w4 for gfx950"

    def __init__(self, hip, code=0):
        self.hip, self.code, self.launches = hip, code, []

    def launch_fn(self, params, stream):
        self.launches.append((self.hip.device, stream))
        return self.code


@pytest.fixture
def gpu_runtime(rocm_torch):
    hip = FakeHip(device=1)
    hip.hipGetErrorName = text_function({700: b"hipErrorIllegalAddress"})
    hip.hipGetErrorString = text_function({700: b"an illegal memory access was encountered"})
    active = runtime.current()
    active._library, active._handle = object(), hip
    return active


def tensor_on(index):
    return SimpleNamespace(device=torch.device("cuda", index))


def test_auto_emulates_without_a_rocm_build():
    assert torch.version.hip is None
    active = runtime.current()
    assert (active.kind, active.device_type) == ("emulator", "cpu")
    assert runtime.device() == torch.device("cpu")
    assert runtime.current() is active


def test_setting_is_followed_at_every_call(monkeypatch):
    auto = runtime.current()
    monkeypatch.setenv("FLASHINFER_JIT_DEVICE", "EMULATOR")
    assert runtime.current() is auto
    monkeypatch.setenv("FLASHINFER_JIT_DEVICE", "hip")
    with pytest.raises(NoDeviceError, match=r"needs a ROCm build of PyTorch.*FLASHINFER_JIT_DEVICE=emulator"):
        runtime.current()
    monkeypatch.setenv("FLASHINFER_JIT_DEVICE", "cuda")
    with pytest.raises(InvalidSettingError, match=r"FLASHINFER_JIT_DEVICE='cuda'.*auto, hip or emulator"):
        runtime.current()


def test_rocm_build_without_a_gpu_never_emulates(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.2.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoDeviceError, match=r"sees no GPU.*/dev/kfd.*HIP_VISIBLE_DEVICES"):
        runtime.current()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_platforms_are_told(monkeypatch, system, machine):
    monkeypatch.setattr(runtime.sys, "platform", system)
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    with pytest.raises(NoDeviceError, match=f"Linux on x86-64 only, and this is {system} on {machine}"):
        runtime.current()


def test_rocm_build_with_a_gpu(rocm_torch):
    active = runtime.current()
    assert (active.kind, active.device_type) == ("hip", "cuda")
    assert runtime.device() == torch.device("cuda", 1)
    assert active.arch(torch.device("cuda", 1)).name == "gfx950"


def test_gpu_without_kernels_is_named(rocm_torch):
    rocm_torch.gcnArchName = "gfx1151"
    with pytest.raises(UnsupportedConfigError, match=r"gfx1151.*gfx942, gfx950"):
        runtime.current().arch(torch.device("cuda", 0))


def test_use_stream_is_for_the_emulator(rocm_torch):
    with pytest.raises(UnsupportedConfigError, match=r"torch\.cuda\.stream"), runtime.use_stream(1):
        pass


def test_streams_of_the_emulator_nest():
    active, cpu = runtime.current(), torch.device("cpu")
    with runtime.use_stream(7):
        with runtime.use_stream(9):
            assert active.stream(cpu) == 9
        assert active.stream(cpu) == 7
    assert active.stream(cpu) == 0


def test_launch_on_the_current_device_does_not_switch(gpu_runtime):
    kernel = FakeKernel(gpu_runtime.handle)
    gpu_runtime.launch(kernel, ctypes.c_int(), {"q": tensor_on(1)}, None)
    assert kernel.launches == [(1, 0x1001)]
    assert gpu_runtime.handle.devices_set == []


def test_launch_on_another_device_switches_and_restores(gpu_runtime):
    kernel = FakeKernel(gpu_runtime.handle)
    gpu_runtime.launch(kernel, ctypes.c_int(), {"q": tensor_on(0), "k": tensor_on(0)}, 0x77)
    assert kernel.launches == [(0, 0x77)]
    assert gpu_runtime.handle.devices_set == [0, 1]


def test_failed_launch_is_a_hip_error_and_restores_the_device(gpu_runtime):
    kernel = FakeKernel(gpu_runtime.handle, code=700)
    with pytest.raises(HipError) as caught:
        gpu_runtime.launch(kernel, ctypes.c_int(), {"q": tensor_on(0)}, None)
    error = caught.value
    assert (error.code, error.name) == (700, "hipErrorIllegalAddress")
    assert kernel.key in error.call
    assert "an illegal memory access was encountered" in str(error)
    assert gpu_runtime.handle.device == 1


def test_extent_covers_a_strided_view_and_no_more():
    base = torch.zeros(10, 6, 8, dtype=torch.float16)
    view = base[2:5, 1:3, :4]
    begin, num_bytes = extent(view)
    assert begin == base.data_ptr() + 2 * (2 * 48 + 8)
    assert num_bytes == 2 * (2 * 48 + 1 * 8 + 3 + 1)
    assert extent(base) == (base.data_ptr(), base.numel() * 2)
    assert extent(base[:1].expand(5, 6, 8))[1] == 6 * 8 * 2
    assert extent(base[:0])[1] == 0
