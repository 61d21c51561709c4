// prefill_f16_d64_g1_alibi_soft_cap_q128x64_w4: generated for gfx950 (MI350X, MI355X) from templates/prefill.hip.j2.
//   kernel             attention
//   phase              prefill
//   dtype_q            float16
//   dtype_kv           float16
//   dtype_o            float16
//   head_dim_qk        64
//   head_dim_vo        64
//   group_size         1
//   mask_mode          none
//   kv_source          contiguous
//   position_encoding  alibi
//   has_window         False
//   has_soft_cap       True
//   has_sinks          False
//   variant            None
// Tile:
//   block_q            128
//   block_kv           64
//   num_waves          4
//   waves_per_simd     2
//
// O = softmax(Q K^T * sm_scale + mask) V for a tile of query rows against all keys that they see, in one pass over
// K and V (FlashAttention). A wave owns 32 query rows: q_frag and o_acc stay in its registers throughout; the waves of a
// workgroup share each tile of K and V through LDS.
// The part of HIP that kernels use, declared here: AMD's headers cost more to parse than a kernel costs to compile,
// and not every compiler that makes AMDGPU code comes with them.
#ifndef FIJ_MINI_HIP
#define FIJ_MINI_HIP
#ifndef HIP_INCLUDE_HIP_HIP_RUNTIME_H
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
using int8_t = __INT8_TYPE__;
using uint8_t = __UINT8_TYPE__;
using int16_t = __INT16_TYPE__;
using uint16_t = __UINT16_TYPE__;
using int32_t = __INT32_TYPE__;
using uint32_t = __UINT32_TYPE__;
using int64_t = __INT64_TYPE__;
using uint64_t = __UINT64_TYPE__;
using size_t = __SIZE_TYPE__;
using hipError_t = int;
using hipStream_t = struct ihipStream_t*;
constexpr hipError_t hipSuccess = 0;
struct dim3 {
  uint32_t x, y, z;
};
struct hipFuncAttributes {
  int binaryVersion;
  int cacheModeCA;
  size_t constSizeBytes;
  size_t localSizeBytes;
  int maxDynamicSharedSizeBytes;
  int maxThreadsPerBlock;
  int numRegs;
  int preferredShmemCarveout;
  int ptxVersion;
  size_t sharedSizeBytes;
};
extern "C" {
hipError_t hipLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** args, size_t dynamic_lds, hipStream_t);
hipError_t hipFuncGetAttributes(hipFuncAttributes* attributes, const void* kernel);
hipError_t hipOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t lds);
// The compiler's stub of a kernel call refers to these two.
hipError_t __hipPushCallConfiguration(dim3 grid, dim3 block, size_t dynamic_lds, hipStream_t);
hipError_t __hipPopCallConfiguration(dim3* grid, dim3* block, size_t* dynamic_lds, hipStream_t*);
}
#endif
#endif

struct Params {
  const void* q;               // [qo_len, num_qo_heads, head_dim_qk]
  const void* k;               // [kv_len, num_kv_heads, head_dim_qk]
  const void* v;               // [kv_len, num_kv_heads, head_dim_vo]
  void* o;                     // [qo_len, num_qo_heads, head_dim_vo]
  float* lse;                  // [qo_len, num_qo_heads], base 2; null if not wanted
  int64_t q_stride_n;          // elements between tokens of q
  int64_t q_stride_h;          // elements between heads of q
  int64_t k_stride_n;          // elements between tokens of k
  int64_t k_stride_h;          // elements between heads of k
  int64_t v_stride_n;          // elements between tokens of v
  int64_t v_stride_h;          // elements between heads of v
  int64_t o_stride_n;          // elements between tokens of o
  int64_t o_stride_h;          // elements between heads of o
  int32_t qo_len;              // query tokens
  int32_t kv_len;              // keys
  int32_t num_qo_heads;        // heads of q and o
  int32_t num_kv_heads;        // heads of k and v
  float sm_scale_log2;         // softmax scale times log2(e)
  float output_scale;          // factor of o: the scale of v
  float logits_soft_cap;       // cap of the logits
  int32_t window_left;         // keys seen before a token's own
  int32_t num_chunks;          // parts that the keys are split into, 1 for no split
  int32_t kv_chunk_len;        // keys of a part, a multiple of the tile's
  const uint8_t* custom_mask;  // packed bits [qo_len, kv_len], at least 8 bytes
  double rope_frequency;       // revolutions per token of the first pair: 1 / (2 pi rope_scale)
  double rope_decay;           // from one pair to the next: rope_theta^(-2 / head_dim_qk)
  float* partial_o;            // [qo_len, num_chunks, num_qo_heads, head_dim_vo]; null if num_chunks is 1
  float* partial_lse;          // [qo_len, num_chunks, num_qo_heads]
  const float* sinks;          // [num_qo_heads]: logits of keys whose value is 0
  const float* q_scale;        // [num_qo_heads], or one for all: factors of logits; null for 1
  const float* k_scale;        // [num_kv_heads], or one for all: factors of logits; null for 1
  const float* v_scale;        // [num_kv_heads], or one for all: factors of o; null for 1
  int32_t q_scale_stride;      // elements between the q_scale of heads, 0 if one serves all
  int32_t k_scale_stride;      // likewise
  int32_t v_scale_stride;      // likewise
};
static_assert(sizeof(Params) == 232, "the struct that Python fills has this size");
static_assert(__builtin_offsetof(Params, qo_len) == 104);
static_assert(__builtin_offsetof(Params, custom_mask) == 144);
static_assert(__builtin_offsetof(Params, q_scale_stride) == 216);

