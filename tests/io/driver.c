/* As much of NVIDIA's driver as kvikio loads, without a device: "device" memory is memory of the host, copies are made at once,
 * and what needs a device answers that there is none. So cuFile is not used: kvikio reads in its compatibility mode, with pread
 * into buffers of its own, which it copies to the device. Linked as libcuda.so.1, and found by LD_LIBRARY_PATH. */
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201 };

static int something;

/* A thread has no context until the one of the device is bound to it, as the runtime does when a device is chosen; and without one
 * there are no copies. */
static __thread void *context;
void bind_context(void) { context = &something; }

/* A function, under the names that its versions have in the library, which has the same answer to everything. */
#define ANSWERS(name, result) \
  Result name(void) { return result; } \
  Result name##_v2(void) { return result; } \
  Result name##_v3(void) { return result; }

/* One that writes a handle to where its first argument points. */
#define HANDLE(name) \
  Result name(void **to) { *to = &something; return SUCCESS; } \
  Result name##_v2(void **to) { return name(to); } \
  Result name##_v3(void **to) { return name(to); } \
  Result name##_v4(void **to) { return name(to); }

/* One that copies. */
#define COPIES(name) \
  Result name(void *to, const void *from, size_t n, void *stream) { \
    if (!context) return INVALID_CONTEXT; \
    memcpy(to, from, n); \
    return SUCCESS; \
  } \
  Result name##_v2(void *to, const void *from, size_t n, void *stream) { return name(to, from, n, stream); }

ANSWERS(cuInit, SUCCESS)
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDeviceGetCount(int *count) { *count = 0; return SUCCESS; }
Result cuGetErrorName(Result error, const char **text) { *text = "CUDA_ERROR_NO_DEVICE"; return SUCCESS; }
Result cuGetErrorString(Result error, const char **text) { *text = "there is no device"; return SUCCESS; }

Result cuMemHostAlloc(void **to, size_t n, unsigned flags) { return posix_memalign(to, 4096, n) ? OUT_OF_MEMORY : SUCCESS; }
Result cuMemFreeHost(void *memory) { free(memory); return SUCCESS; }
ANSWERS(cuMemHostRegister, SUCCESS)
ANSWERS(cuMemHostUnregister, SUCCESS)
COPIES(cuMemcpyHtoDAsync)
COPIES(cuMemcpyDtoHAsync)
COPIES(cuMemcpyAsync)
Result cuMemcpyBatchAsync(void **to, void **from, size_t *n, size_t count) {
  if (!context) return INVALID_CONTEXT;
  for (size_t i = 0; i < count; ++i) memcpy(to[i], from[i], n[i]);
  return SUCCESS;
}
Result cuMemcpyBatchAsync_v2(void **to, void **from, size_t *n, size_t count) { return cuMemcpyBatchAsync(to, from, n, count); }

Result cuPointerGetAttribute(void *to, int attribute, const void *pointer) { memset(to, 0, 4); return SUCCESS; }
Result cuPointerGetAttributes(unsigned n, int *attributes, void **to, const void *pointer) {
  for (unsigned i = 0; i < n; ++i) memset(to[i], 0, 4);
  return SUCCESS;
}
ANSWERS(cuMemGetAddressRange, NO_DEVICE)

Result cuCtxGetCurrent(void **to) { *to = context; return SUCCESS; }
HANDLE(cuCtxPopCurrent)
HANDLE(cuCtxCreate)
ANSWERS(cuCtxPushCurrent, SUCCESS)
ANSWERS(cuCtxDestroy, SUCCESS)
ANSWERS(cuCtxGetDevice, NO_DEVICE)
ANSWERS(cuDeviceGet, NO_DEVICE)
ANSWERS(cuDeviceGetAttribute, NO_DEVICE)
ANSWERS(cuDevicePrimaryCtxRetain, NO_DEVICE)
ANSWERS(cuDevicePrimaryCtxRelease, SUCCESS)
HANDLE(cuStreamCreate)
ANSWERS(cuStreamDestroy, SUCCESS)
ANSWERS(cuStreamSynchronize, SUCCESS)
HANDLE(cuEventCreate)
ANSWERS(cuEventDestroy, SUCCESS)
ANSWERS(cuEventSynchronize, SUCCESS)
ANSWERS(cuEventRecord, SUCCESS)
ANSWERS(cuEventQuery, SUCCESS)
ANSWERS(cuLaunchHostFunc, NO_DEVICE)
