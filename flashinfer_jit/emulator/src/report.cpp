// What a launch did, as JSON, and what stopped it, as a sentence.
#include <cinttypes>

#include "bundle.h"
#include "launch.h"
#include "loader.h"

namespace emu {

void Counters::add(const Counters& o) {
    for (int n = 0; n < static_cast<int>(Class::count); ++n) instructions[n] += o.instructions[n];
    mfma_flops += o.mfma_flops;
    global_read += o.global_read, global_written += o.global_written;
    lds_read += o.lds_read, lds_written += o.lds_written, lds_dma += o.lds_dma;
    scratch_read += o.scratch_read, scratch_written += o.scratch_written;
    scalar_read += o.scalar_read;
    lds_accesses += o.lds_accesses, lds_conflict_cycles += o.lds_conflict_cycles;
    out_of_range_buffer_lanes += o.out_of_range_buffer_lanes, out_of_range_lds_lanes += o.out_of_range_lds_lanes;
    waves += o.waves, workgroups += o.workgroups;
    if (buffer_bytes.size() < o.buffer_bytes.size()) buffer_bytes.resize(o.buffer_bytes.size());
    for (size_t n = 0; n < o.buffer_bytes.size(); ++n) {
        buffer_bytes[n].read += o.buffer_bytes[n].read;
        buffer_bytes[n].written += o.buffer_bytes[n].written;
    }
}

Error error_of(FaultKind kind) {
    switch (kind) {
        case FaultKind::none: return hipSuccess;
        case FaultKind::illegal_address: case FaultKind::misaligned: case FaultKind::lds_out_of_range: case FaultKind::scratch_out_of_range: return hipErrorIllegalAddress;
        case FaultKind::budget: case FaultKind::barrier_divergence: return hipErrorLaunchTimeOut;
        case FaultKind::unsupported: return hipErrorNotSupported;
        // HIP has no code for an illegal instruction or a trap.
        case FaultKind::unknown_opcode: case FaultKind::trap: return hipErrorLaunchFailure;
    }
    return hipErrorUnknown;
}

namespace {

const char* const kFaultNames[] = {"none", "unknown instruction", "illegal address", "misaligned address", "LDS address out of range", "scratch address out of range",
                                   "trap", "instruction budget used up", "barrier not reached by all waves", "not supported by the emulator"};
const char* const kClassNames[] = {"salu", "smem", "branch", "wait", "barrier", "message", "valu", "valu_packed", "valu_trans", "valu_f64", "crosslane", "mfma",
                                   "lds", "vmem_load", "vmem_store", "vmem_atomic", "lds_dma", "scratch", "flat"};
static_assert(sizeof kClassNames / sizeof *kClassNames == static_cast<size_t>(Class::count), "one name for each instruction class");

// Where a wild address lies, relative to the allocation that is nearest to it.
std::string nearest(uint64_t address, uint32_t bytes, const LaunchMemory& memory) {
    const Interval* best = nullptr;
    uint64_t best_distance = ~0ull;
    for (const Interval& i : memory.map.intervals) {
        const uint64_t distance = address < i.begin ? i.begin - address : address >= i.end ? address - i.end : 0;
        if (distance < best_distance) best = &i, best_distance = distance;
    }
    if (!best) return "no memory is registered";
    const BufferName& b = memory.name(best->id);
    const std::string place = format("'%s' [0x%" PRIx64 ", 0x%" PRIx64 ") of %" PRIu64 " bytes", b.name.c_str(), b.begin, b.begin + b.bytes, b.bytes);
    if (best_distance == 0) {
        if (address + bytes > best->end) return format("%" PRIu64 " bytes lie beyond the end of %s", address + bytes - best->end, place.c_str());
        return format("it lies in %s%s", place.c_str(), best->writable ? "" : ", which is read-only");
    }
    if (best_distance > (1ull << 32)) return format("it is far from any memory of this launch; the nearest is %s", place.c_str());
    if (address < best->begin) return format("%" PRIu64 " bytes before the nearest allocation, %s", best_distance, place.c_str());
    return format("%" PRIu64 " bytes after the end of the nearest allocation, %s", best_distance, place.c_str());
}

std::string json_string(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        const unsigned char u = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') out += '\\', out += c;
        else if (u < 0x20 || u >= 0x7f) out += format("\\u%04x", u);
        else out += c;
    }
    return out + "\"";
}

}  // namespace

