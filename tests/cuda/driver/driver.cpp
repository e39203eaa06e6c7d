// A CUDA driver on the host's memory: what candle and cudarc call of libcuda. Kernels are interpreted from their PTX.
//
// Every call is done when it returns, so streams and events order nothing here. A kernel that faults leaves its error to
// all later calls, as on a GPU.
#include "driver.hpp"

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <set>

#include "memory.hpp"

namespace {

// The GPU that it claims to be.
constexpr int CAPABILITY = 90, MULTIPROCESSORS = 4;
constexpr unsigned MOST_THREADS = 1024, MOST_SHARED = 48 * 1024;

struct Kernel {
    const ptx::Module* module;
    const ptx::Function* function;
};
struct Event {
    double milliseconds = 0;
};

std::map<std::string, std::unique_ptr<ptx::Module>> modules;  // by text
std::map<const ptx::Function*, Kernel> kernels;
std::set<Event*> events;
int context, stream;
const CUcontext CONTEXT = reinterpret_cast<CUcontext>(&context);
thread_local CUcontext current;
thread_local CUresult sticky = CUDA_SUCCESS;

CUresult refuse(CUresult code, const std::string& why) {
    complain(why);
    return code;
}

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of the driver's calls, each of which begins with it.
#define CALL count_call(__func__)
#define CALL_IN_CONTEXT \
    CALL;               \
    if (current != CONTEXT) return refuse(CUDA_ERROR_INVALID_CONTEXT, std::string(__func__) + " without a context")

CUresult copy_to_device(CUdeviceptr to, const void* from, size_t n) {
    if (n == 0) return CUDA_SUCCESS;
    Lock guard(lock);
    const Range r = range(to, n);
    if (!r) return refuse(CUDA_ERROR_INVALID_VALUE, "copy to beyond an allocation");
    memcpy(r.host, from, n);
    mark_written(r, n);
    return CUDA_SUCCESS;
}

CUresult copy_to_host(void* to, CUdeviceptr from, size_t n) {
    if (n == 0) return sticky;
    Lock guard(lock);
    const Range r = range(from, n);
    if (!r) return refuse(CUDA_ERROR_INVALID_VALUE, "copy from beyond an allocation");
    for (size_t k = 0; k < n; k++)
        if (!r.shadow[k].writer)
            return refuse(CUDA_ERROR_LAUNCH_FAILED,
                          "copy to the host of memory that nothing has written: byte " + std::to_string(k) + " of " + std::to_string(n));
    memcpy(to, r.host, n);
    return sticky;
}

CUresult copy_on_device(CUdeviceptr to, CUdeviceptr from, size_t n) {
    if (n == 0) return CUDA_SUCCESS;
    Lock guard(lock);
    const Range a = range(to, n), b = range(from, n);
    if (!a || !b) return refuse(CUDA_ERROR_INVALID_VALUE, "copy on the device beyond an allocation");
    memmove(a.host, b.host, n);
    memmove(static_cast<void*>(a.shadow), b.shadow, n * sizeof(Shadow));
    return CUDA_SUCCESS;
}

CUresult set_bytes(CUdeviceptr to, unsigned char value, size_t n) {
    if (n == 0) return CUDA_SUCCESS;
    Lock guard(lock);
    const Range r = range(to, n);
    if (!r) return refuse(CUDA_ERROR_INVALID_VALUE, "memset beyond an allocation");
    memset(r.host, value, n);
    mark_written(r, n);
    return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

// ---- The device and its context -------------------------------------------------------------------------------

CUresult cuInit(unsigned) { return CALL, CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return CALL, *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return CALL, *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    CALL;
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    CALL;
    snprintf(name, size, "interpreter of the tests");
    return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) { return CALL, *bytes = DEVICE_BYTES, CUDA_SUCCESS; }
CUresult cuMemGetInfo(size_t* left, size_t* total) {
    CALL;
    *total = DEVICE_BYTES;
    *left = DEVICE_BYTES - allocated();
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    CALL;
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return *value = 1, CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return *value = CAPABILITY / 10, CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return *value = CAPABILITY % 10, CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return *value = MULTIPROCESSORS, CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return *value = 32, CUDA_SUCCESS;
        default: return refuse(CUDA_ERROR_INVALID_VALUE, "no device attribute " + std::to_string(attribute));
    }
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) { return CALL, *c = CONTEXT, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CALL, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* c) { return CALL, *c = current, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) { return CALL, current = c, CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return CALL, sticky; }

// ---- Streams and events ---------------------------------------------------------------------------------------

CUresult cuStreamCreate(CUstream* s, unsigned) { return CALL, *s = reinterpret_cast<CUstream>(&stream), CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream) { return CALL, CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { return CALL, sticky; }
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
    return CALL, *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream, CUevent e, unsigned) {
    CALL;
    Lock guard(lock);
    const bool known = events.count(reinterpret_cast<Event*>(e));
    return known ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_HANDLE, "cuStreamWaitEvent of no event");
}
CUresult cuEventCreate(CUevent* e, unsigned) {
    CALL;
    Lock guard(lock);
    *e = reinterpret_cast<CUevent>(*events.insert(new Event).first);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent e) {
    CALL;
    Lock guard(lock);
    Event* event = reinterpret_cast<Event*>(e);
    if (!events.erase(event)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuEventDestroy of no event");
    delete event;
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent e, CUstream) { return CALL, reinterpret_cast<Event*>(e)->milliseconds = now(), CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return CALL, sticky; }
CUresult cuEventQuery(CUevent) { return CALL, sticky; }
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent a, CUevent b) {
    CALL;
    *milliseconds = reinterpret_cast<Event*>(b)->milliseconds - reinterpret_cast<Event*>(a)->milliseconds;
    return CUDA_SUCCESS;
}