constexpr int kWaveSize = 64;
constexpr int kBlockQ = 128;
constexpr int kBlockKv = 64;
constexpr int kNumWaves = 4;
constexpr int kThreadsPerBlock = kWaveSize * kNumWaves;
constexpr int kHeadDimQk = 64;
constexpr int kHeadDimVo = 64;
constexpr int kGroupSize = 1;
// The waves of a workgroup share its rows, 32 each, and, where they are more than that takes, the keys of a tile.
constexpr int kRowWaves = kBlockQ / 32;
constexpr int kKeyWaves = kNumWaves / kRowWaves;
constexpr int kKeysPerWave = kBlockKv / kKeyWaves;
static_assert(kRowWaves * kKeyWaves == kNumWaves && kKeysPerWave % 32 == 0);
// Tiles of matrix instructions: 32 keys, 32 columns of the output, 16 elements of the head dim.
constexpr int kKeyBlocks = kKeysPerWave / 32;
constexpr int kColumnBlocks = (kHeadDimVo + 31) / 32;
constexpr int kHeadSteps = kHeadDimQk / 16;

constexpr int min(int a, int b) { return a < b ? a : b; }
constexpr int max(int a, int b) { return a > b ? a : b; }
constexpr int largest_power_of_two(int limit) { return limit < 2 ? 1 : 2 * largest_power_of_two(limit / 2); }

// Matrix instructions. A wave holds the operands of D[m][n] += sum over k of A[m][k] B[k][n] in its registers so that
//   lane l, element i of A (8 elements):      m = l % 32,  k = 8 * (l / 32) + i
//   lane l, element i of B (8 elements):      n = l % 32,  k = 8 * (l / 32) + i
//   lane l, register r of D (16 registers):   n = l % 32,  m = 8 * (r / 4) + 4 * (l / 32) + r % 4
// Two products are chained: S^T = K Q^T (m is a key, n a query row, k runs over the head dim), then O^T = V^T P^T
// (m is an output column, n a query row, k a key). Both times n is the query row, so a lane works for one query row
// throughout, and with the keys of K's rows ordered by key_of_matrix_row below, the registers of S^T are, element by
// element, what the second product wants as B. P never leaves its lane.
template <typename T, int N>
using Vector = T __attribute__((ext_vector_type(N)));
using Element = _Float16;
using Fragment = Vector<Element, 8>;
using Accumulator = Vector<float, 16>;

__device__ __forceinline__ Accumulator multiply_accumulate(Fragment a, Fragment b, Accumulator d) {
  return __builtin_amdgcn_mfma_f32_32x32x16_f16(a, b, d, 0, 0, 0);
}

// The key, within 32, that row m of the first product stands for: bits 2 and 3 change places. Register r of S^T then
// holds key 16 * (r / 8) + 8 * (l / 32) + r % 8, so registers 0..7 and 8..15 are two B operands of the second product.
constexpr int key_of_matrix_row(int m) { return (m & ~12) | ((m & 4) << 1) | ((m & 8) >> 1); }

// The rows of the second product, within 32, stand for columns of the output in such an order that lane l holds the 16
// consecutive columns d = 16 * (l / 32) + r in its registers, which it stores with wide instructions.
constexpr int column_of_matrix_row(int m) { return ((m & 24) >> 1) | ((m & 4) << 2) | (m & 3); }

// Converts 8 probabilities to the operand type.
__device__ __forceinline__ Fragment to_fragment(Vector<float, 8> p) { return __builtin_convertvector(p, Fragment); }
using OutputElement = _Float16;

// LDS holds two stages, each a tile of K and a tile of V: one is worked on while the other is filled.
// What a wave reads at once is served in turns of kBankBytes, so lanes of one turn should meet all banks. The unit of
// placement is a chunk of 8 elements, 16 bytes.
constexpr int kBankBytes = 256;
constexpr int kChunkBytes = 8 * sizeof(Element);
using LdsBytes = __attribute__((address_space(3))) uint8_t;
template <typename T>
using LdsPointer = __attribute__((address_space(3))) T*;

// Rows of kColumns elements. Reading lanes take the same columns of neighbouring rows, kUnit chunks at a time: if the
// chunks of a row are a power of two, chunk c of row r lies at place c ^ swizzle(r); otherwise rows lie an odd number of
// units apart. Rows that meet in a turn then differ in their banks.
template <int kColumns, int kUnit>
struct RowLayout {
  static constexpr int kRowChunks = kColumns / 8;
  static constexpr bool kSwizzled = (kRowChunks & (kRowChunks - 1)) == 0;
  static constexpr int kPitchChunks = kSwizzled ? kRowChunks : (((kRowChunks + kUnit - 1) / kUnit) | 1) * kUnit;
  static constexpr int kPitch = kPitchChunks * kChunkBytes;
  static constexpr int kBytes = kBlockKv * kPitch;

  static constexpr int swizzle(int row) {
    constexpr int kRowsPerTurn = kPitch < kBankBytes ? kBankBytes / kPitch : 1;
    constexpr int kChunksPerTurn = (kPitch < kBankBytes ? kPitch : kBankBytes) / kChunkBytes;
    return kSwizzled ? row / kRowsPerTurn * kUnit & (kChunksPerTurn - 1) : 0;
  }

  // Byte offset of a chunk in the tile.
  static constexpr int place(int row, int chunk) { return row * kPitch + (chunk ^ swizzle(row)) * kChunkBytes; }

  // The place of a chunk that is a multiple of kUnit further right than the one at offset.
  static constexpr int move_right(int offset, int chunks) {
    return kSwizzled ? offset ^ chunks * kChunkBytes : offset + chunks * kChunkBytes;
  }
};

// K: row r of the tile holds the key of matrix row r, see key_of_matrix_row.
using KLayout = RowLayout<kHeadDimQk, 1>;

