// Runs Metal's kernels on the CPU for tests/emulation/main.rs: a threadgroup after another, and of each its threads in
// turns where they wait for one another.
//
// A request is: bytes of the name, the name; threadgroups, threads of each, bytes of threadgroup memory; then the
// parameters and the buffers, each a number of bytes and the bytes. Buffers come with the misalignment of their start.
// The answer is the output and the scratch buffer. Every buffer is an allocation of its exact size, so that
// AddressSanitizer sees a stray access.
#ifdef __APPLE__
// macOS has contexts for those alone who ask for X/Open's, and for its own names they must ask as well.
#define _XOPEN_SOURCE 600
#define _DARWIN_C_SOURCE
#endif
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
using Kernel = void (*)(const void*, const void*, const void*, void*, void*, const void*, void*, unsigned, unsigned, unsigned, unsigned);

struct Launch {
    Kernel kernel;
    unsigned blocks, threads;
    const void *input, *logits, *grad;
    void *output, *scratch;
    const void* params;
    std::vector<char> shared;

    void run(unsigned block, unsigned thread, void* memory) const {
        kernel(input, logits, grad, output, scratch, params, memory, block, blocks, thread, threads);
    }
};

// The threads of a threadgroup, each on a stack of its own.
struct Group {
    struct Thread {
        ucontext_t context;
        std::vector<char> stack;
        // A thread is never so many exchanges ahead of one that it exchanges with: before that it needs its next one.
        uint64_t slots[32];
        unsigned exchanges, barriers;
        bool ended;
    };
    const Launch* launch = nullptr;
    unsigned block = 0, current = 0;
    void* memory = nullptr;
    bool moved = false;
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
            thread.stack.resize(1 << 16);
            thread.ended = false;
            thread.exchanges = thread.barriers = 0;
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.data();
            thread.context.uc_stack.ss_size = thread.stack.size();
            thread.context.uc_link = &back;
            makecontext(&thread.context, begin, 0);
        }
        // A turn in which nobody gets on is the last.
        for (size_t ended = 0; ended < threads.size();) {
            moved = false;
            for (current = 0; current < threads.size(); current++) {
                Thread& thread = threads[current];
                if (thread.ended) continue;
                swapcontext(&back, &thread.context);
                if (thread.ended) ended++, moved = true;
            }
            if (!moved) {
                fprintf(stderr, "threads wait for others that do not come\n");
                exit(1);
            }
        }
    }
    // Until the threads from `first` to `end` have come as often to the meeting of this kind.
    void meet(unsigned Thread::*times, size_t first, size_t end) {
        const unsigned now = ++(threads[current].*times);
        moved = true;
        const unsigned self = current;
        for (size_t i = first; i < end; i++)
            while (threads[i].*times < now) swapcontext(&threads[self].context, &back);
    }
    // Teams of a SIMD group run apart: a thread waits for its partner alone.
    uint64_t exchange(uint64_t value, unsigned mask) {
        const unsigned slot = threads[current].exchanges % 32, other = current ^ mask;
        threads[current].slots[slot] = value;
        meet(&Thread::exchanges, other, other + 1);
        return threads[other].slots[slot];
    }
} group;

void Group::begin() {
    group.launch->run(group.block, group.current, group.memory);
    group.threads[group.current].ended = true;
}

}  // namespace

// What the shim of Metal's library calls.
extern "C" void emulated_barrier() { group.meet(&Group::Thread::barriers, 0, group.threads.size()); }
extern "C" uint64_t emulated_exchange(uint64_t value, unsigned mask) { return group.exchange(value, mask); }

int main() {
    for (;;) {
        const Buffer name;
        Launch launch;
        launch.blocks = unsigned(number());
        launch.threads = unsigned(number());
        launch.shared.resize(number());
        const Buffer params, input, logits, grad, output, scratch;
        const std::string function(name.start(), name.bytes);
        launch.kernel = reinterpret_cast<Kernel>(dlsym(dlopen(nullptr, RTLD_NOW), function.c_str()));
        if (!launch.kernel) {
            fprintf(stderr, "no such kernel: %s\n", function.c_str());
            return 1;
        }
        launch.input = input.start();
        launch.logits = logits.start();
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
