"""Valid words for an opcode of any encoding, for tests of the decoder and of refusals."""

from emulated import isa_encoding as code

_LITERAL = 0x40490FDB
_HARDWARE_REGISTER = 0xF801  # hwreg(HW_REG_MODE)
_MASK_RESULTS = (480, 481, 488, 489)  # VOP3 opcodes with a scalar destination: v_div_scale, v_mad_u64_u32
_SEGMENTS = {"FLAT": 0, "SCRATCH": 1, "GLOBAL": 2}
_OFF = 0x7F


def samples(encoding: str, opcode: int, name: str) -> list[list[int]]:
    """Words of an opcode on ordinary registers: one form, or for memory instructions those with fewer operands too."""
    registers = [code.vgpr(8), code.vgpr(10), code.vgpr(12)]
    match encoding:
        case "SOP1":
            return [code.sop1(opcode, 8, 10)]
        case "SOP2":
            return [code.sop2(opcode, 8, 10, 12)]
        case "SOPC":
            return [code.sopc(opcode, 8, 10)]
        case "SOPK":
            simm = _HARDWARE_REGISTER if "reg" in name else 0x1234
            return [code.sopk(opcode, 8, simm) + ([_LITERAL] if name == "s_setreg_imm32_b32" else [])]
        case "SOPP":
            return [code.sopp(opcode)]
        case "VOP1":
            return [code.vop1(opcode, 4, registers[0]), code.vop1(opcode, 0, 0)]
        case "VOP2":
            literal = [_LITERAL] if name.endswith(("mk_f32", "ak_f32", "mk_f16", "ak_f16")) else []
            return [code.vop2(opcode, 4, registers[0], 10) + literal]
        case "VOPC":
            return [code.vopc(opcode, registers[0], 10)]
        case "VOP3":
            if opcode in _MASK_RESULTS:
                return [code.vop3sd(opcode, 4, 20, registers)]
            return [code.vop3(opcode, 4, registers), code.vop3(opcode, 4, registers[:2])]
        case "VOP3P":
            if "mfma" in name or "smfmac" in name:
                return [code.vop3p(opcode, 32, [code.vgpr(8), code.vgpr(16), code.vgpr(64)], op_sel_hi=0)]
            return [code.vop3p(opcode, 4, registers), code.vop3p(opcode, 4, registers[:2], op_sel_hi=3)]
        case "SMEM":
            return [[0x30 << 26 | opcode << 18 | 1 << 17 | 16 << 6 | 4 >> 1, 0], [0x30 << 26 | opcode << 18, 0]]
        case "DS":
            forms = [(8, 10, 12, 20), (8, 10, 12, 0), (8, 10, 0, 20), (8, 10, 0, 0)]
            forms += [(8, 0, 0, 20), (0, 10, 0, 0), (0, 0, 0, 20), (0, 0, 0, 0)]
            gws = int("gws" in name) << 16
            return [[0x36 << 26 | opcode << 17 | gws, a | b << 8 | c << 16 | d << 24] for a, b, c, d in forms]
        case "FLAT" | "GLOBAL" | "SCRATCH":
            low = 0x37 << 26 | opcode << 18 | _SEGMENTS[encoding] << 14 | int(encoding == "SCRATCH") << 13
            saddr = 0 if encoding == "FLAT" else _OFF
            forms = [(8, 10, 20, 1), (8, 10, 20, 0), (8, 0, 20, 0), (8, 10, 0, 0), (8, 0, 0, 0)]
            return [[low | sc0 << 16, a | data << 8 | saddr << 16 | d << 24] for a, data, d, sc0 in forms]
        case "MUBUF":
            lds = int("_lds" in name) << 16
            forms = [(8, 20), (0, 20), (0, 0)]
            return [[0x38 << 26 | opcode << 18 | lds, a | data << 8 | 2 << 16 | 128 << 24] for a, data in forms]
        case "MTBUF":
            return [[0x3A << 26 | opcode << 15 | 1 << 19 | 1 << 23, 8 | 20 << 8 | 2 << 16 | 128 << 24]]
    raise AssertionError(f"no sample of {encoding}")