// Where lane l starts to read A operands of S^T = K Q^T: matrix row l % 32, chunk l / 32 of every step's two.
__device__ __forceinline__ int k_lane_offset(int first_row, int lane) {
  return KLayout::place(first_row + lane % 32, lane / 32);
}

// The A operand of matrix rows 32 * block .. + 31 and head dim elements 16 * step .. + 15.
__device__ __forceinline__ Fragment read_k(const LdsBytes* tile, int lane_offset, int block, int step) {
  const LdsBytes* address = tile + KLayout::move_right(lane_offset, 2 * step) + 32 * block * KLayout::kPitch;
  return *reinterpret_cast<LdsPointer<const Fragment>>(address);
}

// V: row r holds key r. ds_read_b64_tr_b16 transposes while it reads: of 16 lanes, lane 4 * j + c addresses 4 columns of
// row j, and lane i receives, from all four rows, the column that is element i % 4 of what lane i / 4 of each row
// addresses. Two lanes of 16 make 64 bytes of 4 rows, so a unit is 4 chunks.
struct VLayout : RowLayout<kHeadDimVo, 4> {
  // Where lane l starts to read A operands of O^T = V^T P^T: its columns are those of 4 consecutive matrix rows.
  __device__ static int lane_offset(int first_key, int lane) {
    const int matrix_row = 4 * (lane % 4) + 16 * (lane / 16 % 2);
    const int column = column_of_matrix_row(matrix_row);
    const int row = first_key + 8 * (lane / 32) + lane % 16 / 4;
    return place(row, column / 8) + column % 8 * static_cast<int>(sizeof(Element));
  }

  // The A operand of output columns 32 * block .. + 31 and keys 16 * step .. + 15.
  __device__ static Fragment read(LdsBytes* tile, int lane_offset, int block, int step) {
    using Quad = Vector<short, 4>;
    struct Quads {
      Quad low, high;
    } quads;
    LdsBytes* address = tile + move_right(lane_offset, 4 * block) + 16 * step * kPitch;
    quads.low = __builtin_amdgcn_ds_read_tr16_b64_v4i16(reinterpret_cast<LdsPointer<Quad>>(address));
    quads.high = __builtin_amdgcn_ds_read_tr16_b64_v4i16(reinterpret_cast<LdsPointer<Quad>>(address + 4 * kPitch));
    return __builtin_bit_cast(Fragment, quads);
  }
};

// From what K and V are stored as to Element, which every float16 value is exactly.
using KvElement = _Float16;
using KvChunk = Fragment;
__device__ __forceinline__ Fragment to_elements(KvChunk chunk) { return chunk; }
__device__ __forceinline__ uint32_t to_element_pair(uint32_t word, int) { return word; }

// Global memory through buffer descriptors that end at the last byte of the last row: the memory unit gives zero for a row
// past it, so nothing outside the tensor is touched and no NaN from there is met.
using BufferDescriptor = Vector<uint32_t, 4>;

// Describes num_rows rows (none if negative) of row_bytes bytes, stride_bytes apart, from base on.
__device__ __forceinline__ BufferDescriptor describe_rows(uint64_t base, int num_rows, uint32_t stride_bytes,
                                                          uint32_t row_bytes) {
  const uint32_t num_bytes = num_rows > 0 ? (num_rows - 1) * stride_bytes + row_bytes : 0;
  // The last word says: raw 32-bit data, no swizzle.
  return {static_cast<uint32_t>(base), static_cast<uint32_t>(base >> 32) & 0xffffu, num_bytes, 0x00020000u};
}

// The offset is whole in the lane's register: what an instruction adds from a scalar register is not checked for range.
template <typename T>
__device__ __forceinline__ T buffer_load(BufferDescriptor rows, uint32_t offset) {
  const auto base = reinterpret_cast<void*>(rows.x | static_cast<uint64_t>(rows.y) << 32);
  const auto descriptor = __builtin_amdgcn_make_buffer_rsrc(base, 0, rows.z, rows.w);
  if constexpr (sizeof(T) == 16) {
    return __builtin_bit_cast(T, __builtin_amdgcn_raw_buffer_load_b128(descriptor, offset, 0, 0));
  } else if constexpr (sizeof(T) == 8) {
    return __builtin_bit_cast(T, __builtin_amdgcn_raw_buffer_load_b64(descriptor, offset, 0, 0));
  } else {
    return __builtin_bit_cast(T, __builtin_amdgcn_raw_buffer_load_b32(descriptor, offset, 0, 0));
  }
}

// The query heads that share a KV head are packed into rows: row r is query token r / kGroupSize, head r % kGroupSize of
// the group. A tile of K and V then serves them all, and short queries still fill a tile.
struct QueryRow {
  int token;
  int head;
};

__device__ __forceinline__ QueryRow unpack_row(int packed_row, int kv_head) {
  const int token = packed_row / kGroupSize;
  return {token, kv_head * kGroupSize + packed_row - token * kGroupSize};
}

// Online softmax in the domain of exp2: p = 2^(s * scale_log2 - row_max), o_acc and row_sum relative to row_max.
// row_max is a reference, not always the maximum: it moves only when some row's logits exceed it by more than
// kRescaleThreshold. Until then p is at most 2^8, far inside the range of every operand type, and neither o_acc is
// multiplied nor the two lanes of a row are compared. One wave-wide vote decides.
constexpr float kRescaleThreshold = 8.0f;
constexpr float kInfinity = __builtin_inff();
// Below every logit, yet finite: a row without visible keys then gives p = 2^(-inf) = 0 and no inf - inf.
constexpr float kLowestMax = -1.0e30f;

struct RowState {
  float row_max = kLowestMax;
  float row_sum = 0.0f;  // of this lane's half of the keys; the halves are added in the epilogue
};

