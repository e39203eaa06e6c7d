// What the parts of the driver share: one lock, messages, and the counts of the report.
#pragma once
#include <mutex>
#include <string>

#include "ptx/machine.hpp"

extern std::recursive_mutex lock;
using Lock = std::lock_guard<std::recursive_mutex>;

// Says on stderr what a call was refused for.
void complain(const std::string& why);

// Calls and kernels are counted where SOFTPOOL_CUDA_REPORT names a file; they are appended to it when the program ends.
void count_call(const char* name);
void count_kernel(const std::string& name, const ptx::Counts&, double seconds);
