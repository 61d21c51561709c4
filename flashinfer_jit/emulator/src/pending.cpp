// Tables whose handlers are not written yet, and stream capture. This file goes when they are.
#include "isa.h"
#include "stream.h"

namespace emu {
extern const OpTable kVop1Fp8Table, kVop2Fp8Table, kVop3Fp8Table;
const OpTable kVop3pTable = {Enc::VOP3P, nullptr, 0};
const OpTable kVop1Fp8Table = {Enc::VOP1, nullptr, 0};
const OpTable kVop2Fp8Table = {Enc::VOP2, nullptr, 0};
const OpTable kVop3Fp8Table = {Enc::VOP3, nullptr, 0};
bool is_capturing(const Stream&) { return false; }
void record(Stream&, std::shared_ptr<Operation>) {}
void forbid_while_capturing(const char*) {}
}  // namespace emu