// The value of the other lane that works for the same query row.
__device__ __forceinline__ float from_other_half(float value) {
  const int other_lane = (__builtin_amdgcn_workitem_id_x() ^ 32) % kWaveSize;
  return __builtin_bit_cast(float, __builtin_amdgcn_ds_bpermute(4 * other_lane, __builtin_bit_cast(int, value)));
}

// Moves row_max, and o_acc and row_sum with it, if a tile of logits asks for it.
__device__ __forceinline__ void update_row_max(const Accumulator (&s_tile)[kKeyBlocks], float scale_log2,
                                               RowState& state, Accumulator (&o_acc)[kColumnBlocks]) {
  float tile_max = -kInfinity;
#pragma unroll
  for (int i = 0; i < 16 * kKeyBlocks; ++i) tile_max = __builtin_fmaxf(tile_max, s_tile[i / 16][i % 16]);
  tile_max *= scale_log2;
  if (__builtin_amdgcn_ballot_w64(tile_max > state.row_max + kRescaleThreshold) != 0) {
    const float new_max = __builtin_fmaxf(state.row_max, __builtin_fmaxf(tile_max, from_other_half(tile_max)));
    const float rescale = __builtin_amdgcn_exp2f(state.row_max - new_max);
    state.row_max = new_max;
    state.row_sum *= rescale;
#pragma unroll
    for (int block = 0; block < kColumnBlocks; ++block) o_acc[block] *= rescale;
  }
}

// An element of P from one of S, accounted for in row_sum.
__device__ __forceinline__ float to_probability(float s, float scale_log2, RowState& state) {
  const float p = __builtin_amdgcn_exp2f(__builtin_fmaf(s, scale_log2, -state.row_max));
  state.row_sum += p;
  return p;
}

// From products of queries and keys to logits in units of log2(e), the base in which the softmax works.
constexpr bool kLogitsAreScaled = true;

// The slope of a query head times log2(e): a geometric series over the heads, from 2^(-8/n) down to 2^-8 for the
// largest power of two n of heads, and the odd members of the series half as steep for the heads beyond.
__device__ __forceinline__ float alibi_slope_log2(int head, int num_heads) {
  const int n = 1 << (31 - __builtin_clz(num_heads));
  const float exponent = head < n ? -8.0f * (head + 1) / n : -4.0f * (2 * (head - n) + 1) / n;
  return __builtin_exp2f(exponent) * 1.4426950408889634f;
}

__device__ __forceinline__ void transform_logits(Accumulator (&s_tile)[kKeyBlocks], const Params& params,
                                                 float scale_log2, float slope_log2, float distance) {
  // cap * tanh(x / cap) with tanh(y) = 1 - 2 / (2^(2 y log2(e)) + 1).
  const float cap_log2 = params.logits_soft_cap * 1.4426950408889634f;
  const float exponent_scale = scale_log2 * (2.0f / params.logits_soft_cap);
#pragma unroll
  for (int block = 0; block < kKeyBlocks; ++block) {
#pragma unroll
    for (int r = 0; r < 16; ++r) {
      const float power = __builtin_amdgcn_exp2f(s_tile[block][r] * exponent_scale);
      float logit = cap_log2 - 2.0f * cap_log2 * __builtin_amdgcn_rcpf(power + 1.0f);
      // distance: from the lane's query token to its first key of the tile.
      logit += slope_log2 * (distance + (32 * block + 16 * (r / 8) + r % 8));
      s_tile[block][r] = logit;
    }
  }
}

// Which keys a query token sees: first .. last, both included, none if last < first. Both grow with the token.
struct KeyRange {
  int first, last;
};
constexpr bool kCausal = false;
constexpr bool kHasWindow = false;

__device__ __forceinline__ KeyRange visible_keys(const Params& params, int token, int qo_len, int kv_len) {
  // The last token stands at the last key: masks are aligned to the bottom right corner.
  const int own_key = token + kv_len - qo_len;
  return {kHasWindow ? max(own_key - params.window_left, 0) : 0, kCausal ? own_key : kv_len - 1};
}

// What the rows of a wave see, from the ranges of its first and its last row.
struct WaveView {
  KeyRange first_row, last_row;

  // Whether any row sees any of these keys, and whether every row sees all of them.
  __device__ __forceinline__ bool touches(int first_key, int last_key) const {
    return first_key <= last_row.last && last_key >= first_row.first;
  }
  __device__ __forceinline__ bool covers(int first_key, int last_key) const {
    return last_key <= first_row.last && first_key >= last_row.first;
  }
};

// Sets the logits of the keys that the lane's row does not see to -inf; first_key is that of the first matrix row.
__device__ __forceinline__ void mask_tile(Accumulator (&s_tile)[kKeyBlocks], int first_key, KeyRange visible,
                                          int lane) {
  const int lane_key = first_key + 8 * (lane / 32);
  const int last = visible.last - lane_key;
  const int first = visible.first - lane_key;
#pragma unroll
  for (int i = 0; i < 16 * kKeyBlocks; ++i) {
    const int key = 16 * (i / 8) + i % 8;
    bool seen = key <= last && (!kHasWindow || key >= first);
    s_tile[i / 16][i % 16] = seen ? s_tile[i / 16][i % 16] : -kInfinity;
  }
}

// The part of the problem that a workgroup does: kBlockQ packed rows of one KV head against a range of keys.
struct Work {
  int qo_len, kv_len;       // of the request
  int kv_head;              // the KV head
  int first_row, num_rows;  // packed rows; num_rows is that of the request
  int first_key, end_key;   // first_key is a multiple of kBlockKv from the beginning of the chunk
  bool is_partial;          // whether the keys are split; then token t's share is first_partial + t * partial_stride
  int first_partial, partial_stride;
  static constexpr int first_token = 0;
};

