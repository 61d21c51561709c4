// Conversion between registers and the typed-buffer formats (data format x number format) of the buffer resource.
#pragma once
#include <cstdint>

namespace emu {

struct BufferFormat {
    uint8_t data = 0, number = 0;   // DFMT and NFMT of the manual's table 41
    bool valid() const;
    uint32_t bytes() const;         // of one element in memory
    int components() const;
    bool is_integer() const { return number == 4 || number == 5; }
};

// One element to (at most four) registers: integers as they are, everything else as f32. Missing components are zero.
void unpack_element(BufferFormat format, const uint8_t* memory, uint32_t out[4]);
// Registers to one element: integers saturate, normalised values are clamped and rounded to nearest.
void pack_element(BufferFormat format, const uint32_t in[4], uint8_t* memory);

}  // namespace emu