// ---- Memory ---------------------------------------------------------------------------------------------------

CUresult cuMemAlloc(CUdeviceptr* p, size_t n) {
    CALL_IN_CONTEXT;
    // As the real driver.
    if (n == 0) return refuse(CUDA_ERROR_INVALID_VALUE, "an allocation of nothing");
    const Allocation* a = allocate(n);
    if (!a) return CUDA_ERROR_OUT_OF_MEMORY;
    *p = a->address;
    return CUDA_SUCCESS;
}
CUresult cuMemAllocAsync(CUdeviceptr* p, size_t n, CUstream) {
    // Allocations of nothing succeed here, unlike those of cuMemAlloc.
    if (n == 0) return CALL, *p = 0, CUDA_SUCCESS;
    return cuMemAlloc(p, n);
}
CUresult cuMemFree(CUdeviceptr p) {
    CALL;
    return release(p) ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_VALUE, "a release of what is not allocated");
}
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream) { return p ? cuMemFree(p) : CUDA_SUCCESS; }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t n, CUstream) {
    CALL_IN_CONTEXT;
    return copy_to_device(to, from, n);
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t n, CUstream) {
    CALL_IN_CONTEXT;
    return copy_to_host(to, from, n);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream) {
    CALL_IN_CONTEXT;
    return copy_on_device(to, from, n);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream) {
    CALL_IN_CONTEXT;
    return set_bytes(to, value, n);
}

// ---- Modules and launches -------------------------------------------------------------------------------------

CUresult cuModuleLoadData(CUmodule* out, const void* image) {
    CALL_IN_CONTEXT;
    Lock guard(lock);
    const std::string text(static_cast<const char*>(image));
    auto& module = modules[text];
    if (!module) module = ptx::parse(text);
    for (const auto& problem : module->problems) complain("PTX: " + problem);
    if (!module->problems.empty()) return CUDA_ERROR_INVALID_PTX;
    if (module->target > CAPABILITY) return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "PTX for a later GPU");
    *out = reinterpret_cast<CUmodule>(module.get());
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CALL, CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
    CALL;
    Lock guard(lock);
    const auto module = reinterpret_cast<const ptx::Module*>(handle);
    const auto it = module->functions.find(name);
    if (it == module->functions.end() || !it->second->entry)
        return refuse(CUDA_ERROR_NOT_FOUND, std::string("no kernel ") + name);
    const ptx::Function* function = it->second.get();
    const auto problems = ptx::problems_of(*function);
    for (const auto& problem : problems) complain("PTX: " + problem);
    if (!problems.empty()) return CUDA_ERROR_INVALID_PTX;
    kernels[function] = {module, function};
    *out = reinterpret_cast<CUfunction>(&kernels[function]);
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CALL, CUDA_SUCCESS; }

CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream, void** arguments, void**) {
    CALL_IN_CONTEXT;
    static std::atomic<uint32_t> serial{BY_HOST + 1};
    const Kernel& kernel = *reinterpret_cast<Kernel*>(handle);
    const ptx::Function& f = *kernel.function;
    const uint64_t threads = uint64_t(bx) * by * bz;
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535)
        return refuse(CUDA_ERROR_INVALID_VALUE, f.name + ": a grid of " + std::to_string(gx) + " x " + std::to_string(gy) +
                                                    " x " + std::to_string(gz) + " blocks");
    if (!threads || threads > MOST_THREADS || threads > f.most_threads)
        return refuse(CUDA_ERROR_INVALID_VALUE, f.name + ": a block of " + std::to_string(threads) + " threads");
    if (f.shared_bytes + shared > MOST_SHARED) return refuse(CUDA_ERROR_INVALID_VALUE, f.name + ": too much shared memory");

    ptx::Launch launch{{gx, gy, gz}, {bx, by, bz}, shared, std::vector<char>(f.parameter_bytes), snapshot(), serial++};
    for (size_t k = 0; k < f.parameters.size(); k++)
        memcpy(&launch.parameters[ptx::offset_of(f.parameters[k].address)], arguments[k], f.parameters[k].size);
    const double start = now();
    try {
        const ptx::Counts counts = ptx::run(*kernel.module, f, launch);
        count_kernel(f.name, counts, (now() - start) / 1e3);
    } catch (const ptx::Fault& fault) {
        return sticky = refuse(CUresult(fault.code), f.name + ": " + fault.why);
    }
    return CUDA_SUCCESS;
}

// ---- Errors ---------------------------------------------------------------------------------------------------

CUresult cuGetErrorName(CUresult code, const char** name) {
    CALL;
    switch (code) {
        case CUDA_SUCCESS: *name = "CUDA_SUCCESS"; break;
        case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case CUDA_ERROR_INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
        case CUDA_ERROR_INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
        case CUDA_ERROR_NO_BINARY_FOR_GPU: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
        case CUDA_ERROR_INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
        case CUDA_ERROR_INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
        case CUDA_ERROR_NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
        case CUDA_ERROR_ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case CUDA_ERROR_MISALIGNED_ADDRESS: *name = "CUDA_ERROR_MISALIGNED_ADDRESS"; break;
        case CUDA_ERROR_LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
        default: *name = nullptr; return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char** text) { return cuGetErrorName(code, text); }

}  // extern "C"