__device__ __forceinline__ Work find_work(const Params& params) {
  Work work;
  work.qo_len = params.qo_len;
  work.kv_len = params.kv_len;
  work.num_rows = params.qo_len * kGroupSize;
  // Heads are neighbours, so that those of a KV head meet in one L2 where the number of KV heads is a multiple of the
  // number of dies; the last rows, which see most keys under a causal mask, come first.
  const int workgroup = __builtin_amdgcn_workgroup_id_x();
  const int tile_and_chunk = workgroup / params.num_kv_heads;
  const int tile_from_end = tile_and_chunk / params.num_chunks;
  work.kv_head = workgroup - tile_and_chunk * params.num_kv_heads;
  const int chunk = tile_and_chunk - tile_from_end * params.num_chunks;
  work.is_partial = params.partial_o != nullptr;
  work.first_partial = chunk;
  work.partial_stride = params.num_chunks;
  work.first_row = ((work.num_rows - 1) / kBlockQ - tile_from_end) * kBlockQ;

  // Keys that no row of the tile sees are not visited.
  const int last_row = min(work.first_row + kBlockQ, work.num_rows) - 1;
  const int chunk_begin = chunk * params.kv_chunk_len;
  const KeyRange first = visible_keys(params, work.first_row / kGroupSize, work.qo_len, work.kv_len);
  const KeyRange last = visible_keys(params, last_row / kGroupSize, work.qo_len, work.kv_len);
  work.first_key = chunk_begin + max(first.first - chunk_begin, 0) / kBlockKv * kBlockKv;
  work.end_key = min(chunk_begin + params.kv_chunk_len, last.last + 1);
  return work;
}

__device__ __forceinline__ WaveView wave_view(const Params& params, const Work& work, int row_wave) {
  const int first_row = min(work.first_row + row_wave * 32, work.num_rows - 1);
  const int last_row = min(first_row + 31, work.num_rows - 1);
  return {visible_keys(params, first_row / kGroupSize, work.qo_len, work.kv_len),
          visible_keys(params, last_row / kGroupSize, work.qo_len, work.kv_len)};
}

static dim3 launch_grid(const Params& params) {
  const uint32_t num_tiles = (uint32_t(params.qo_len) * kGroupSize + kBlockQ - 1) / kBlockQ;
  return {num_tiles * params.num_chunks * params.num_kv_heads, 1, 1};
}

// A value that is the same in all lanes, moved to a scalar register.
__device__ __forceinline__ uint32_t uniform(uint32_t value) { return __builtin_amdgcn_readfirstlane(value); }

// The rows of K or V of one KV head: row_bytes bytes each, stride_bytes apart.
struct KeyRows {
  uint64_t base;  // of the request's first key
  uint32_t stride_bytes;
  uint32_t row_bytes;
  int num_keys;

  // Describes up to max_keys rows from first_key on; none if it is past the last.
  __device__ __forceinline__ BufferDescriptor describe(int first_key, int max_keys) const {
    const uint64_t first = base + uint64_t(first_key) * stride_bytes;
    return describe_rows(first, min(num_keys - first_key, max_keys), stride_bytes, row_bytes);
  }
};

// Those of the request and KV head that the workgroup has.
__device__ __forceinline__ KeyRows rows_of(const Params& params, const Work& work, const void* tensor, int64_t stride_h,
                                           int64_t stride_n, uint32_t columns) {
  const int64_t first = work.kv_head * stride_h;
  const uint64_t base = reinterpret_cast<uint64_t>(tensor) + first * sizeof(KvElement);
  const uint32_t stride_bytes = stride_n * sizeof(KvElement), row_bytes = columns * sizeof(KvElement);
  return {base, stride_bytes, row_bytes, work.end_key};
}

// An offset past the end of every tile.
constexpr uint32_t kNowhere = 0xfffffff0u;
// Bytes that a lane moves in one direct load from global memory to LDS.
constexpr int kDirectLoadBytes = 16;

// Loads kDirectLoadBytes from offset (one per lane) to LDS at address + lane * kDirectLoadBytes. This is assembly
// because the compiler, when it knows of such a load, waits for it before every later read of LDS, which would
// put the prefetch of the next tile in front of the work on this one. wait_for_tile() waits instead.
__device__ __forceinline__ void load_to_lds(BufferDescriptor rows, uint32_t offset, LdsBytes* address) {
  asm volatile(
      "s_mov_b32 m0, %2\n\t"
      "s_nop 0\n\t"
      "buffer_load_dwordx4 %0, %1, 0 offen lds"
      :
      : "v"(offset), "s"(rows), "s"(address)
      : "memory");
}

// Waits until this wave's loads and LDS writes have arrived, then for all waves of the workgroup: after it, every wave
// sees the tile, and no wave reads the tile before it any more.
__device__ __forceinline__ void wait_for_tile() {
  asm volatile("" ::: "memory");
  // vmcnt(0) lgkmcnt(0), as a builtin: the compiler then knows that nothing is on its way and waits for nothing again.
  __builtin_amdgcn_s_waitcnt(0x70);
  asm volatile("s_barrier" ::: "memory");
}

// Bringing tiles of K and V into LDS. load() sets out for the tile from a key on, store() finishes what load() began;
// between the two the wave computes.

