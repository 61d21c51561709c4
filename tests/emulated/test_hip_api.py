"""The HIP API of the emulated device, called as users call it: through hip-python."""

import contextlib
import ctypes
import os
import signal
import threading

import numpy as np
import pytest

from emulated.assemble import assemble
from flashinfer_jit import emulator
from flashinfer_jit.emulator.library import device_index
from flashinfer_jit.errors import HipError
from flashinfer_jit.runtime.hip import call
from flashinfer_jit.runtime.hip import hip as bound_hip

# c[i] = a[i] + b[i] for i < n; 256 work-items a group.
VECTOR_ADD = """
  s_load_dwordx4 s[8:11], s[0:1], 0x0
  s_load_dwordx2 s[12:13], s[0:1], 0x10
  s_load_dword s14, s[0:1], 0x18
  v_and_b32 v0, 0x3ff, v0
  s_lshl_b32 s2, s2, 8
  v_add_u32 v0, s2, v0
  s_waitcnt lgkmcnt(0)
  v_cmp_gt_i32 vcc, s14, v0
  s_and_saveexec_b64 s[16:17], vcc
  s_cbranch_execz 1f
  v_lshlrev_b32 v1, 2, v0
  global_load_dword v2, v1, s[8:9]
  global_load_dword v3, v1, s[10:11]
  s_waitcnt vmcnt(0)
  v_add_f32 v2, v2, v3
  global_store_dword v1, v2, s[12:13]
1:
  s_endpgm
"""
VECTOR_ADD_ARGUMENTS = ("ptr", "ptr", "ptr", 4)


@pytest.fixture
def hip(arch):
    """hip-python with the emulated GPU of the test as current device, healthy before and after."""
    module = bound_hip()
    emulator.recover()
    call(module.hipSetDevice(device_index(arch)), "hipSetDevice")
    yield module
    emulator.recover()
    call(module.hipSetDevice(0), "hipSetDevice")


def device_array(hip, values: np.ndarray):
    pointer = call(hip.hipMalloc(values.nbytes), "hipMalloc")
    call(hip.hipMemcpy(pointer, values, values.nbytes, hip.hipMemcpyKind.hipMemcpyHostToDevice), "hipMemcpy")
    return pointer


def fetch(hip, pointer, like: np.ndarray) -> np.ndarray:
    out = np.empty_like(like)
    call(hip.hipMemcpy(out, pointer, out.nbytes, hip.hipMemcpyKind.hipMemcpyDeviceToHost), "hipMemcpy")
    return out


# Adds 1 to a counter in memory and waits until all of the launch's groups have done so.
GRID_BARRIER = """
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  s_load_dword s10, s[0:1], 0x8
  v_mov_b32 v1, 0
  v_mov_b32 v2, 1
  s_waitcnt lgkmcnt(0)
  s_mov_b64 exec, 1
  global_atomic_add v1, v2, s[8:9]
1:
  s_sleep 1
  global_load_dword v3, v1, s[8:9] sc0 sc1
  s_waitcnt vmcnt(0)
  v_readfirstlane_b32 s11, v3
  s_cmp_lt_u32 s11, s10
  s_cbranch_scc1 1b
  s_endpgm
"""


@contextlib.contextmanager
def loaded(hip, image: bytes, name: str = "kernel"):
    module = call(hip.hipModuleLoadData(image), "hipModuleLoadData")
    try:
        yield call(hip.hipModuleGetFunction(module, name.encode()), "hipModuleGetFunction")
    finally:
        call(hip.hipModuleUnload(module), "hipModuleUnload")


def launch(hip, function, grid: int, block: int, arguments: tuple, stream=None, shared: int = 0):
    return hip.hipModuleLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, None, arguments)


def test_there_are_two_devices_and_each_says_what_it_is(hip):
    assert call(hip.hipGetDeviceCount(), "hipGetDeviceCount") == 2
    names = []
    for index in range(2):
        properties = call(hip.hipGetDeviceProperties(index), "hipGetDeviceProperties")
        names.append(properties.gcnArchName.split(":")[0])
        assert properties.name.startswith("Emulated MI3")
        assert properties.warpSize == 64 and properties.maxThreadsPerBlock == 1024
    assert names == ["gfx942", "gfx950"]


def test_properties_agree_with_attributes(hip, arch):
    index = device_index(arch)
    properties = call(hip.hipGetDeviceProperties(index), "hipGetDeviceProperties")
    attribute = hip.hipDeviceAttribute_t
    for name, which in {
        "multiProcessorCount": attribute.hipDeviceAttributeMultiprocessorCount,
        "sharedMemPerBlock": attribute.hipDeviceAttributeMaxSharedMemoryPerBlock,
        "clockRate": attribute.hipDeviceAttributeClockRate,
        "l2CacheSize": attribute.hipDeviceAttributeL2CacheSize,
        "cooperativeLaunch": attribute.hipDeviceAttributeCooperativeLaunch,
        "asicRevision": attribute.hipDeviceAttributeAsicRevision,
    }.items():
        value = call(hip.hipDeviceGetAttribute(which, index), "hipDeviceGetAttribute")
        assert value == getattr(properties, name), name
    assert properties.sharedMemPerBlock == {"gfx942": 65536, "gfx950": 163840}[arch]
    assert properties.multiProcessorCount == {"gfx942": 304, "gfx950": 256}[arch]


