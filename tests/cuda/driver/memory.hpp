// The device's memory: allocations of the host's, with a note for each byte of who wrote and read it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

// Who touched a byte last: the launch (or the interval between barriers) in the upper half, the thread in the lower.
struct Shadow {
    uint64_t writer = 0, reader = 0;
};
// Written by the host, a copy, or a library.
constexpr uint64_t BY_HOST = 1;

struct Allocation {
    uint64_t address;  // the device's
    size_t size;
    char* host;
    Shadow* shadow;  // of each byte; nobody wrote a byte whose writer is 0
};

// A range of device memory that exists: the host's bytes, and their shadows.
struct Range {
    char* host = nullptr;
    Shadow* shadow = nullptr;
    explicit operator bool() const { return host; }
};

constexpr size_t DEVICE_BYTES = size_t(6) << 30;

// Null where memory is short.
const Allocation* allocate(size_t bytes);
bool release(uint64_t address);
// The range from an address on, or nothing.
Range range(uint64_t address, size_t bytes);
void mark_written(const Range&, size_t bytes);
size_t allocated();
size_t most_allocated();
size_t allocations();
// All of them by address, as they are now: other threads come and go with theirs.
std::vector<Allocation> snapshot();
