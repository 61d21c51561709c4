// Lane functions that the table in vop3.cpp names and other files define.
#pragma once
#include "wave.h"

namespace emu {

// vop3_bytes.cpp
void perm_b32(const LaneArgs& x);
void alignbit(const LaneArgs& x);
void alignbyte(const LaneArgs& x);
void lerp_u8(const LaneArgs& x);
void sad_u8(const LaneArgs& x);
void sad_hi_u8(const LaneArgs& x);
void sad_u16(const LaneArgs& x);
void sad_u32(const LaneArgs& x);
void msad_u8(const LaneArgs& x);
void qsad_pk_u16_u8(const LaneArgs& x);
void mqsad_pk_u16_u8(const LaneArgs& x);
void exec_mqsad_u32_u8(Wave& w, const Inst& i);
void cvt_pk_u8_f32(const LaneArgs& x);

// vop3_division.cpp
void div_scale_f32(const LaneArgs& x);
void div_scale_f64(const LaneArgs& x);
void div_fmas_f32(const LaneArgs& x);
void div_fmas_f64(const LaneArgs& x);
void div_fixup_f16(const LaneArgs& x);
void div_fixup_f32(const LaneArgs& x);
void div_fixup_f64(const LaneArgs& x);
void trig_preop_f64(const LaneArgs& x);

}  // namespace emu
