"""Which modifiers the instructions have: sub-dword and cross-lane operands, op_sel, clamp."""

from emulated.isa_cases import DWORD
from emulated.isa_operands import names

SDWA_SELECTS = (0, 1, 2, 3, 4, 5, DWORD)
# Every control of the manual's DPP_CTRL table, the ranges by samples.
DPP_CONTROLS = (
    *(0x00, 0x1B, 0xB1, 0x4E, 0xE4),
    *(0x101, 0x103, 0x108, 0x10F, 0x111, 0x112, 0x114, 0x118, 0x11F, 0x121, 0x125, 0x128, 0x12F),
    *(0x130, 0x134, 0x138, 0x13C, 0x140, 0x141, 0x142, 0x143, 0x150, 0x153, 0x15F),
)

# Instructions whose result is not one value per lane, or whose manual text forbids sub-dword and cross-lane operands.
NEITHER_SDWA_NOR_DPP = (
    "readfirstlane",
    "swap",
    "permlane",
    "dot",
    "accvgpr",
    "fmamk",
    "fmaak",
    "madmk",
    "madak",
    "clrexcp",
    "fp8",
    "bf8",
)
NO_SDWA = ("_mac_", "_fmac_", "pk_fmac")
# VOP3 instructions of GFX9 and later with 16-bit operands: op_sel picks halves. The e64 copies of VOP1 and VOP2 have
# none.
OP_SEL = names(
    """
    v_mad_f16 v_mad_u16 v_mad_i16 v_fma_f16 v_div_fixup_f16 v_min3_f16 v_min3_i16 v_min3_u16 v_max3_f16 v_max3_i16
    v_max3_u16 v_med3_f16 v_med3_i16 v_med3_u16 v_add_i16 v_sub_i16 v_mad_u32_u16 v_mad_i32_i16 v_pack_b32_f16
    v_cvt_pknorm_i16_f16 v_cvt_pknorm_u16_f16 v_bitop3_b16 v_cvt_sr_f16_f32 v_cvt_sr_bf16_f32
    """
)
# VOP3P instructions that read whole dwords: no halves to select (the manual forbids op_sel on dot products).
WHOLE_DWORDS = ("dot",)
# Integer instructions that saturate under clamp, and floats whose result clamp would not bound.
SATURATING = names(
    """
    v_add_u32 v_sub_u32 v_subrev_u32 v_add_u16 v_sub_u16 v_subrev_u16 v_add_i32 v_sub_i32 v_add_i16 v_sub_i16
    v_mad_u16 v_mad_i16 v_mad_u32_u24 v_mad_i32_i24 v_mad_u32_u16 v_mad_i32_i16 v_pk_add_u16 v_pk_sub_u16
    v_pk_add_i16 v_pk_sub_i16 v_pk_mad_u16 v_pk_mad_i16 v_dot2_i32_i16 v_dot2_u32_u16 v_dot4_i32_i8 v_dot4_u32_u8
    v_dot8_i32_i4 v_dot8_u32_u4
    """
)
NO_CLAMP = names(
    """
    v_frexp_mant_f32 v_frexp_mant_f64 v_frexp_mant_f16 v_cvt_sr_f16_f32 v_cvt_sr_bf16_f32
    """
)