def test_peers_are_answered_no(hip):
    assert call(hip.hipDeviceCanAccessPeer(0, 1), "hipDeviceCanAccessPeer") == 0
    assert hip.hipDeviceEnablePeerAccess(1, 0)[0] == hip.hipError_t.hipErrorPeerAccessUnsupported


def test_vector_add(hip, arch):
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(1000, dtype=np.float32) for _ in range(2))
    on_device = [device_array(hip, values) for values in (a, b, np.zeros_like(a))]
    with loaded(hip, assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)) as function:
        call(launch(hip, function, 4, 256, (*on_device, ctypes.c_int(1000))), "hipModuleLaunchKernel")
        call(hip.hipDeviceSynchronize(), "hipDeviceSynchronize")
    np.testing.assert_array_equal(fetch(hip, on_device[2], a), a + b)
    for pointer in on_device:
        call(hip.hipFree(pointer), "hipFree")


def test_kernel_params_and_extra_give_the_same(arch):
    library = emulator.load()
    library.hipSetDevice(device_index(arch))
    a, b, c, d = (np.arange(64, dtype=np.float32) + n for n in range(4))
    image = assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)
    emulator.run(image, "kernel", 1, 256, (a, b, c, 64), arch=arch)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.fij_emu_module_load(ctypes.byref(module), image, len(image)) == 0
    assert library.hipModuleGetFunction(ctypes.byref(function), module, b"kernel") == 0
    for array in (a, b, d):
        assert library.hipHostRegister(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), 0) == 0
    values = [ctypes.c_uint64(array.ctypes.data) for array in (a, b, d)] + [ctypes.c_int(64)]
    params = (ctypes.c_void_p * 4)(*(ctypes.addressof(value) for value in values))
    assert library.hipModuleLaunchKernel(function, 1, 1, 1, 256, 1, 1, 0, None, params, None) == 0
    for array in (a, b, d):
        assert library.hipHostUnregister(ctypes.c_void_p(array.ctypes.data)) == 0
    assert library.hipModuleUnload(module) == 0
    library.hipSetDevice(0)
    np.testing.assert_array_equal(c, d)
    np.testing.assert_array_equal(c, a + b)


def test_error_names_and_strings(hip):
    illegal = hip.hipError_t.hipErrorIllegalAddress
    assert str(call(hip.hipGetErrorName(illegal), "hipGetErrorName")) == illegal.name
    assert "illegal memory access" in str(call(hip.hipGetErrorString(illegal), "hipGetErrorString"))
    for error in hip.hipError_t:
        assert str(call(hip.hipGetErrorName(error), "hipGetErrorName")) in (error.name, "hipErrorUnknown")


def test_a_fault_stays_until_the_device_is_reset(hip, arch):
    wild = "v_mov_b32 v2, 0\n v_mov_b32 v3, 0x7fff\n global_load_dword v4, v[2:3], off\n s_waitcnt vmcnt(0)\n s_endpgm"
    illegal = hip.hipError_t.hipErrorIllegalAddress
    with loaded(hip, assemble(wild, arch)) as function:
        assert launch(hip, function, 1, 64, ())[0] == illegal
        assert "global_load_dword" in emulator.last_error() and "lane 0" in emulator.last_error()
        assert hip.hipPeekAtLastError()[0] == illegal
        assert hip.hipGetLastError()[0] == illegal
        assert hip.hipGetLastError()[0] == hip.hipError_t.hipSuccess
        # The device stays broken ...
        assert hip.hipDeviceSynchronize()[0] == illegal
        assert hip.hipMalloc(16)[0] == illegal
        other = 1 - device_index(arch)
        call(hip.hipSetDevice(other), "hipSetDevice")
        assert hip.hipDeviceSynchronize()[0] == hip.hipError_t.hipSuccess
        call(hip.hipSetDevice(device_index(arch)), "hipSetDevice")
        # ... until it is reset.
        call(hip.hipDeviceReset(), "hipDeviceReset")
        call(hip.hipDeviceSynchronize(), "hipDeviceSynchronize")
    hip.hipGetLastError()


