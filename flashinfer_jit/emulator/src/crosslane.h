// Direct executors of cross-lane instructions, named by rows of VOP1 and VOP3.
#pragma once
#include "wave.h"

namespace emu {

void exec_readfirstlane(Wave& w, const Inst& i);
void exec_readlane(Wave& w, const Inst& i);
void exec_writelane(Wave& w, const Inst& i);
void exec_swap(Wave& w, const Inst& i);
void exec_permlane16_swap(Wave& w, const Inst& i);
void exec_permlane32_swap(Wave& w, const Inst& i);

}  // namespace emu
