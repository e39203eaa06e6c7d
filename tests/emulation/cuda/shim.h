// CUDA as the host's compiler sees it: keywords, the grid, and the functions that cuda/softpool.cu calls.
#pragma once
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>

#include <string>

#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct Index {
    unsigned x;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }

#include KERNELS

// Why the kernel cannot be launched, or null.
static const char* launch(const std::string& name, unsigned grid, unsigned block, const void* input, const void* grad,
                          void* output, void* scratch, const void* params, size_t size) {
    using Kernel = void (*)(const void*, const void*, void*, void*, Params);
    static void* const self = dlopen(nullptr, RTLD_NOW);
    const Kernel kernel = reinterpret_cast<Kernel>(dlsym(self, name.c_str()));
    if (!kernel) return "no such kernel";
    if (size != sizeof(Params)) return "parameters of another size";
    gridDim.x = grid, blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++)
            kernel(input, grad, output, scratch, *static_cast<const Params*>(params));
    return nullptr;
}