// Rows as they are in memory, by direct loads: nothing is left for store() to do.
// kMatrixOrder: LDS row r receives key key_of_matrix_row(r), otherwise key r.
template <typename Layout, bool kMatrixOrder>
struct DirectTile {
  static constexpr int kLanesPerRow = Layout::kPitch / kDirectLoadBytes;
  static constexpr int kLoadsPerRow = (kLanesPerRow + kWaveSize - 1) / kWaveSize;
  static constexpr int kRowsPerLoad = largest_power_of_two(kWaveSize / kLanesPerRow);
  static constexpr int kRowsPerRound = kNumWaves / kLoadsPerRow * kRowsPerLoad;
  static constexpr int kRounds = (kBlockKv + kRowsPerRound - 1) / kRowsPerRound;
  static_assert(kNumWaves % kLoadsPerRow == 0);

  KeyRows rows;
  uint32_t offsets[kRounds];  // what this lane loads, in bytes from the tile's first key
  int wave_row;               // the first row that this wave loads in the first round
  uint32_t lds_offset;        // where it goes
  bool lane_loads;

  static constexpr int key_of(int row) { return kMatrixOrder ? key_of_matrix_row(row) : row; }

  __device__ __forceinline__ DirectTile(KeyRows key_rows, int wave, int lane) : rows(key_rows) {
    wave_row = wave / kLoadsPerRow * kRowsPerLoad;
    lds_offset = wave_row * Layout::kPitch + wave % kLoadsPerRow * kWaveSize * kDirectLoadBytes;
    const int position = wave % kLoadsPerRow * kWaveSize + lane;
    lane_loads = position < kRowsPerLoad * kLanesPerRow;
    const int byte = position % kLanesPerRow * kDirectLoadBytes;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int row = round * kRowsPerRound + wave_row + position / kLanesPerRow;
      const int key = key_of(row);
      // The space between the rows is never used: an offset past every tile loads nothing.
      const bool in_row = byte < Layout::kRowChunks * kChunkBytes;
      offsets[round] = in_row ? key * rows.stride_bytes + (byte ^ Layout::swizzle(row) * kChunkBytes) : kNowhere;
    }
  }

  __device__ __forceinline__ void load(int first_key, LdsBytes* tile) {
    const BufferDescriptor tile_rows = rows.describe(first_key, kBlockKv);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int first = round * kRowsPerRound;
      if ((kBlockKv % kRowsPerRound == 0 || first + wave_row < kBlockKv) && lane_loads) {
        load_to_lds(tile_rows, offsets[round], tile + lds_offset + first * Layout::kPitch);
      }
    }
  }

  __device__ __forceinline__ void store(LdsBytes*) {}
};

using KTile = DirectTile<KLayout, true>;
using VTile = DirectTile<VLayout, false>;

// Scales of quantised tensors may differ between heads; one for all heads has the stride 0.
__device__ __forceinline__ float logit_scale_log2(const Params& params, int qo_head, int kv_head) {
  float scale_log2 = params.sm_scale_log2;
  if (params.q_scale != nullptr) scale_log2 *= params.q_scale[qo_head * params.q_scale_stride];
  if (params.k_scale != nullptr) scale_log2 *= params.k_scale[kv_head * params.k_scale_stride];
  return scale_log2;
}
__device__ __forceinline__ float value_scale(const Params& params, int kv_head) {
  return params.v_scale != nullptr ? params.v_scale[kv_head * params.v_scale_stride] : 1.0f;
}

// The two products of a tile. LDS answers late, so operands are read this many steps before they are used; the order is
// laid down, because the compiler would move each read to its use to save registers.
constexpr int kReadsAhead = 4;
constexpr int kKReads = kKeyBlocks * kHeadSteps, kVReads = 2 * kKeyBlocks * kColumnBlocks;

// Instructions that access LDS or make d stay on their side of this line. Costs nothing.
__device__ __forceinline__ void keep_order(Accumulator& d) { asm volatile("" : "+v"(d)::"memory"); }

// S^T = K Q^T.
__device__ __forceinline__ void multiply_k_q(const LdsBytes* k_tile, int k_offset, const Fragment (&q_frag)[kHeadSteps],
                                             Accumulator (&s_tile)[kKeyBlocks]) {
  const auto read = [&](int i) { return read_k(k_tile, k_offset, i / kHeadSteps, i % kHeadSteps); };
  Fragment k_frag[kReadsAhead];
#pragma unroll
  for (int i = 0; i < min(kReadsAhead, kKReads); ++i) k_frag[i] = read(i);
  // The other wave of the SIMD has its softmax meanwhile: its instructions fill the gaps that products leave. Where all
  // products add to one block, each waits for the one before, so the other wave's products come after them, too.
  __builtin_amdgcn_s_setprio(kKeyBlocks == 1 ? 2 : 1);
#pragma unroll
  for (int i = 0; i < kKReads; ++i) {
    Accumulator& s = s_tile[i / kHeadSteps];
    s = multiply_accumulate(k_frag[i % kReadsAhead], q_frag[i % kHeadSteps], s);
    if (i + kReadsAhead < kKReads) k_frag[i % kReadsAhead] = read(i + kReadsAhead);
    keep_order(s);
  }
  __builtin_amdgcn_s_setprio(0);
}

// The A operands of O^T += V^T P^T, in the order of their use: all columns for 16 keys, then for the next.
__device__ __forceinline__ Fragment read_v(LdsBytes* v_tile, int v_offset, int i) {
  return VLayout::read(v_tile, v_offset, i % kColumnBlocks, i / kColumnBlocks);
}

