#include "machine.hpp"

#include <stdio.h>

#include <algorithm>

namespace ptx {

namespace {

// In the place of a thread.
constexpr uint32_t MANY = 0xffffffff, ATOMICS = 0xfffffffe;

std::string hexadecimal(u64 v) {
    char digits[24];
    snprintf(digits, sizeof digits, "%#llx", static_cast<unsigned long long>(v));
    return digits;
}

}  // namespace

void Machine::fault(const Instruction& i, int code, const std::string& why) const {
    throw Fault{why + " (PTX line " + std::to_string(i.line) + ", thread " + std::to_string(thread) + ")", code};
}

const Allocation* Machine::find(u64 address, unsigned size) {
    const auto has = [&](const Allocation& a) { return address >= a.address && address - a.address + size <= a.size; };
    for (const Allocation* a : recent)
        if (a && has(*a)) return a;
    const auto& all = launch.memory;
    auto it = std::upper_bound(all.begin(), all.end(), address, [](u64 x, const Allocation& a) { return x < a.address; });
    if (it == all.begin() || !has(*--it)) return nullptr;
    return recent[oldest++ % 4] = &*it;
}

// Which allocations an address just misses.
std::string Machine::neighbours(u64 address) const {
    constexpr u64 near = 4096;
    std::string text;
    for (const Allocation& a : launch.memory)
        if (address + near > a.address && address < a.address + a.size + near)
            text += ", near an allocation of " + std::to_string(a.size) + " bytes, at its byte " +
                    std::to_string(int64_t(address - a.address));
    return text;
}

// Whether other threads' accesses allow this one: `now` is what they may share no byte within, unless all only read.
void Machine::check(const Instruction& i, Shadow* shadow, unsigned size, Access access, uint32_t now, u64 from,
                    u64 bytes) const {
    const bool writes = access == Access::WRITE || access == Access::ATOMIC;
    const u64 me = u64(now) << 32 | (access == Access::ATOMIC ? ATOMICS : uint32_t(thread));
    const u64 many = u64(now) << 32 | MANY;
    const auto byte = [&](unsigned k) { return "byte " + std::to_string(from + k) + " of " + std::to_string(bytes); };
    // Of what is read, the first byte of each element and the last of all are as good as all.
    const unsigned step = writes || !i.size ? 1 : i.size;
    for (unsigned k = 0; k < size; k = k + step < size || k == size - 1 ? k + step : size - 1) {
        Shadow& s = shadow[k];
        const bool written = s.writer >> 32 == now, read = s.reader >> 32 == now;
        if (access != Access::WRITE && !s.writer) fault(i, LAUNCH_FAILED, "read of memory that nothing has written, " + byte(k));
        if (access == Access::READ_ONLY && written) fault(i, LAUNCH_FAILED, "ld.global.nc of what this kernel writes, " + byte(k));
        if ((written && s.writer != me) || (writes && read && s.reader != me)) fault(i, LAUNCH_FAILED, "threads race for " + byte(k));
        if (writes) s.writer = me;
        else if (!read) s.reader = me;
        else if (s.reader != me) s.reader = many;
    }
}

char* Machine::at(const Instruction& i, u64 address, unsigned size, Access access) {
    if (address % size) fault(i, MISALIGNED_ADDRESS, "misaligned access of " + std::to_string(size) + " bytes at " + hexadecimal(address));
    const u64 offset = offset_of(address);
    const bool writes = access == Access::WRITE || access == Access::ATOMIC;
    const auto within = [&](auto& bytes, const char* what) {
        if (offset + size > bytes.size())
            fault(i, ILLEGAL_ADDRESS, std::string(writes ? "write" : "read") + " beyond " + what + ", at byte " + std::to_string(offset));
        return const_cast<char*>(bytes.data()) + offset;
    };
    switch (space_of(address)) {
        case GLOBAL: {
            const Allocation* a = find(address, size);
            if (!a)
                fault(i, ILLEGAL_ADDRESS, std::string(writes ? "write" : "read") + " of " + std::to_string(size) + " bytes at " +
                                              hexadecimal(address) + ", which is not allocated" + neighbours(address));
            const u64 from = address - a->address;
            check(i, a->shadow + from, size, access, launch.serial, from, a->size);
            return a->host + from;
        }
        case SHARED: {
            char* const bytes = within(shared, "the shared memory");
            check(i, &shared_shadow[offset], size, access, interval, offset, shared.size());
            return bytes;
        }
        case PARAM:
            if (writes) fault(i, ILLEGAL_ADDRESS, "write to the kernel's parameters");
            return within(launch.parameters, "the kernel's parameters");
        case MODULE:
            // Kernels are given no variables to write: several would share them.
            if (writes) fault(i, ILLEGAL_ADDRESS, "write to a variable of the module");
            return within(module.memory, "the module's variables");
        case LOCAL: {
            auto& local = (*locals)[offset >> LOCAL_BITS];
            const u64 place = offset & ((u64(1) << LOCAL_BITS) - 1);
            if (place + size > local.size()) fault(i, ILLEGAL_ADDRESS, "beyond the local memory, at byte " + std::to_string(place));
            return local.data() + place;
        }
        default: fault(i, ILLEGAL_ADDRESS, hexadecimal(address) + " is no address of the device's");
    }
}

}  // namespace ptx