def test_errors_survive_calls_that_succeed(hip):
    hip.hipGetLastError()
    assert hip.hipSetDevice(7)[0] == hip.hipError_t.hipErrorInvalidDevice
    hip.hipGetDeviceCount()
    assert hip.hipPeekAtLastError()[0] == hip.hipError_t.hipErrorInvalidDevice
    assert hip.hipGetLastError()[0] == hip.hipError_t.hipErrorInvalidDevice
    assert hip.hipPeekAtLastError()[0] == hip.hipError_t.hipSuccess
    with pytest.raises(HipError, match="there is no device 7"):
        call(hip.hipSetDevice(7), "hipSetDevice")


def test_memory_kinds_and_pointer_attributes(hip, arch):
    kinds = {
        "hipMemoryTypeDevice": (hip.hipMalloc(100), hip.hipFree),
        "hipMemoryTypeHost": (hip.hipHostMalloc(100, 0), hip.hipHostFree),
        "hipMemoryTypeManaged": (hip.hipMallocManaged(100, 1), hip.hipFree),
    }
    for kind, (outcome, free) in kinds.items():
        pointer = call(outcome, kind)
        attributes = call(hip.hipPointerGetAttributes(pointer), "hipPointerGetAttributes")
        assert attributes.type.name == kind
        assert attributes.device == device_index(arch)
        call(free(pointer), "free")
        assert free(pointer)[0] == hip.hipError_t.hipErrorInvalidValue


def test_memory_info_and_out_of_memory(hip):
    free, total = call(hip.hipMemGetInfo(), "hipMemGetInfo")
    pointer = call(hip.hipMalloc(1 << 20), "hipMalloc")
    assert call(hip.hipMemGetInfo(), "hipMemGetInfo") == (free - (1 << 20), total)
    call(hip.hipFree(pointer), "hipFree")
    assert hip.hipMalloc(total + 1)[0] == hip.hipError_t.hipErrorOutOfMemory
    hip.hipGetLastError()


def test_copies_and_fills(hip):
    values = np.arange(64, dtype=np.uint8)
    a, b = device_array(hip, values), device_array(hip, np.zeros_like(values))
    kinds = hip.hipMemcpyKind
    call(hip.hipMemcpyDtoD(b, a, 64), "hipMemcpyDtoD")
    np.testing.assert_array_equal(fetch(hip, b, values), values)
    call(hip.hipMemset(b, 7, 10), "hipMemset")
    call(hip.hipMemsetD8(b, 8, 4), "hipMemsetD8")
    call(hip.hipMemsetD16Async(b, 0x0102, 1, None), "hipMemsetD16Async")
    expected = np.concatenate([[2, 1, 8, 8], np.full(6, 7), values[10:]]).astype(np.uint8)
    np.testing.assert_array_equal(fetch(hip, b, values), expected)
    call(hip.hipMemsetD32(b, 0x04030201, 16), "hipMemsetD32")
    np.testing.assert_array_equal(fetch(hip, b, values), np.tile(np.arange(1, 5, dtype=np.uint8), 16))
    # 4 rows of 8 bytes out of rows of 16
    out = np.zeros((4, 8), dtype=np.uint8)
    call(hip.hipMemcpy2D(out, 8, a, 16, 8, 4, kinds.hipMemcpyDeviceToHost), "hipMemcpy2D")
    np.testing.assert_array_equal(out, values.reshape(4, 16)[:, :8])
    call(hip.hipMemset2D(b, 16, 9, 8, 4), "hipMemset2D")
    np.testing.assert_array_equal(fetch(hip, b, values).reshape(4, 16)[:, :8], 9)
    assert hip.hipMemcpy2D(out, 8, a, 4, 8, 4, kinds.hipMemcpyDeviceToHost)[0] == (
        hip.hipError_t.hipErrorInvalidPitchValue
    )
    for pointer in (a, b):
        call(hip.hipFree(pointer), "hipFree")


def test_copies_that_reach_too_far_are_refused(hip):
    values = np.zeros(64, dtype=np.uint8)
    a = device_array(hip, values)
    with pytest.raises(HipError, match="36 bytes beyond the end"):
        call(hip.hipMemcpy(a, np.zeros(100, dtype=np.uint8), 100, hip.hipMemcpyKind.hipMemcpyHostToDevice), "hipMemcpy")
    with pytest.raises(HipError, match="hipErrorInvalidValue"):
        call(hip.hipMemset(a, 0, 65), "hipMemset")
    # An address that is not mapped at all must not bring the process down.
    with pytest.raises(HipError, match="not mapped"):
        call(hip.hipMemcpy(a, 0x10, 64, hip.hipMemcpyKind.hipMemcpyHostToDevice), "hipMemcpy")
    call(hip.hipFree(a), "hipFree")


