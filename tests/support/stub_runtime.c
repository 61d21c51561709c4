/* The few HIP functions that a kernel library refers to, recording what they were called with. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint32_t x, y, z; } dim3;

struct record {
  uint32_t registrations, functions, launches, grid[3], block[3];
  uint64_t stream;
  char kernel_name[256];
  unsigned char params[256];
  int next_error;
} fij_stub;

#define MAX_KERNELS 16
static struct { const void* host; char name[256]; } kernels[MAX_KERNELS];

static int find(const void* host) {
  int i = 0;
  while (i < MAX_KERNELS && kernels[i].host != host) ++i;
  return i;
}

void** __hipRegisterFatBinary(const void* wrapper) {
  static void* handle;
  (void)wrapper;
  ++fij_stub.registrations;
  return &handle;
}
void __hipRegisterFunction(void** modules, const void* host, char* device, const char* name, int limit, void* tid,
                           void* bid, void* block, void* grid, int* size) {
  (void)modules, (void)device, (void)limit, (void)tid, (void)bid, (void)block, (void)grid, (void)size;
  int i = find(NULL);
  ++fij_stub.functions;
  kernels[i].host = host;
  strncpy(kernels[i].name, name, sizeof kernels[i].name - 1);
}
void __hipUnregisterFatBinary(void** modules) { (void)modules; }
int __hipPushCallConfiguration(dim3 grid, dim3 block, size_t lds, void* stream) {
  (void)grid, (void)block, (void)lds, (void)stream;
  return 0;
}
int __hipPopCallConfiguration(dim3* grid, dim3* block, size_t* lds, void** stream) {
  (void)grid, (void)block, (void)lds, (void)stream;
  return 0;
}
int hipLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** args, size_t lds, void* stream) {
  int i = find(kernel);
  (void)lds;
  if (i == MAX_KERNELS) return 98; /* hipErrorInvalidDeviceFunction */
  memcpy(fij_stub.kernel_name, kernels[i].name, sizeof kernels[i].name);
  ++fij_stub.launches;
  memcpy(fij_stub.grid, &grid, sizeof grid);
  memcpy(fij_stub.block, &block, sizeof block);
  memcpy(fij_stub.params, args[0], 32);
  fij_stub.stream = (uint64_t)(uintptr_t)stream;
  return fij_stub.next_error;
}
int hipFuncGetAttributes(void* attributes, const void* kernel) {
  struct { int ver, cache; size_t constant, local; int dynamic, threads, regs, carveout, ptx; size_t lds; } a = {0};
  if (find(kernel) == MAX_KERNELS) return 98;
  a.threads = 1024, a.regs = 42, a.lds = 4096, a.local = 16;
  memcpy(attributes, &a, sizeof a);
  return fij_stub.next_error;
}
int hipOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t lds) {
  (void)lds;
  if (find(kernel) == MAX_KERNELS) return 98;
  *blocks = 2048 / threads;
  return 0;
}
