// The state a wave, a workgroup and a launch carry while machine code runs.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "isa.h"

namespace emu {

constexpr int kLanes = 64;

struct Interval {
    uint64_t begin, end;   // [begin, end)
    uint32_t id;           // index into Counters::buffer_bytes; the launch's registry gives it a name
    bool writable;
};

// The live allocations of one launch, sorted and disjoint. Immutable while the launch runs.
struct MemoryMap {
    std::vector<Interval> intervals;
    const Interval* find(uint64_t address) const;
};

enum class FaultKind : uint8_t {
    none, unknown_opcode, illegal_address, misaligned, lds_out_of_range, scratch_out_of_range, trap, budget, barrier_divergence, unsupported
};

// The first fault of a launch, with all that the error message names.
struct Fault {
    FaultKind kind = FaultKind::none;
    uint64_t pc = 0;          // as a disassembler of the file prints it
    uint64_t address = 0;
    int lane = -1;
    uint32_t bytes = 0;
    bool write = false;
    uint32_t group[3] = {0, 0, 0};
    uint32_t wave = 0;
    std::string instruction, detail;
};

struct BufferBytes { uint64_t read = 0, written = 0; };

// What a launch did. Each worker counts for itself; the launch adds them up.
struct Counters {
    uint64_t instructions[static_cast<int>(Class::count)] = {};
    uint64_t mfma_flops = 0;
    uint64_t global_read = 0, global_written = 0;     // bytes asked for by active lanes
    uint64_t lds_read = 0, lds_written = 0, lds_dma = 0;
    uint64_t scratch_read = 0, scratch_written = 0;
    uint64_t scalar_read = 0;
    uint64_t lds_accesses = 0, lds_conflict_cycles = 0;
    uint64_t out_of_range_buffer_lanes = 0;           // MUBUF lanes beyond num_records: read as zero, not stored
    uint64_t out_of_range_lds_lanes = 0;              // lanes beyond the group's LDS: likewise
    uint64_t waves = 0, workgroups = 0;
    std::vector<BufferBytes> buffer_bytes;            // by Interval::id
    void add(const Counters& other);
};

// Addresses of the memory instruction just executed, for the timing model and the LDS conflict counter. Null in plain runs.
struct MemoryTrace {
    uint64_t exec = 0;
    uint64_t address[kLanes];
    uint32_t bytes = 0;
    bool valid = false;
};

struct CodeObject;   // code_object.h: text segment, decoded pages
struct Launch;
struct Workgroup;

enum class Status : uint8_t { running, at_barrier, ended, yielded, faulted };

struct alignas(64) Wave {
    // Wide operands of hostile code may start at the last register: the slack keeps them inside the array.
    static constexpr int kSlack = 32;
    uint32_t v[512 + kSlack][kLanes];   // VGPRs 0..255, AccVGPRs 256..511 (separate files: accum_offset is not trusted)
    uint32_t s[128 + kSlack];           // by operand code: SGPRs, FLAT_SCRATCH, XNACK_MASK, VCC, TTMP, M0, EXEC
    uint64_t pc = 0, next_pc = 0;  // host addresses inside the loaded text segment
    uint32_t scc = 0;
    uint32_t mode = 0;             // hardware MODE register
    uint32_t trap_status = 0;
    uint32_t gpr_index_mode = 0;   // s_set_gpr_idx_on: bit 0..2 sources, bit 3 destination; 0 = off
    Status status = Status::ended;
    uint32_t index = 0;            // wave number in the workgroup
    uint64_t executed = 0;         // instructions so far, against the budget
    uint64_t clock = 0;            // what s_memtime last returned
    uint64_t exec_lanes_of = ~0ull;          // EXEC value that exec_lanes expands
    alignas(64) uint32_t exec_lanes[kLanes];  // all ones where the lane is active
    Workgroup* group = nullptr;
    Launch* launch = nullptr;
    Counters* counters = nullptr;
    uint8_t* scratch = nullptr;    // [dword][lane][4], scratch_bytes per lane
    uint32_t scratch_bytes = 0;
    const Interval* recent = nullptr;  // last interval hit by a vector access
    MemoryTrace* trace = nullptr;

