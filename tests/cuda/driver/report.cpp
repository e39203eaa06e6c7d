#include <stdio.h>
#include <stdlib.h>

#include <map>

#include "driver.hpp"
#include "memory.hpp"

namespace {

struct Kernel {
    uint64_t launches = 0;
    ptx::Counts counts;
    double seconds = 0;
};

struct Report {
    const char* file = getenv("SOFTPOOL_CUDA_REPORT");
    std::map<std::string, uint64_t> calls;
    std::map<std::string, Kernel> kernels;

    // Lines of words: what, its name, then numbers with what they are.
    ~Report() {
        FILE* f = file ? fopen(file, "a") : nullptr;
        if (!f) return;
        for (const auto& [name, n] : calls) fprintf(f, "call %s times %llu\n", name.c_str(), (unsigned long long)n);
        for (const auto& [name, k] : kernels)
            fprintf(f, "kernel %s launches %llu threads %llu instructions %llu seconds %.3f\n", name.c_str(),
                    (unsigned long long)k.launches, (unsigned long long)k.counts.threads,
                    (unsigned long long)k.counts.instructions, k.seconds);
        fprintf(f, "memory device most %zu left %zu allocations %zu\n", most_allocated(), allocated(), allocations());
        fclose(f);
    }
} report;

}  // namespace

std::recursive_mutex lock;

void complain(const std::string& why) { fprintf(stderr, "CUDA driver of the tests: %s\n", why.c_str()); }

void count_call(const char* name) {
    if (!report.file) return;
    Lock guard(lock);
    report.calls[name]++;
}

void count_kernel(const std::string& name, const ptx::Counts& counts, double seconds) {
    if (!report.file) return;
    Lock guard(lock);
    Kernel& k = report.kernels[name];
    k.launches++;
    k.counts.threads += counts.threads;
    k.counts.instructions += counts.instructions;
    k.seconds += seconds;
}
