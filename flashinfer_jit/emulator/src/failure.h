// How every part of the emulated device says that something cannot be done: a HIP error code with the sentence that explains it.
#pragma once
#include <string>

#include "hip_abi.h"

namespace emu {

struct Failure {
    Error code;
    std::string message;
};

// printf-style; throws Failure.
[[noreturn]] void fail(Error code, const char* format, ...) __attribute__((format(printf, 2, 3)));
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emu
