// Kernel metadata of a code object: the msgpack map in its NT_AMDGPU_METADATA note (LLVM's AMDGPUUsage, "Code Object V3 Metadata").
#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <utility>

#include "loader.h"
#include "failure.h"

namespace emu {
namespace {

// A kernarg segment is some hundred bytes; the architecture's limit is far below this.
constexpr uint64_t kLargestKernarg = 1u << 16;
constexpr int kDeepest = 16;

struct Value {
    enum Kind { nil, boolean, integer, real, text, array, map } kind = nil;
    uint64_t number = 0;
    std::string string;
    std::vector<Value> items;   // map: key, value, key, value ...
    const Value* get(const char* key) const {
        if (kind != map) return nullptr;
        for (size_t n = 0; n + 1 < items.size(); n += 2)
            if (items[n].kind == text && items[n].string == key) return &items[n + 1];
        return nullptr;
    }
};

class Reader {
public:
    explicit Reader(Bytes bytes) : bytes_(bytes) {}

    Value value(int depth = 0) {
        if (depth > kDeepest) damaged("it is nested too deeply");
        const uint8_t tag = static_cast<uint8_t>(number(1));
        Value v;
        if (tag < 0x80 || tag >= 0xe0) {
            v.kind = Value::integer;
            v.number = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(tag)));
        } else if (tag < 0x90) {
            collection(v, Value::map, 2ull * (tag & 15), depth);
        } else if (tag < 0xa0) {
            collection(v, Value::array, tag & 15, depth);
        } else if (tag < 0xc0) {
            string(v, tag & 31);
        } else {
            tagged(v, tag, depth);
        }
        return v;
    }

private:
    void tagged(Value& v, uint8_t tag, int depth) {
        switch (tag) {
            case 0xc0: return;
            case 0xc2: case 0xc3: v.kind = Value::boolean; v.number = tag & 1; return;
            case 0xc4: case 0xc5: case 0xc6: string(v, number(1 << (tag - 0xc4))); return;
            case 0xca: v.kind = Value::real; v.number = number(4); return;
            case 0xcb: v.kind = Value::real; v.number = number(8); return;
            case 0xcc: case 0xcd: case 0xce: case 0xcf: v.kind = Value::integer; v.number = number(1 << (tag - 0xcc)); return;
            case 0xd0: v.kind = Value::integer; v.number = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(number(1)))); return;
            case 0xd1: v.kind = Value::integer; v.number = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int16_t>(number(2)))); return;
            case 0xd2: v.kind = Value::integer; v.number = static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(number(4)))); return;
            case 0xd3: v.kind = Value::integer; v.number = number(8); return;
            case 0xd9: case 0xda: case 0xdb: string(v, number(1 << (tag - 0xd9))); return;
            case 0xdc: case 0xdd: collection(v, Value::array, number(tag == 0xdc ? 2 : 4), depth); return;
            case 0xde: case 0xdf: collection(v, Value::map, 2 * number(tag == 0xde ? 2 : 4), depth); return;
            default: damaged("it has an unknown msgpack type");
        }
    }

    // Big-endian.
    uint64_t number(uint64_t bytes) {
        if (!bytes_.holds(at_, bytes)) damaged("it is truncated");
        uint64_t x = 0;
        for (uint64_t n = 0; n < bytes; ++n) x = x << 8 | bytes_.data[at_ + n];
        at_ += bytes;
        return x;
    }

    void string(Value& v, uint64_t bytes) {
        if (!bytes_.holds(at_, bytes)) damaged("it is truncated");
        v.kind = Value::text;
        v.string.assign(reinterpret_cast<const char*>(bytes_.data + at_), bytes);
        at_ += bytes;
    }

    void collection(Value& v, Value::Kind kind, uint64_t count, int depth) {
        v.kind = kind;
        // Every item takes at least one byte, so that a false count cannot allocate much.
        if (count > bytes_.size - at_) damaged("it is truncated");
        v.items.reserve(count);
        for (uint64_t n = 0; n < count; ++n) v.items.push_back(value(depth + 1));
    }

    [[noreturn]] void damaged(const char* why) const {
        fail(hipErrorInvalidImage, "the code object's metadata cannot be read: %s at byte %" PRIu64 " of %" PRIu64, why, at_, bytes_.size);
    }

    Bytes bytes_;
    uint64_t at_ = 0;
};

uint32_t field(const Value& map, const char* key, uint64_t largest, const std::string& kernel, uint32_t absent = 0) {
    const Value* v = map.get(key);
    if (!v) return absent;
    if (v->kind != Value::integer || v->number > largest)
        fail(hipErrorInvalidImage, "the metadata of kernel '%s' is damaged: %s must be a number of at most %" PRIu64, kernel.c_str(), key, largest);
    return static_cast<uint32_t>(v->number);
}

std::string text_field(const Value& map, const char* key, const std::string& kernel) {
    const Value* v = map.get(key);
    if (!v || v->kind != Value::text || v->string.size() > 65536)
        fail(hipErrorInvalidImage, "the metadata of kernel '%s' is damaged: %s must be a string", kernel.c_str(), key);
    return v->string;
}

Kernel kernel_of(const Value& map) {
    Kernel k;
    k.has_metadata = true;
    k.name = text_field(map, ".name", "?");
    k.symbol = text_field(map, ".symbol", k.name);
    k.kernarg_bytes = field(map, ".kernarg_segment_size", kLargestKernarg, k.name);
    k.lds_bytes = field(map, ".group_segment_fixed_size", ~0u, k.name);
    k.scratch_bytes = field(map, ".private_segment_fixed_size", ~0u, k.name);
    k.max_workgroup_size = field(map, ".max_flat_workgroup_size", ~0u, k.name, 1024);
    const Value* stack = map.get(".uses_dynamic_stack");
    k.dynamic_stack = stack && stack->number;
    if (const Value* arguments = map.get(".args")) {
        if (arguments->kind != Value::array) fail(hipErrorInvalidImage, "the metadata of kernel '%s' is damaged: .args must be an array", k.name.c_str());
        for (const Value& item : arguments->items) {
            KernelArgument a;
            a.offset = field(item, ".offset", kLargestKernarg, k.name);
            a.size = field(item, ".size", kLargestKernarg, k.name);
            a.kind = text_field(item, ".value_kind", k.name);
            if (a.kind.compare(0, 7, "hidden_") != 0) k.explicit_bytes = std::max(k.explicit_bytes, a.offset + a.size);
            k.arguments.push_back(std::move(a));
        }
    }
    return k;
}

}  // namespace

std::vector<Kernel> parse_metadata(Bytes note) {
    const Value root = Reader(note).value();
    const Value* kernels = root.get("amdhsa.kernels");
    std::vector<Kernel> found;
    if (!kernels) return found;
    if (kernels->kind != Value::array) fail(hipErrorInvalidImage, "the code object's metadata is damaged: amdhsa.kernels must be an array");
    for (const Value& item : kernels->items) found.push_back(kernel_of(item));
    return found;
}

uint32_t kernarg_bytes_needed(const Kernel& kernel) {
    uint32_t bytes = std::max(kernel.kernarg_bytes, kernel.explicit_bytes);
    for (const KernelArgument& a : kernel.arguments) bytes = std::max(bytes, a.offset + a.size);
    return bytes;
}

}  // namespace emu
