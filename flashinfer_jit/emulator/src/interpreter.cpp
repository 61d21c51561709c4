// The run loop of one wave, scalar operand reads and fault recording.
#include "code_object.h"
#include "wave.h"

namespace emu {

const uint32_t* Wave::active_lanes() {
    const uint64_t now = exec();
    if (now != exec_lanes_of) {
        exec_lanes_of = now;
        for (int l = 0; l < kLanes; ++l) exec_lanes[l] = 0u - static_cast<uint32_t>(now >> l & 1);
    }
    return exec_lanes;
}

void Wave::fault(FaultKind kind, const char* detail, uint64_t address, int lane, uint32_t bytes, bool write) {
    status = Status::faulted;
    std::lock_guard<std::mutex> lock(launch->fault_mutex);
    Fault& f = launch->fault;
    if (f.kind != FaultKind::none) return;
    f.kind = kind;
    const CodeObject* code = launch->code;
    f.pc = code ? pc - code->text_begin + code->text_vaddr : pc;
    f.address = address, f.lane = lane, f.bytes = bytes, f.write = write, f.wave = index;
    if (group)
        for (int d = 0; d < 3; ++d) f.group[d] = group->id[d];
    if (detail) f.detail = detail;
    if (const Inst* i = code ? code->at(pc) : nullptr) {
        char text[96];
        describe(*i, text, sizeof text);
        f.instruction = text;
    }
    launch->stop.store(true, std::memory_order_relaxed);
}

uint64_t inline_constant(uint16_t code, Type type) {
    static const float values[9] = {0.5f, -0.5f, 1.0f, -1.0f, 2.0f, -2.0f, 4.0f, -4.0f, 0.15915494f};
    static const uint16_t halves[9] = {0x3800, 0xb800, 0x3c00, 0xbc00, 0x4000, 0xc000, 0x4400, 0xc400, 0x3118};
    const int k = code - operand::inline_float;
    // Packed integers see the 32-bit constant (LLVM encodes <0, 0x3f80> as 1.0), packed halves a half in the low 16 bits.
    if (type == Type::f16 || type == Type::pk16f || type == Type::b16) return halves[k];
    uint32_t single;
    std::memcpy(&single, &values[k], 4);
    if (type == Type::bf16 || type == Type::pkbf16) return single >> 16;
    if (type_dwords(type) == 2 && type != Type::pkf32 && type != Type::mask) {
        // 1/(2 pi) has its own double constant; the others convert exactly.
        if (k == 8) return 0x3fc45f306dc9c882ull;
        const double wide = values[k];
        uint64_t out;
        std::memcpy(&out, &wide, 8);
        return out;
    }
    return single;
}

uint32_t read_scalar32(Wave& w, const Inst& i, uint16_t code) {
    if (code < 128) return w.s[code];
    if (code <= 192) return code - 128u;
    if (code <= 208) return static_cast<uint32_t>(192 - code);
    switch (code) {
        case operand::literal: return i.literal;
        case operand::shared_limit: case operand::private_limit: return 0xffffffffu;
        case operand::shared_base: case operand::private_base: return 0;   // low half; the base is read as a pair
        case operand::vccz: return w.vcc() == 0;
        case operand::execz: return w.exec() == 0;
        case operand::scc: return w.scc;
        default: break;
    }
    if (code >= operand::inline_float && code <= 248) return static_cast<uint32_t>(inline_constant(code, Type::f32));
    w.fault(FaultKind::unsupported, code == operand::lds_direct ? "src_lds_direct as a source" : "reserved source operand");
    return 0;
}

uint64_t read_scalar64(Wave& w, const Inst& i, uint16_t code, Type type) {
    if (code < 127) return w.pair(code);
    if (code >= 128 && code <= 192) return code - 128u;
    if (code > 192 && code <= 208) return static_cast<uint64_t>(static_cast<int64_t>(192 - code));
    switch (code) {
        case operand::literal:
            if (type == Type::f64) return static_cast<uint64_t>(i.literal) << 32;
            if (type == Type::i64) return static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(i.literal)));
            return i.literal;
        case operand::shared_base: return kSharedAperture;
        case operand::shared_limit: return kSharedAperture + 0xffffffffu;
        case operand::private_base: return kPrivateAperture;
        case operand::private_limit: return kPrivateAperture + 0xffffffffu;
        default: break;
    }
    if (code >= operand::inline_float && code <= 248) return inline_constant(code, type);
    return read_scalar32(w, i, code);
}

namespace {

// s_set_gpr_idx: VGPR operands of VALU instructions move by M0[7:0] while the mode is on. An accumulator is read where it is written.
void exec_indexed(Wave& w, const Inst& original) {
    Inst i = original;
    const uint32_t by = w.s[operand::m0] & 0xff;
    const auto move = [&](uint16_t& code) {
        if (code >= operand::vgpr && code < operand::acc) code = static_cast<uint16_t>(operand::vgpr + ((code - operand::vgpr + by) & 0xff));
    };
    for (int k = 0; k < 3; ++k)
        if (w.gpr_index_mode >> k & 1) move(i.src[k]);
    if (w.gpr_index_mode >> 3 & 1) move(i.dst);
    if (i.op->flags & kAccumulates) i.src[2] = i.dst;
    i.exec(w, i);
}

bool is_valu(Enc enc) { return enc == Enc::VOP1 || enc == Enc::VOP2 || enc == Enc::VOPC || enc == Enc::VOP3 || enc == Enc::VOP3P; }

inline const Inst* execute_next(Wave& w, const CodeObject& code) {
    const Inst* i = code.at(w.pc);
    if (!i) {
        w.fault(FaultKind::illegal_address, "program counter outside the code object's text", w.pc, -1, 4);
        return nullptr;
    }
    w.next_pc = w.pc + i->size;
    ++w.counters->instructions[static_cast<int>(i->op->cls)];
    if (w.gpr_index_mode && is_valu(i->enc)) exec_indexed(w, *i);
    else i->exec(w, *i);
    // A faulted wave keeps its pc: that is what the message names.
    if (w.status != Status::faulted) w.pc = w.next_pc;
    return i;
}

}  // namespace

void run_wave(Wave& w, uint64_t slice) {
    const CodeObject& code = *w.launch->code;
    uint64_t left = slice;
    w.status = Status::running;
    while (left && w.status == Status::running) {
        execute_next(w, code);
        --left;
    }
    w.executed += slice - left;
    if (w.status == Status::running) w.status = Status::yielded;
}

const Inst* step_wave(Wave& w) {
    w.status = Status::running;
    const Inst* i = execute_next(w, *w.launch->code);
    ++w.executed;
    return i;
}

}  // namespace emu