def test_streams_and_events(hip):
    stream = call(hip.hipStreamCreateWithFlags(hip.hipStreamNonBlocking), "hipStreamCreateWithFlags")
    assert call(hip.hipStreamGetFlags(stream), "hipStreamGetFlags") == hip.hipStreamNonBlocking
    start, stop = (call(hip.hipEventCreate(), "hipEventCreate") for _ in range(2))
    assert hip.hipEventElapsedTime(start, stop)[0] == hip.hipError_t.hipErrorInvalidHandle
    call(hip.hipEventRecord(start, stream), "hipEventRecord")
    values = np.arange(16, dtype=np.float32)
    pointer = call(hip.hipMallocAsync(values.nbytes, stream), "hipMallocAsync")
    copy = hip.hipMemcpyAsync(pointer, values, values.nbytes, hip.hipMemcpyKind.hipMemcpyHostToDevice, stream)
    call(copy, "hipMemcpyAsync")
    call(hip.hipEventRecord(stop, stream), "hipEventRecord")
    call(hip.hipStreamWaitEvent(stream, start, 0), "hipStreamWaitEvent")
    call(hip.hipStreamSynchronize(stream), "hipStreamSynchronize")
    call(hip.hipStreamQuery(stream), "hipStreamQuery")
    call(hip.hipEventSynchronize(stop), "hipEventSynchronize")
    assert call(hip.hipEventElapsedTime(start, stop), "hipEventElapsedTime") >= 0
    np.testing.assert_array_equal(fetch(hip, pointer, values), values)
    call(hip.hipFreeAsync(pointer, stream), "hipFreeAsync")
    for event in (start, stop):
        call(hip.hipEventDestroy(event), "hipEventDestroy")
    call(hip.hipStreamDestroy(stream), "hipStreamDestroy")
    assert hip.hipStreamSynchronize(stream)[0] == hip.hipError_t.hipErrorInvalidHandle
    hip.hipGetLastError()


def test_a_captured_graph_replays_with_the_buffers_contents_of_the_moment(hip, arch):
    stream = call(hip.hipStreamCreate(), "hipStreamCreate")
    a, b = np.arange(256, dtype=np.float32), np.ones(256, dtype=np.float32)
    on_device = [device_array(hip, values) for values in (a, b, np.zeros_like(a))]
    with loaded(hip, assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)) as function:
        call(hip.hipStreamBeginCapture(stream, hip.hipStreamCaptureMode.hipStreamCaptureModeGlobal), "begin")
        status = call(hip.hipStreamIsCapturing(stream), "hipStreamIsCapturing")
        assert status == hip.hipStreamCaptureStatus.hipStreamCaptureStatusActive
        call(launch(hip, function, 1, 256, (*on_device, ctypes.c_int(256)), stream), "launch")
        # c = a + b, then c = c + b
        call(
            launch(hip, function, 1, 256, (on_device[2], on_device[1], on_device[2], ctypes.c_int(256)), stream),
            "launch",
        )
        graph = call(hip.hipStreamEndCapture(stream), "hipStreamEndCapture")
        np.testing.assert_array_equal(fetch(hip, on_device[2], a), 0)
        executable = call(hip.hipGraphInstantiateWithFlags(graph, 0), "hipGraphInstantiateWithFlags")
        for scale in (1, 2, 3):
            changed = np.full(256, scale, dtype=np.float32)
            kind = hip.hipMemcpyKind.hipMemcpyHostToDevice
            call(hip.hipMemcpy(on_device[1], changed, changed.nbytes, kind), "hipMemcpy")
            call(hip.hipGraphLaunch(executable, stream), "hipGraphLaunch")
            call(hip.hipStreamSynchronize(stream), "hipStreamSynchronize")
            np.testing.assert_array_equal(fetch(hip, on_device[2], a), a + 2 * scale)
        call(hip.hipGraphExecDestroy(executable), "hipGraphExecDestroy")
        call(hip.hipGraphDestroy(graph), "hipGraphDestroy")
    call(hip.hipStreamDestroy(stream), "hipStreamDestroy")


def test_capture_refuses_what_cannot_be_captured(hip):
    stream = call(hip.hipStreamCreate(), "hipStreamCreate")
    errors = hip.hipError_t
    call(hip.hipStreamBeginCapture(stream, hip.hipStreamCaptureMode.hipStreamCaptureModeGlobal), "begin")
    assert hip.hipMalloc(16)[0] == errors.hipErrorStreamCaptureUnsupported
    assert hip.hipStreamEndCapture(stream)[0] == errors.hipErrorStreamCaptureInvalidated
    call(hip.hipStreamBeginCapture(stream, hip.hipStreamCaptureMode.hipStreamCaptureModeGlobal), "begin")
    assert hip.hipStreamSynchronize(stream)[0] == errors.hipErrorStreamCaptureUnsupported
    assert hip.hipStreamEndCapture(stream)[0] == errors.hipErrorStreamCaptureInvalidated
    assert hip.hipStreamBeginCapture(None, hip.hipStreamCaptureMode.hipStreamCaptureModeGlobal)[0] == (
        errors.hipErrorStreamCaptureUnsupported
    )
    call(hip.hipStreamDestroy(stream), "hipStreamDestroy")
    hip.hipGetLastError()


