// Runs Metal's kernels on the CPU for tests/emulation/main.rs: a threadgroup after another, and of each its threads in
// turns where they wait for one another.
//
// A request is: bytes of the name, the name; threadgroups, threads of each, bytes of threadgroup memory; then the
// parameters and the buffers, each a number of bytes and the bytes. Buffers come with the misalignment of their start.
// The answer is the output and the scratch buffer. Every buffer is an allocation of its exact size, so that
// AddressSanitizer sees a stray access.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <string>
#include <vector>

namespace {

void get(void* to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(feof(stdin) ? 0 : 1);
}

uint64_t number() {
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

// As the kernels declare themselves; tests/metal_language.rs reads the order of their arguments.
using Kernel = void (*)(const void*, const void*, void*, void*, const void*, void*, unsigned, unsigned, unsigned, unsigned);

struct Launch {
    Kernel kernel;
    unsigned blocks, threads;
    const void *input, *grad;
    void *output, *scratch;
    const void* params;
    std::vector<char> shared;

    void run(unsigned block, unsigned thread, void* memory) const {
        kernel(input, grad, output, scratch, params, memory, block, blocks, thread, threads);
    }
};

// The threads of a threadgroup, each on a stack of its own.
struct Group {
    struct Thread {
        ucontext_t context;
        std::vector<char> stack;
        uint64_t slot = 0;
        bool ended = false;
    };
    const Launch* launch = nullptr;
    unsigned block = 0, current = 0;
    void* memory = nullptr;
    std::vector<Thread> threads;
    ucontext_t back;

    static void begin();
    void run(const Launch& l, unsigned which) {
        launch = &l;
        block = which;
        // Of its exact size, and another one each time: nothing is left from the group before.
        std::vector<char> shared(l.shared.size(), char(0x7b));
        memory = shared.data();
        threads.resize(l.threads);
        for (Thread& thread : threads) {
            thread.stack.resize(1 << 18);
            thread.ended = false;
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.data();
            thread.context.uc_stack.ss_size = thread.stack.size();
            thread.context.uc_link = &back;
            makecontext(&thread.context, begin, 0);
        }
        for (size_t ended = 0; ended < threads.size();) {
            size_t waiting = 0;
            for (current = 0; current < threads.size(); current++) {
                Thread& thread = threads[current];
                if (thread.ended) continue;
                swapcontext(&back, &thread.context);
                thread.ended ? ended++ : waiting++;
            }
            // Those who have ended would be waited for.
            if (waiting && ended) {
                fprintf(stderr, "not all threads of a threadgroup meet\n");
                exit(1);
            }
        }
    }
    void wait() { swapcontext(&threads[current].context, &back); }
} group;

void Group::begin() {
    group.launch->run(group.block, group.current, group.memory);
    group.threads[group.current].ended = true;
}

}  // namespace

// What the shim of Metal's library calls.
extern "C" void emulated_barrier() { group.wait(); }
extern "C" uint64_t emulated_exchange(uint64_t value, unsigned mask) {
    group.threads[group.current].slot = value;
    group.wait();
    const uint64_t other = group.threads[group.current ^ mask].slot;
    group.wait();
    return other;
}

int main() {
    for (;;) {
        const Buffer name;
        Launch launch;
        launch.blocks = unsigned(number());
        launch.threads = unsigned(number());
        launch.shared.resize(number());
        const Buffer params, input, grad, output, scratch;
        const std::string function(name.start(), name.bytes);
        launch.kernel = reinterpret_cast<Kernel>(dlsym(dlopen(nullptr, RTLD_NOW), function.c_str()));
        if (!launch.kernel) {
            fprintf(stderr, "no such kernel: %s\n", function.c_str());
            return 1;
        }
        launch.input = input.start();
        launch.grad = grad.start();
        launch.output = output.start();
        launch.scratch = scratch.start();
        launch.params = params.start();
        for (unsigned block = 0; block < launch.blocks; block++) {
            // Only those who share memory wait for one another.
            if (!launch.shared.empty()) group.run(launch, block);
            else
                for (unsigned thread = 0; thread < launch.threads; thread++) launch.run(block, thread, nullptr);
        }
        output.put();
        scratch.put();
        fflush(stdout);
    }
}
