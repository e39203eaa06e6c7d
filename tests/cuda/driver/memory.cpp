#include "memory.hpp"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>

#include "driver.hpp"
#include "ptx/program.hpp"

static std::map<uint64_t, Allocation> all;  // by address
static size_t bytes_now, bytes_most;

const Allocation* allocate(size_t bytes) {
    Lock guard(lock);
    if (bytes > DEVICE_BYTES || bytes_now + bytes > DEVICE_BYTES) return nullptr;
    constexpr size_t aligned = 256;
    char* host = static_cast<char*>(aligned_alloc(aligned, (bytes + aligned - 1) / aligned * aligned));
    // What nobody wrote is no zero.
    memset(host, 0xcd, bytes);
    const uint64_t address = ptx::address_in(ptx::GLOBAL, reinterpret_cast<uint64_t>(host));
    bytes_now += bytes;
    bytes_most = std::max(bytes_most, bytes_now);
    return &(all[address] = {address, bytes, host, static_cast<Shadow*>(calloc(bytes, sizeof(Shadow)))});
}

bool release(uint64_t address) {
    Lock guard(lock);
    const auto it = all.find(address);
    if (it == all.end()) return false;
    bytes_now -= it->second.size;
    free(it->second.host);
    free(it->second.shadow);
    all.erase(it);
    return true;
}

Range range(uint64_t address, size_t bytes) {
    Lock guard(lock);
    auto it = all.upper_bound(address);
    if (it == all.begin()) return {};
    const Allocation& a = (--it)->second;
    const uint64_t offset = address - a.address;
    Range found;
    if (offset <= a.size && bytes <= a.size - offset) found.host = a.host + offset, found.shadow = a.shadow + offset;
    return found;
}

void mark_written(const Range& r, size_t bytes) { std::fill(r.shadow, r.shadow + bytes, Shadow{BY_HOST, 0}); }

size_t allocated() { return bytes_now; }
size_t most_allocated() { return bytes_most; }
size_t allocations() { return all.size(); }

std::vector<Allocation> snapshot() {
    Lock guard(lock);
    std::vector<Allocation> list;
    for (const auto& [address, allocation] : all) list.push_back(allocation);
    return list;
}