def test_a_second_stream_joins_a_capture_through_events(hip, arch):
    first, second = (call(hip.hipStreamCreate(), "hipStreamCreate") for _ in range(2))
    fork, join = (call(hip.hipEventCreate(), "hipEventCreate") for _ in range(2))
    values = np.arange(64, dtype=np.uint8)
    pointer = device_array(hip, values)
    call(hip.hipStreamBeginCapture(first, hip.hipStreamCaptureMode.hipStreamCaptureModeGlobal), "begin")
    call(hip.hipMemsetAsync(pointer, 1, 64, first), "hipMemsetAsync")
    call(hip.hipEventRecord(fork, first), "hipEventRecord")
    call(hip.hipStreamWaitEvent(second, fork, 0), "hipStreamWaitEvent")
    call(hip.hipMemsetAsync(pointer, 2, 32, second), "hipMemsetAsync")
    call(hip.hipEventRecord(join, second), "hipEventRecord")
    call(hip.hipStreamWaitEvent(first, join, 0), "hipStreamWaitEvent")
    graph = call(hip.hipStreamEndCapture(first), "hipStreamEndCapture")
    executable = call(hip.hipGraphInstantiateWithFlags(graph, 0), "hipGraphInstantiateWithFlags")
    np.testing.assert_array_equal(fetch(hip, pointer, values), values)
    call(hip.hipGraphLaunch(executable, first), "hipGraphLaunch")
    np.testing.assert_array_equal(fetch(hip, pointer, values), np.repeat(np.array([2, 1], np.uint8), 32))
    call(hip.hipGraphExecDestroy(executable), "hipGraphExecDestroy")
    call(hip.hipGraphDestroy(graph), "hipGraphDestroy")
    # Work that is not joined is an error.
    call(hip.hipStreamBeginCapture(first, hip.hipStreamCaptureMode.hipStreamCaptureModeGlobal), "begin")
    call(hip.hipEventRecord(fork, first), "hipEventRecord")
    call(hip.hipStreamWaitEvent(second, fork, 0), "hipStreamWaitEvent")
    call(hip.hipMemsetAsync(pointer, 2, 32, second), "hipMemsetAsync")
    assert hip.hipStreamEndCapture(first)[0] == hip.hipError_t.hipErrorStreamCaptureUnjoined
    hip.hipGetLastError()
    call(hip.hipFree(pointer), "hipFree")


def test_function_attributes_and_occupancy(hip, arch):
    image = assemble("s_endpgm", arch, lds=16384, vgprs=128, accum_offset=128, max_workgroup_size=512)
    with loaded(hip, image) as function:
        attribute = hip.hipFunction_attribute
        expected = {
            attribute.HIP_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: 16384,
            attribute.HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: 512,
            attribute.HIP_FUNC_ATTRIBUTE_NUM_REGS: 128,
            attribute.HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: 0,
        }
        for which, value in expected.items():
            assert call(hip.hipFuncGetAttribute(which, function), "hipFuncGetAttribute") == value
        # 128 registers: 4 waves a SIMD, so 16 waves a compute unit; LDS allows 4 groups on gfx942 and 10 on gfx950.
        groups = hip.hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(function, 64, 0)
        assert call(groups, "occupancy") == {"gfx942": 4, "gfx950": 10}[arch]
        groups = hip.hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(function, 512, 0)
        assert call(groups, "occupancy") == 2


def test_launches_from_several_threads_at_once(hip, arch):
    image = assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)
    failures = []

    def work(seed: int) -> None:
        try:
            rng = np.random.default_rng(seed)
            for _ in range(20):
                a, b = (rng.standard_normal(700, dtype=np.float32) for _ in range(2))
                c = np.zeros_like(a)
                report = emulator.run(image, "kernel", 3, 256, (a, b, c, 700), arch=arch)
                np.testing.assert_array_equal(c, a + b)
                assert report.workgroups == 3 and report.global_written == 2800
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_can_launch(arch):
    image = assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)
    a, b, c = np.ones(2000, np.float32), np.ones(2000, np.float32), np.zeros(2000, np.float32)
    emulator.run(image, "kernel", 8, 256, (a, b, c, 2000), arch=arch)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            c[:] = 0
            emulator.run(image, "kernel", 8, 256, (a, b, c, 2000), arch=arch)
            status = 0 if (c == 2).all() else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_host_memory_must_be_registered(hip, arch):
    a, b, c = (np.full(64, n, np.float32) for n in (1, 2, 0))
    with loaded(hip, assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)) as function:
        arguments = (*(ctypes.c_void_p(array.ctypes.data) for array in (a, b, c)), ctypes.c_int(64))
        with pytest.raises(HipError, match="hipErrorIllegalAddress"):
            call(launch(hip, function, 1, 256, arguments), "launch")
        for array in (a, b, c):
            call(hip.hipHostRegister(array, array.nbytes, 0), "hipHostRegister")
            assert hip.hipHostRegister(array, 4, 0)[0] == hip.hipError_t.hipErrorHostMemoryAlreadyRegistered
        call(launch(hip, function, 1, 256, arguments), "launch")
        for array in (a, b, c):
            call(hip.hipHostUnregister(array), "hipHostUnregister")
        assert hip.hipHostUnregister(a)[0] == hip.hipError_t.hipErrorHostMemoryNotRegistered
    np.testing.assert_array_equal(c, 3)
    hip.hipGetLastError()


