// Runs GPU kernels on the CPU, one thread of the grid after another, for tests/emulation/main.rs.
//
// A request is: bytes of the name, the name; blocks, threads of a block; then the parameters and the four buffers,
// each a number of bytes and the bytes. Buffers come with the misalignment of their start. The answer is the output
// and the scratch buffer. Every buffer is an allocation of its exact size, so that AddressSanitizer sees a stray access.
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void get(void* to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(feof(stdin) ? 0 : 1);
}

static uint64_t number() {
    uint64_t n;
    get(&n, sizeof n);
    return n;
}

struct Buffer {
    size_t skip, bytes;
    char* base;
    Buffer() : skip(number()), bytes(number()), base(static_cast<char*>(malloc(skip + bytes))) { get(start(), bytes); }
    ~Buffer() { free(base); }
    char* start() const { return base + skip; }
    void put() const { fwrite(start(), 1, bytes, stdout); }
};

int main() {
    for (;;) {
        const Buffer name;
        const uint64_t grid = number(), block = number();
        const Buffer params, input, grad, output, scratch;
        const char* unknown = launch(std::string(name.start(), name.bytes), grid, block, input.start(), grad.start(),
                                     output.start(), scratch.start(), params.start(), params.bytes);
        if (unknown) {
            fprintf(stderr, "%s: %.*s\n", unknown, static_cast<int>(name.bytes), name.start());
            return 1;
        }
        output.put();
        scratch.put();
        fflush(stdout);
    }
}
