// Metal as the host's compiler sees it: kernels by name, their buffers, and the grid.
#pragma once

// First of all: it sees no header of the host's.
#include KERNELS

#undef kernel
#undef device
#undef thread
#undef constant
#undef INFINITY
#undef NAN

#include <dlfcn.h>

#include <string>

// Why the kernel cannot be launched, or null.
static const char* launch(const std::string& name, unsigned grid, unsigned block, const void* input, const void* grad,
                          void* output, void* scratch, const void* params, size_t size) {
    // The order of the arguments' indices is checked where the kernels' text is.
    using Kernel = void (*)(const void*, const void*, void*, void*, const Params&, unsigned, unsigned);
    static void* const self = dlopen(nullptr, RTLD_NOW);
    const Kernel kernel = reinterpret_cast<Kernel>(dlsym(self, name.c_str()));
    if (!kernel) return "no such kernel";
    if (size != sizeof(Params)) return "parameters of another size";
    const unsigned threads = grid * block;
    for (unsigned thread = 0; thread < threads; thread++)
        kernel(input, grad, output, scratch, *static_cast<const Params*>(params), thread, threads);
    return nullptr;
}