def test_memory_of_the_other_device_is_out_of_reach(hip, arch):
    values = np.ones(64, np.float32)
    call(hip.hipSetDevice(1 - device_index(arch)), "hipSetDevice")
    foreign = device_array(hip, values)
    call(hip.hipSetDevice(device_index(arch)), "hipSetDevice")
    own = device_array(hip, values)
    with loaded(hip, assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)) as function:
        with pytest.raises(HipError, match="hipErrorIllegalAddress"):
            call(launch(hip, function, 1, 256, (own, foreign, own, ctypes.c_int(64))), "launch")
        call(launch(hip, function, 1, 256, (own, own, own, ctypes.c_int(64))), "launch")
    # Copies between devices go through the host and work.
    call(hip.hipMemcpyPeer(foreign, 1 - device_index(arch), own, device_index(arch), values.nbytes), "hipMemcpyPeer")
    np.testing.assert_array_equal(fetch(hip, foreign, values), 2)
    for pointer in (own, foreign):
        call(hip.hipFree(pointer), "hipFree")


def test_module_variables_can_be_found_and_set(hip, arch):
    text = f"""
.amdgcn_target "amdgcn-amd-amdhsa--{arch}"
.amdhsa_code_object_version 5
.text
.globl kernel
.p2align 8
.type kernel,@function
kernel:
  s_getpc_b64 s[4:5]
  s_add_u32 s4, s4, answer@gotpcrel32@lo+4
  s_addc_u32 s5, s5, answer@gotpcrel32@hi+12
  s_load_dwordx2 s[4:5], s[4:5], 0x0
  s_waitcnt lgkmcnt(0)
  s_load_dword s6, s[4:5], 0x0
  v_mov_b32 v1, 0
  s_waitcnt lgkmcnt(0)
  v_mov_b32 v2, s6
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  s_waitcnt lgkmcnt(0)
  global_store_dword v1, v2, s[8:9]
  s_endpgm
.data
.globl answer
.type answer,@object
.p2align 2
answer: .long 41
.size answer, 4
.rodata
.p2align 6
.amdhsa_kernel kernel
  .amdhsa_user_sgpr_kernarg_segment_ptr 1
  .amdhsa_next_free_vgpr 8
  .amdhsa_next_free_sgpr 16
  .amdhsa_accum_offset 8
.end_amdhsa_kernel
"""
    out = device_array(hip, np.zeros(1, np.int32))
    module = call(hip.hipModuleLoadData(assemble(text, arch)), "hipModuleLoadData")
    function = call(hip.hipModuleGetFunction(module, b"kernel"), "hipModuleGetFunction")
    pointer, size = call(hip.hipModuleGetGlobal(module, b"answer"), "hipModuleGetGlobal")
    assert size == 4
    np.testing.assert_array_equal(fetch(hip, pointer, np.zeros(1, np.int32)), 41)
    for value in (41, 42):
        new = np.array([value], np.int32)
        call(hip.hipMemcpyHtoD(pointer, new, 4), "hipMemcpyHtoD")
        call(launch(hip, function, 1, 1, (out,)), "launch")
        np.testing.assert_array_equal(fetch(hip, out, new), value)
    assert hip.hipModuleGetGlobal(module, b"question")[0] == hip.hipError_t.hipErrorNotFound
    assert hip.hipModuleGetFunction(module, b"question")[0] == hip.hipError_t.hipErrorNotFound
    call(hip.hipModuleUnload(module), "hipModuleUnload")
    assert launch(hip, function, 1, 1, (out,))[0] == hip.hipError_t.hipErrorInvalidHandle
    call(hip.hipFree(out), "hipFree")
    hip.hipGetLastError()


