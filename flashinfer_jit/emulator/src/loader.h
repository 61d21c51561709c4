// Loading a code object: one mapping with all segments, relocations, kernel descriptors and metadata.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "code_object.h"

namespace emu {

// Throws Failure: hipErrorInvalidImage for anything malformed, hipErrorNoBinaryForGpu for another GPU's code.
std::unique_ptr<CodeObject> load_code_object(Bytes elf, Arch arch);

// metadata.cpp: the kernels that a metadata note (msgpack) describes; descriptor fields are left empty. Throws Failure.
std::vector<Kernel> parse_metadata(Bytes note);

// The smallest kernarg segment that holds what metadata, descriptor and argument list ask for.
uint32_t kernarg_bytes_needed(const Kernel& kernel);

}  // namespace emu