std::string describe_fault(const LaunchResult& r) {
    const Fault& f = r.fault;
    std::string text = kFaultNames[static_cast<int>(f.kind)];
    text += format(" in kernel '%s' at pc 0x%" PRIx64, r.kernel.c_str(), f.pc);
    if (!f.instruction.empty()) text += format(" (%s)", f.instruction.c_str());
    text += format(", workgroup (%u, %u, %u), wave %u", f.group[0], f.group[1], f.group[2], f.wave);
    if (f.lane >= 0) text += format(", lane %d", f.lane);
    if (f.bytes) text += format(": %s of %u bytes at 0x%" PRIx64, f.write ? "write" : "read", f.bytes, f.address);
    if (f.kind == FaultKind::illegal_address) text += "; " + nearest(f.address, f.bytes, r.memory);
    if (f.kind == FaultKind::budget) text += format(": %" PRIu64 " instructions of one wave without an end; an endless loop?", instruction_budget());
    if (!f.detail.empty()) text += "; " + f.detail;
    return text + format(" [%s]", arch_name(r.arch));
}

std::string report_json(const LaunchResult& r) {
    const Counters& c = r.counters;
    std::string out = "{\"kernel\": " + json_string(r.kernel);
    out += format(", \"arch\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u]", arch_name(r.arch), r.grid.x, r.grid.y, r.grid.z, r.block.x, r.block.y, r.block.z);
    out += format(", \"lds_bytes\": %u, \"scratch_bytes\": %u, \"threads\": %u, \"host_seconds\": %.9f", r.lds_bytes, r.scratch_bytes, r.threads, r.seconds);
    out += ", \"instructions\": {";
    for (int n = 0; n < static_cast<int>(Class::count); ++n) out += format("%s\"%s\": %" PRIu64, n ? ", " : "", kClassNames[n], c.instructions[n]);
    const struct { const char* name; uint64_t value; } numbers[] = {
        {"mfma_flops", c.mfma_flops}, {"global_read", c.global_read}, {"global_written", c.global_written}, {"lds_read", c.lds_read}, {"lds_written", c.lds_written}, {"lds_dma", c.lds_dma},
        {"scratch_read", c.scratch_read}, {"scratch_written", c.scratch_written}, {"scalar_read", c.scalar_read}, {"lds_accesses", c.lds_accesses},
        {"lds_conflict_cycles", c.lds_conflict_cycles}, {"out_of_range_buffer_lanes", c.out_of_range_buffer_lanes},
        {"out_of_range_lds_lanes", c.out_of_range_lds_lanes}, {"waves", c.waves}, {"workgroups", c.workgroups}};
    out += "}";
    for (const auto& n : numbers) out += format(", \"%s\": %" PRIu64, n.name, n.value);
    out += ", \"buffers\": [";
    bool first = true;
    for (uint32_t n = 0; n < c.buffer_bytes.size(); ++n) {
        const BufferBytes b = c.buffer_bytes[n];
        if (!b.read && !b.written) continue;
        const BufferName& buffer = r.memory.name(n);
        out += format("%s{\"name\": %s, \"address\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"read\": %" PRIu64 ", \"written\": %" PRIu64 "}", first ? "" : ", ", json_string(buffer.name).c_str(),
                      buffer.begin, buffer.bytes, b.read, b.written);
        first = false;
    }
    out += "]";
    if (r.timing && r.error == hipSuccess) out += ", \"timing\": " + timing_json(*r.timing);
    out += ", \"error\": ";
    if (r.error == hipSuccess) out += "null";
    else out += format("{\"code\": %d, \"name\": \"%s\", \"fault\": \"%s\", \"text\": %s}", r.error, error_name(r.error), kFaultNames[static_cast<int>(r.fault.kind)], json_string(r.error_text).c_str());
    return out + "}";
}

std::string kernel_json(const Kernel& k) {
    std::string out = "{\"name\": " + json_string(k.name);
    out += format(", \"has_metadata\": %s, \"kernarg_bytes\": %u, \"explicit_bytes\": %u, \"lds_bytes\": %u, \"scratch_bytes\": %u, \"max_workgroup_size\": %u, \"arguments\": [",
                  k.has_metadata ? "true" : "false", kernarg_bytes_needed(k), k.explicit_bytes, k.lds_bytes, k.scratch_bytes, k.max_workgroup_size);
    for (size_t n = 0; n < k.arguments.size(); ++n)
        out += format("%s{\"offset\": %u, \"size\": %u, \"kind\": %s}", n ? ", " : "", k.arguments[n].offset, k.arguments[n].size, json_string(k.arguments[n].kind).c_str());
    return out + "]}";
}

}  // namespace emu