// O^T += V^T P^T. While the products of 16 keys run, the probabilities of the next 16 are made.
__device__ __forceinline__ void multiply_v_p(LdsBytes* v_tile, int v_offset, Fragment (&v_frag)[kReadsAhead],
                                             const Accumulator (&s_tile)[kKeyBlocks], float scale_log2, RowState& state,
                                             Accumulator (&o_acc)[kColumnBlocks]) {
  const auto probability = [&](int i) { return to_probability(s_tile[i / 16][i % 16], scale_log2, state); };
  Vector<float, 8> p;
#pragma unroll
  for (int i = 0; i < 8; ++i) p[i] = probability(i);
  Fragment p_frag = to_fragment(p);
  __builtin_amdgcn_s_setprio(1);
#pragma unroll
  for (int i = 0; i < kVReads; ++i) {
    const int block = i % kColumnBlocks, next_keys = 8 * (i / kColumnBlocks + 1);
    o_acc[block] = multiply_accumulate(v_frag[i % kReadsAhead], p_frag, o_acc[block]);
    if (i + kReadsAhead < kVReads) v_frag[i % kReadsAhead] = read_v(v_tile, v_offset, i + kReadsAhead);
    keep_order(o_acc[block]);
    if (next_keys == 16 * kKeyBlocks) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (j * kColumnBlocks / 8 != block) continue;
      float value = probability(next_keys + j);
      asm volatile("" : "+v"(value));  // here, not earlier or later
      p[j] = value;
    }
    if (block == kColumnBlocks - 1) p_frag = to_fragment(p);
  }
  __builtin_amdgcn_s_setprio(0);
}

// The B operands of S^T = K Q^T: a lane holds its query row, 8 of every 16 elements.
__device__ __forceinline__ void load_q(const Params& params, const Work& work, QueryRow row, int lane,
                                       Fragment (&q_frag)[kHeadSteps]) {
  const Element* q = static_cast<const Element*>(params.q) + (work.first_token + row.token) * params.q_stride_n +
                     row.head * params.q_stride_h;
#pragma unroll
  for (int step = 0; step < kHeadSteps; ++step) {
    const int chunk = 2 * step + lane / 32;
    q_frag[step] = *reinterpret_cast<const Fragment*>(q + 8 * chunk);
  }
}

// Stores 16 consecutive columns of every 32 of a row, as many as there are.
template <typename T>
__device__ __forceinline__ void store_columns(const Accumulator (&o_acc)[kColumnBlocks], float factor, T* o, int lane) {
#pragma unroll
  for (int block = 0; block < kColumnBlocks; ++block) {
    using Columns = Vector<T, 16>;
    const int column = 32 * block + 16 * (lane / 32);
    if (column < kHeadDimVo) {
      *reinterpret_cast<Columns*>(o + column) = __builtin_convertvector(o_acc[block] * factor, Columns);
    }
  }
}

// Normalises a lane's row and stores it with its log-sum-exp to base 2: as the result, or, where the keys are split into
// chunks, as the chunk's share of it for merge_states, which then applies output_scale, a number. A row that saw no key has
// row_sum 0: o = 0 and lse = -inf.
__device__ __forceinline__ void store_row(const Params& params, const Work& work,
                                          const Accumulator (&o_acc)[kColumnBlocks], RowState state, QueryRow row,
                                          int lane) {
  float row_sum = state.row_sum + from_other_half(state.row_sum);
  float output_scale = value_scale(params, work.kv_head);
  if (!work.is_partial) output_scale *= params.output_scale;
  const float factor = row_sum == 0.0f ? 0.0f : output_scale / row_sum;
  const float lse = state.row_max + __builtin_amdgcn_logf(row_sum);
  if (work.is_partial) {
    const int64_t partial_row = work.first_partial + int64_t(row.token) * work.partial_stride;
    const int64_t index = partial_row * params.num_qo_heads + row.head;
    store_columns(o_acc, factor, params.partial_o + index * kHeadDimVo, lane);
    if (lane < 32) params.partial_lse[index] = lse;
  } else {
    const int64_t token = int64_t(work.first_token) + row.token;
    OutputElement* o = static_cast<OutputElement*>(params.o) + token * params.o_stride_n + row.head * params.o_stride_h;
    store_columns(o_acc, factor, o, lane);
    if (params.lse != nullptr && lane < 32) params.lse[token * params.num_qo_heads + row.head] = lse;
  }
}

constexpr int kStageBytes = KLayout::kBytes + VLayout::kBytes;
constexpr int kLdsBytes = 2 * kStageBytes;