def test_the_groups_of_a_cooperative_launch_run_at_once(arch):
    library = emulator.load()
    index = device_index(arch)
    library.hipSetDevice(index)
    image = assemble(GRID_BARRIER, arch, arguments=("ptr", 4))
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.fij_emu_module_load(ctypes.byref(module), image, len(image)) == 0
    assert library.hipModuleGetFunction(ctypes.byref(function), module, b"kernel") == 0
    counter = np.zeros(1, np.uint32)
    assert library.hipHostRegister(ctypes.c_void_p(counter.ctypes.data), ctypes.c_size_t(4), 0) == 0
    groups = 100
    values = (ctypes.c_uint64(counter.ctypes.data), ctypes.c_uint32(groups))
    params = (ctypes.c_void_p * 2)(*(ctypes.addressof(value) for value in values))
    library.hipModuleLaunchCooperativeKernel.argtypes = library.hipModuleLaunchKernel.argtypes[:-1]
    assert library.hipModuleLaunchCooperativeKernel(function, groups, 1, 1, 64, 1, 1, 0, None, params) == 0
    assert counter[0] == groups
    too_many = library.hipModuleLaunchCooperativeKernel(function, 1 << 20, 1, 1, 64, 1, 1, 0, None, params)
    assert too_many == 720 and "fit" in emulator.last_error()
    assert library.hipHostUnregister(ctypes.c_void_p(counter.ctypes.data)) == 0
    assert library.hipModuleUnload(module) == 0
    library.hipSetDevice(0)
    library.hipGetLastError()


def test_a_pool_counts_what_it_gave(hip, arch):
    pool = call(hip.hipDeviceGetDefaultMemPool(device_index(arch)), "hipDeviceGetDefaultMemPool")
    used = np.zeros(1, np.uint64)
    which = hip.hipMemPoolAttr.hipMemPoolAttrUsedMemCurrent
    call(hip.hipMemPoolGetAttribute(pool, which, used), "hipMemPoolGetAttribute")
    before = int(used[0])
    pointer = call(hip.hipMallocAsync(4096, None), "hipMallocAsync")
    call(hip.hipMemPoolGetAttribute(pool, which, used), "hipMemPoolGetAttribute")
    assert used[0] == before + 4096
    call(hip.hipFreeAsync(pointer, None), "hipFreeAsync")
    call(hip.hipMemPoolGetAttribute(pool, which, used), "hipMemPoolGetAttribute")
    assert used[0] == before


def test_host_functions_run_in_the_order_of_the_stream(hip):
    seen = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(data))
    stream = call(hip.hipStreamCreate(), "hipStreamCreate")
    library = emulator.load()
    handle = ctypes.c_void_p(int(stream))
    assert library.hipLaunchHostFunc(handle, callback, ctypes.c_void_p(5)) == 0
    assert seen == [5]
    call(hip.hipStreamBeginCapture(stream, hip.hipStreamCaptureMode.hipStreamCaptureModeRelaxed), "begin")
    assert library.hipLaunchHostFunc(handle, callback, ctypes.c_void_p(6)) == 0
    graph = call(hip.hipStreamEndCapture(stream), "hipStreamEndCapture")
    assert seen == [5]
    executable = call(hip.hipGraphInstantiateWithFlags(graph, 0), "hipGraphInstantiateWithFlags")
    for _ in range(2):
        call(hip.hipGraphLaunch(executable, stream), "hipGraphLaunch")
    assert seen == [5, 6, 6]
    call(hip.hipGraphExecDestroy(executable), "hipGraphExecDestroy")
    call(hip.hipGraphDestroy(graph), "hipGraphDestroy")
    call(hip.hipStreamDestroy(stream), "hipStreamDestroy")


