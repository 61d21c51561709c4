// What a dispatch hands to a kernel: the kernarg segment with its hidden arguments, the dispatch packet, and the registers that a wave
// starts with (LLVM's AMDGPUUsage: "Kernel Dispatch", "Initial Kernel Execution State", "Kernarg Preload").
#include <algorithm>
#include <cstring>

#include "launch.h"
#include "loader.h"

namespace emu {
namespace {

constexpr uint64_t kPacketBytes = 64, kQueueBytes = 256;
// A kernel without metadata may ask for less than it is given; more than this is no kernarg segment.
constexpr uint64_t kLargestKernarg = 1u << 16;

template <typename T>
void put(uint8_t* at, uint64_t offset, T value) { std::memcpy(at + offset, &value, sizeof value); }

uint32_t dimensions(const LaunchRequest& r) {
    const auto used = [](uint32_t grid, uint32_t block) { return static_cast<uint64_t>(grid) * block > 1; };
    return used(r.grid.z, r.block.z) ? 3 : used(r.grid.y, r.block.y) ? 2 : 1;
}

// Value of a hidden argument. False: a kind that has no value here (no printf, no device heap, no host calls): it stays zero.
bool hidden_value(const std::string& kind, const LaunchRequest& r, const DispatchBlock& block, uint64_t& value) {
    const uint32_t grid[3] = {r.grid.x, r.grid.y, r.grid.z}, size[3] = {r.block.x, r.block.y, r.block.z};
    const int axis = kind.empty() ? 3 : kind.back() - 'x';
    const std::string stem = axis >= 0 && axis < 3 && kind.size() > 2 && kind[kind.size() - 2] == '_' ? kind.substr(0, kind.size() - 2) : "";
    if (stem == "hidden_block_count") value = grid[axis];
    else if (stem == "hidden_group_size") value = size[axis];
    else if (stem == "hidden_remainder" || stem == "hidden_global_offset") value = 0;   // HIP's grids are whole workgroups and start at 0
    else if (kind == "hidden_grid_dims") value = dimensions(r);
    else if (kind == "hidden_dynamic_lds_size") value = r.dynamic_lds;
    else if (kind == "hidden_private_base") value = kPrivateAperture >> 32;
    else if (kind == "hidden_shared_base") value = kSharedAperture >> 32;
    else if (kind == "hidden_queue_ptr") value = block.queue;
    else return false;
    return true;
}

}  // namespace

std::vector<uint8_t> pack_arguments(const Kernel& kernel, void* const* arguments) {
    if (!kernel.has_metadata)
        fail(hipErrorInvalidValue, "kernel '%s' has no metadata that describes its arguments: pass the kernarg bytes through `extra` (HIP_LAUNCH_PARAM_BUFFER_POINTER)", kernel.name.c_str());
    std::vector<uint8_t> bytes(kernel.explicit_bytes, 0);
    size_t n = 0;
    for (const KernelArgument& a : kernel.arguments) {
        if (a.kind.compare(0, 7, "hidden_") == 0) continue;
        if (!arguments || !arguments[n]) fail(hipErrorInvalidValue, "argument %zu of kernel '%s' is missing: its pointer is null", n, kernel.name.c_str());
        std::memcpy(bytes.data() + a.offset, arguments[n++], a.size);
    }
    return bytes;
}

std::vector<uint8_t> copy_argument_buffer(const Kernel& kernel, const void* buffer, uint64_t bytes) {
    if (bytes > kLargestKernarg) fail(hipErrorInvalidValue, "the argument buffer of kernel '%s' has %llu bytes; at most %llu can be passed", kernel.name.c_str(), static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(kLargestKernarg));
    if (bytes < kernel.explicit_bytes)
        fail(hipErrorInvalidValue, "the argument buffer of kernel '%s' is too short: it has %llu bytes and the arguments take %u", kernel.name.c_str(), static_cast<unsigned long long>(bytes), kernel.explicit_bytes);
    if (bytes && !buffer) fail(hipErrorInvalidValue, "the argument buffer of kernel '%s' is null", kernel.name.c_str());
    const uint8_t* from = static_cast<const uint8_t*>(buffer);
    return std::vector<uint8_t>(from, from + bytes);
}

DispatchBlock make_dispatch_block(const LaunchRequest& r) {
    DispatchBlock block;
    const Kernel& k = *r.kernel;
    // Scalar loads come in sizes up to 64 bytes, and compilers widen them: the segment is whole 64-byte lines.
    block.kernarg_bytes = (std::max<uint64_t>(kernarg_bytes_needed(k), r.kernarg.size()) + 63) & ~63ull;
    const uint64_t bytes = block.kernarg_bytes + kPacketBytes + kQueueBytes;
    block.memory.assign(bytes / 8 + 8, 0);
    block.kernarg = (reinterpret_cast<uint64_t>(block.memory.data()) + 63) & ~63ull;
    block.packet = block.kernarg + block.kernarg_bytes;
    block.queue = block.packet + kPacketBytes;
    uint8_t* kernarg = reinterpret_cast<uint8_t*>(block.kernarg);
    if (!r.kernarg.empty()) std::memcpy(kernarg, r.kernarg.data(), r.kernarg.size());
    for (const KernelArgument& a : k.arguments) {
        uint64_t value;
        if (a.kind.compare(0, 7, "hidden_") == 0 && a.size <= 8 && hidden_value(a.kind, r, block, value)) std::memcpy(kernarg + a.offset, &value, a.size);
    }
    uint8_t* packet = reinterpret_cast<uint8_t*>(block.packet);
    put<uint16_t>(packet, 0, 0x0b02);   // kernel dispatch, system-scope acquire and release
    put<uint16_t>(packet, 2, static_cast<uint16_t>(dimensions(r)));
    put<uint16_t>(packet, 4, static_cast<uint16_t>(r.block.x));
    put<uint16_t>(packet, 6, static_cast<uint16_t>(r.block.y));
    put<uint16_t>(packet, 8, static_cast<uint16_t>(r.block.z));
    put<uint32_t>(packet, 12, r.grid.x * r.block.x);
    put<uint32_t>(packet, 16, r.grid.y * r.block.y);
    put<uint32_t>(packet, 20, r.grid.z * r.block.z);
    put<uint32_t>(packet, 24, k.scratch_bytes);
    put<uint32_t>(packet, 28, k.lds_bytes + r.dynamic_lds);
    put<uint64_t>(packet, 32, k.entry);
    put<uint64_t>(packet, 40, block.kernarg);
    uint8_t* queue = reinterpret_cast<uint8_t*>(block.queue);
    put<uint32_t>(queue, 0x40, static_cast<uint32_t>(kSharedAperture >> 32));
    put<uint32_t>(queue, 0x44, static_cast<uint32_t>(kPrivateAperture >> 32));
    return block;
}

void start_wave(Wave& w, const LaunchRequest& r, const DispatchBlock& dispatch, uint64_t dispatch_id) {
    const Kernel& k = *r.kernel;
    // What the kernel declares begins as zero, so that a run can be repeated; the hardware leaves old values. VGPRs come in granules of
    // 8 for both files together (rsrc1), of which the first are VGPRs (rsrc3, granules of 4) and the rest AccVGPRs.
    const uint32_t declared = std::min(512u, ((k.rsrc1 & 0x3f) + 1) * 8), vgprs = std::min(256u, ((k.rsrc3 & 0x3f) + 1) * 4);
    std::memset(w.v, 0, sizeof w.v[0] * std::min(declared, vgprs));
    if (declared > vgprs) std::memset(w.v[256], 0, sizeof w.v[0] * std::min(256u, declared - vgprs));
    std::memset(w.s, 0, sizeof w.s);
    w.scc = 0, w.trap_status = 0, w.gpr_index_mode = 0, w.executed = 0, w.clock = 0;
    w.recent = nullptr;
    w.exec_lanes_of = ~0ull;
    std::fill(w.exec_lanes, w.exec_lanes + kLanes, ~0u);
    w.status = Status::running;

    // MODE: rounding 3:0, denormals 7:4, DX10_CLAMP 8, IEEE 9, FP16_OVFL 23.
    w.mode = (k.rsrc1 >> 12 & 0xff) | (k.rsrc1 >> 21 & 1) << 8 | (k.rsrc1 >> 23 & 1) << 9 | (k.rsrc1 >> 26 & 1) << 23;

    uint16_t next = 0;
    const auto push_pair = [&](int property_bit, uint64_t value, uint16_t dwords = 2) {
        if (!(k.properties >> property_bit & 1)) return;
        if (dwords == 2) w.set_pair(next, value);
        else w.s[next] = static_cast<uint32_t>(value);
        next = static_cast<uint16_t>(next + dwords);
    };
    if (k.properties & 1) next = 4;   // private segment buffer: not used with architected flat scratch
    push_pair(1, dispatch.packet);
    push_pair(2, dispatch.queue);
    push_pair(3, dispatch.kernarg);
    push_pair(4, dispatch_id);
    push_pair(5, 0);                       // flat scratch init
    push_pair(6, k.scratch_bytes, 1);      // private segment size
    const uint32_t preload_dwords = k.preload & 0x7f, preload_offset = k.preload >> 7;
    const uint32_t user_sgprs = k.rsrc2 >> 1 & 0x1f;
    const uint64_t kernarg_dwords = dispatch.kernarg_bytes / 4;
    for (uint32_t n = 0; n < preload_dwords && next < 16; ++n, ++next)
        if (preload_offset + n < kernarg_dwords) std::memcpy(&w.s[next], reinterpret_cast<const uint8_t*>(dispatch.kernarg) + 4 * (preload_offset + n), 4);
    // The descriptor's count places what follows, whatever was pushed above.
    next = static_cast<uint16_t>(user_sgprs);
    for (int d = 0; d < 3; ++d)
        if (k.rsrc2 >> (7 + d) & 1) w.s[next++] = w.group->id[d];
    if (k.rsrc2 >> 10 & 1) w.s[next++] = static_cast<uint32_t>(w.group->waves.size()) & 0x3f;

    const uint32_t threads = r.block.x * r.block.y * r.block.z, first = w.index * kLanes;
    const uint32_t lanes = std::min<uint32_t>(kLanes, threads - first);
    w.set_pair(operand::exec_lo, lanes == kLanes ? ~0ull : (1ull << lanes) - 1);
    uint32_t x = first % r.block.x, y = first / r.block.x % r.block.y, z = first / (r.block.x * r.block.y);
    for (uint32_t l = 0; l < lanes; ++l) {
        w.v[0][l] = x | y << 10 | z << 20;
        if (++x < r.block.x) continue;
        x = 0;
        if (++y == r.block.y) y = 0, ++z;
    }
    // Code with a kernarg preload starts with 256 bytes of loads for firmware that cannot preload.
    w.pc = k.entry + (preload_dwords ? 256 : 0);
    w.next_pc = w.pc;
}

}  // namespace emu