extern "C" __global__ void
    __attribute__((amdgpu_flat_work_group_size(kThreadsPerBlock, kThreadsPerBlock), amdgpu_waves_per_eu(2, 2)))
    prefill_f16_d64_g1_alibi_soft_cap_q128x64_w4(const Params params) {
  __shared__ __attribute__((aligned(1024))) uint8_t lds_storage[kLdsBytes];
  LdsBytes* const lds = (LdsBytes*)lds_storage;
  const int lane = __builtin_amdgcn_workitem_id_x() % kWaveSize;
  const int wave = uniform(__builtin_amdgcn_workitem_id_x() / kWaveSize);
  const int row_wave = wave % kRowWaves;
  const int key_wave = wave / kRowWaves;

  const Work work = find_work(params);
  const WaveView view = wave_view(params, work, row_wave);

  // This lane's row; lanes past the last row repeat it and store nothing.
  const int packed_row = work.first_row + row_wave * 32 + lane % 32;
  const QueryRow row = unpack_row(min(packed_row, work.num_rows - 1), work.kv_head);
  const KeyRange visible = visible_keys(params, row.token, work.qo_len, work.kv_len);
  const float scale_log2 = logit_scale_log2(params, row.head, work.kv_head);

  // The first tile sets out, then Q: B operands of S^T = K Q^T.
  KTile k_tile(rows_of(params, work, params.k, params.k_stride_h, params.k_stride_n, kHeadDimQk), wave, lane);
  VTile v_tile(rows_of(params, work, params.v, params.v_stride_h, params.v_stride_n, kHeadDimVo), wave, lane);
  k_tile.load(work.first_key, lds);
  v_tile.load(work.first_key, lds + KLayout::kBytes);
  Fragment q_frag[kHeadSteps];
  load_q(params, work, row, lane, q_frag);
  k_tile.store(lds);
  v_tile.store(lds + KLayout::kBytes);
  // Use Q once here: else the compiler waits for it in the loop, and with it for the tile that is on its way there.
#pragma unroll
  for (int step = 0; step < kHeadSteps; ++step) asm volatile("" : "+v"(q_frag[step]));

  const float slope_log2 = alibi_slope_log2(row.head, params.num_qo_heads);
  const int k_offset = k_lane_offset(key_wave * kKeysPerWave, lane);
  const int v_offset = VLayout::lane_offset(key_wave * kKeysPerWave, lane);
  Accumulator o_acc[kColumnBlocks] = {};
  RowState state;
  int stage = 0;
  for (int first_key = work.first_key; first_key < work.end_key; first_key += kBlockKv) {
    LdsBytes* const k_lds = lds + stage;
    LdsBytes* const v_lds = k_lds + KLayout::kBytes;
    wait_for_tile();

    // The next tile sets out for the other stage; after the last one there are no rows to load.
    stage = kStageBytes - stage;
    k_tile.load(first_key + kBlockKv, lds + stage);
    v_tile.load(first_key + kBlockKv, lds + stage + KLayout::kBytes);

    const int wave_first_key = first_key + key_wave * kKeysPerWave;
    const int wave_last_key = wave_first_key + kKeysPerWave - 1;
    if (view.touches(wave_first_key, wave_last_key)) {
      Accumulator s_tile[kKeyBlocks] = {};
      multiply_k_q(k_lds, k_offset, q_frag, s_tile);
      // V sets out from LDS before the softmax needs the time.
      Fragment v_frag[kReadsAhead];
#pragma unroll
      for (int i = 0; i < min(kReadsAhead, kVReads); ++i) v_frag[i] = read_v(v_lds, v_offset, i);
      transform_logits(s_tile, params, scale_log2, slope_log2, wave_first_key + 8 * (lane / 32) - row.token);
      // Only tiles on the edge of what the wave's rows see need a mask.
      if (!view.covers(wave_first_key, wave_last_key)) mask_tile(s_tile, wave_first_key, visible, lane);

      const float factor = kLogitsAreScaled ? 1.0f : scale_log2;
      update_row_max(s_tile, factor, state, o_acc);
      multiply_v_p(v_lds, v_offset, v_frag, s_tile, factor, state, o_acc);
    }
    k_tile.store(lds + stage);
    v_tile.store(lds + stage + KLayout::kBytes);
  }
  if (packed_row < work.num_rows) store_row(params, work, o_acc, state, row, lane);
}

// What the loader calls. The kernel above has defined launch_grid(params) and kThreadsPerBlock.
#define FIJ_EXPORT extern "C" __attribute__((visibility("default")))

// Registers of a lane and bytes, as the driver reports them after it has loaded the code object.
struct FijAttributes {
  int32_t num_registers, lds_bytes, scratch_bytes, max_threads_per_block, blocks_per_cu;
};

FIJ_EXPORT hipError_t fij_launch(const Params* params, hipStream_t stream) {
  const dim3 grid = launch_grid(*params);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return hipSuccess;
  void* args[] = {const_cast<Params*>(params)};
  const void* kernel = reinterpret_cast<const void*>(&prefill_f16_d64_g1_alibi_soft_cap_q128x64_w4);
  return hipLaunchKernel(kernel, grid, dim3{kThreadsPerBlock, 1, 1}, args, 0, stream);
}

FIJ_EXPORT hipError_t fij_prepare(FijAttributes* result) {
  const void* kernel = reinterpret_cast<const void*>(&prefill_f16_d64_g1_alibi_soft_cap_q128x64_w4);
  hipFuncAttributes attributes = {};
  int blocks_per_cu = 0;
  hipError_t error = hipFuncGetAttributes(&attributes, kernel);
  if (error != hipSuccess) return error;
  error = hipOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_cu, kernel, kThreadsPerBlock, 0);
  *result = {attributes.numRegs, static_cast<int32_t>(attributes.sharedSizeBytes),
             static_cast<int32_t>(attributes.localSizeBytes), attributes.maxThreadsPerBlock, blocks_per_cu};
  return error;
}

FIJ_EXPORT int32_t fij_abi_version() { return 1; }
FIJ_EXPORT uint64_t fij_params_size() { return sizeof(Params); }
// clang-format off
FIJ_EXPORT const char* fij_config_json() { return "{\"arch\":\"gfx950\",\"config\":{\"dtype_kv\":\"float16\",\"dtype_o\":\"float16\",\"dtype_q\":\"float16\",\"group_size\":1,\"has_sinks\":false,\"has_soft_cap\":true,\"has_window\":false,\"head_dim_qk\":64,\"head_dim_vo\":64,\"kernel\":\"attention\",\"kv_source\":\"contiguous\",\"mask_mode\":\"none\",\"phase\":\"prefill\",\"position_encoding\":\"alibi\",\"variant\":null},\"tile\":{\"block_kv\":64,\"block_q\":128,\"num_waves\":4,\"waves_per_simd\":2}}"; }
// clang-format on

#ifndef __HIP_DEVICE_COMPILE__
// The module's own start-up code calls atexit, which a library linked without the C start files has to bring itself.
extern "C" int __cxa_atexit(void (*function)(void*), void* argument, void* library);
extern "C" __attribute__((visibility("hidden"))) int atexit(void (*function)()) {
  return __cxa_atexit(reinterpret_cast<void (*)(void*)>(function), nullptr, nullptr);
}
#endif