def test_graphs_built_by_hand(hip, arch):
    """Fill, then add, then copy out; parameters of the executable graph change without building it again."""
    values = np.arange(64, dtype=np.float32)
    a, b = device_array(hip, values), device_array(hip, np.zeros_like(values))
    out = np.zeros_like(values)
    library = emulator.load()
    image = assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.fij_emu_module_load(ctypes.byref(module), image, len(image)) == 0
    assert library.hipModuleGetFunction(ctypes.byref(function), module, b"kernel") == 0

    class KernelNodeParams(ctypes.Structure):
        _fields_ = (
            ("block", ctypes.c_uint32 * 3),
            ("extra", ctypes.c_void_p),
            ("function", ctypes.c_void_p),
            ("grid", ctypes.c_uint32 * 3),
            ("params", ctypes.c_void_p),
            ("shared_bytes", ctypes.c_uint32),
        )

    def kernel_node(*pointers):
        holder = [*(ctypes.c_uint64(int(p)) for p in pointers), ctypes.c_int(64)]
        params = (ctypes.c_void_p * 4)(*(ctypes.addressof(value) for value in holder))
        node = KernelNodeParams(
            (ctypes.c_uint32 * 3)(256, 1, 1),
            None,
            function,
            (ctypes.c_uint32 * 3)(1, 1, 1),
            ctypes.addressof(params),
            0,
        )
        node.keep = (holder, params)
        return node

    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    fill, add, copy = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert library.hipGraphCreate(ctypes.byref(graph), 0) == 0
    # b = 1.0 everywhere
    memset = (ctypes.c_uint64 * 6)(int(b), 4, 1, 0, 0x3F800000, 64)
    assert library.hipGraphAddMemsetNode(ctypes.byref(fill), graph, None, ctypes.c_size_t(0), memset) == 0
    node = kernel_node(a, b, b)
    assert (
        library.hipGraphAddKernelNode(
            ctypes.byref(add), graph, ctypes.byref(fill), ctypes.c_size_t(1), ctypes.byref(node)
        )
        == 0
    )
    copy_arguments = (ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(int(b)), ctypes.c_size_t(out.nbytes), 2)
    one = ctypes.c_size_t(1)
    assert library.hipGraphAddMemcpyNode1D(ctypes.byref(copy), graph, ctypes.byref(add), one, *copy_arguments) == 0
    assert library.hipGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_uint64(0)) == 0
    assert library.hipGraphLaunch(executable, None) == 0
    np.testing.assert_array_equal(out, values + 1)
    node = kernel_node(a, a, b)
    assert library.hipGraphExecKernelNodeSetParams(executable, add, ctypes.byref(node)) == 0
    assert library.hipGraphLaunch(executable, None) == 0
    np.testing.assert_array_equal(out, 2 * values)
    assert library.hipGraphNodeSetEnabled(executable, add, 0) == 0
    assert library.hipGraphLaunch(executable, None) == 0
    np.testing.assert_array_equal(out, 1)
    count = ctypes.c_size_t(0)
    assert library.hipGraphGetEdges(graph, None, None, ctypes.byref(count)) == 0 and count.value == 2
    # An edge back makes a cycle, which cannot run.
    edge = (ctypes.c_void_p(copy.value), ctypes.c_void_p(fill.value))
    assert library.hipGraphAddDependencies(graph, ctypes.byref(edge[0]), ctypes.byref(edge[1]), ctypes.c_size_t(1)) == 0
    other = ctypes.c_void_p()
    assert library.hipGraphInstantiateWithFlags(ctypes.byref(other), graph, ctypes.c_uint64(0)) == 1
    assert "cycle" in emulator.last_error()
    assert library.hipGraphExecDestroy(executable) == 0 and library.hipGraphDestroy(graph) == 0
    assert library.hipModuleUnload(module) == 0
    for pointer in (a, b):
        call(hip.hipFree(pointer), "hipFree")
    hip.hipGetLastError()


def test_streams_of_several_threads_at_once(hip, arch):
    image = assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)
    failures = []

    def work(seed: int) -> None:
        try:
            call(hip.hipSetDevice(device_index(arch)), "hipSetDevice")
            stream = call(hip.hipStreamCreateWithFlags(hip.hipStreamNonBlocking), "hipStreamCreateWithFlags")
            rng = np.random.default_rng(seed)
            a, b = (rng.standard_normal(700, dtype=np.float32) for _ in range(2))
            on_device = [device_array(hip, values) for values in (a, b, np.zeros_like(a))]
            with loaded(hip, image) as function:
                for _ in range(20):
                    call(launch(hip, function, 3, 256, (*on_device, ctypes.c_int(700)), stream), "launch")
                call(hip.hipStreamSynchronize(stream), "hipStreamSynchronize")
            np.testing.assert_array_equal(fetch(hip, on_device[2], a), a + b)
            for pointer in on_device:
                call(hip.hipFree(pointer), "hipFree")
            call(hip.hipStreamDestroy(stream), "hipStreamDestroy")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_launches(arch):
    """The child can use and free everything, though the launching thread is not there any more."""
    library = emulator.load()
    image = assemble(VECTOR_ADD, arch, arguments=VECTOR_ADD_ARGUMENTS)
    busy, stop = threading.Event(), threading.Event()

    def launch_on() -> None:
        arrays = [np.ones(5000, np.float32) for _ in range(3)]
        while not stop.is_set():
            emulator.run(image, "kernel", 20, 256, (*arrays, 5000), arch=arch)
            busy.set()

    thread = threading.Thread(target=launch_on)
    thread.start()
    try:
        assert busy.wait(60)
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(60)
                    a, b, c = np.ones(300, np.float32), np.ones(300, np.float32), np.zeros(300, np.float32)
                    emulator.run(image, "kernel", 2, 256, (a, b, c, 300), arch=arch)
                    pointer = ctypes.c_void_p()
                    assert library.hipMalloc(ctypes.byref(pointer), ctypes.c_size_t(64)) == 0
                    assert library.hipFree(pointer) == 0
                    status = 0 if (c == 2).all() else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        stop.set()
        thread.join()


def test_an_allocation_that_overflows_does_not_come_back_small(hip):
    pitch_width, rows = 1 << 40, 1 << 40
    assert hip.hipMallocPitch(pitch_width, rows)[0] == hip.hipError_t.hipErrorOutOfMemory
    hip.hipGetLastError()