    uint64_t pair(uint16_t code) const { uint64_t x; std::memcpy(&x, &s[code], 8); return x; }
    void set_pair(uint16_t code, uint64_t x) { std::memcpy(&s[code], &x, 8); }
    uint64_t exec() const { return pair(operand::exec_lo); }
    uint64_t vcc() const { return pair(operand::vcc_lo); }
    uint32_t* reg(uint16_t code) { return v[code - operand::vgpr]; }
    // EXEC as 64 lane words, expanded once per value.
    const uint32_t* active_lanes();
    // Records the launch's first fault and stops the wave.
    void fault(FaultKind kind, const char* detail, uint64_t address = 0, int lane = -1, uint32_t bytes = 0, bool write = false);
};

struct Workgroup {
    Launch* launch = nullptr;
    uint32_t id[3] = {0, 0, 0};
    uint8_t* lds = nullptr;
    uint32_t lds_bytes = 0;
    std::vector<Wave*> waves;
};

// Everything that the waves of one launch share.
struct Launch {
    Arch arch = Arch::gfx942;
    const CodeObject* code = nullptr;
    const char* kernel_name = "";
    uint64_t entry = 0;            // host address of the first instruction
    uint32_t grid[3] = {1, 1, 1};  // workgroups
    uint32_t block[3] = {1, 1, 1}; // work-items
    uint64_t kernarg = 0;          // host address
    uint64_t dispatch_packet = 0;
    const MemoryMap* memory = nullptr;
    uint64_t budget = 0;           // instructions per wave; 0: default
    uint32_t scratch_bytes = 0;
    bool count_conflicts = true;   // LDS bank conflicts: some 20 ns an access, 200 where there are any
    std::atomic<bool> stop{false};
    std::mutex fault_mutex;
    Fault fault;
};

// Apertures of generic (FLAT) addresses; neither can be a host allocation.
constexpr uint64_t kSharedAperture = 0x1000000000000ull << 2, kPrivateAperture = 0x1000000000000ull << 3;

// Scalar operand reads (SGPR, inline constant, literal, special registers).
uint32_t read_scalar32(Wave& w, const Inst& i, uint16_t code);
uint64_t read_scalar64(Wave& w, const Inst& i, uint16_t code, Type type = Type::b64);
// Inline float constant codes 240..248 as the operand's type wants them.
uint64_t inline_constant(uint16_t code, Type type);

// memory_check.cpp: the interval check that every vector and scalar access passes. False: a fault was recorded and nothing may be touched.
// `address` has 64 entries; only lanes of `mask` count. Adds to the byte counters of the intervals hit.
bool check_access(Wave& w, const uint64_t* address, uint64_t mask, uint32_t bytes, bool write);
bool check_scalar_access(Wave& w, uint64_t address, uint32_t bytes, bool write = false);

// valu.cpp: the executors that rows of VOP1/VOP2/VOPC/VOP3/VOP3P name in their `exec` field.
void exec_valu(Wave& w, const Inst& i);         // everything: modifiers, DPP, SDWA, partial EXEC
void exec_valu_plain(Wave& w, const Inst& i);   // chosen by decode: 32-bit operands, no modifier
// Copies a vector or scalar source to 64 dwords (2 x 64 for 64-bit types) without modifiers.
void read_lanes(Wave& w, const Inst& i, uint16_t code, Type type, uint32_t* out);

// interpreter.cpp: runs one wave until it ends, reaches a barrier, faults or has used `slice` instructions.
void run_wave(Wave& w, uint64_t slice);
// Executes exactly one instruction and returns it (timing model, traces).
const Inst* step_wave(Wave& w);

}  // namespace emu
