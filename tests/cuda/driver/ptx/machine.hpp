// Runs a kernel's grid on the host, thread after thread, and checks every access to memory.
#pragma once
#include <string>
#include <vector>

#include "../memory.hpp"
#include "program.hpp"

namespace ptx {

// Why a launch ends early, and the CUresult that a real driver would give.
struct Fault {
    std::string why;
    int code;
};
constexpr int ILLEGAL_ADDRESS = 700, MISALIGNED_ADDRESS = 716, LAUNCH_FAILED = 719;

struct Launch {
    unsigned grid[3], block[3], dynamic_shared;
    std::vector<char> parameters;
    std::vector<Allocation> memory;  // by address
    uint32_t serial;                  // unlike any other launch's
};

struct Counts {
    u64 threads = 0, instructions = 0;
};

Counts run(const Module&, const Function&, const Launch&);

enum class Access { READ, READ_ONLY, WRITE, ATOMIC };

// What the instructions of the running thread act on besides its registers.
struct Machine {
    const Module& module;
    const Launch& launch;
    u64 thread = 0;         // of the grid
    uint32_t interval = 0;  // of a block, between barriers
    uint32_t carry = 0;
    u64 instructions = 0;
    std::vector<std::vector<char>>* locals = nullptr;  // of the running thread, by function
    std::vector<char> shared;
    std::vector<Shadow> shared_shadow;

    Machine(const Module& module, const Launch& launch) : module(module), launch(launch) {}

    // The host's memory behind an address; a fault where the access is not allowed.
    char* at(const Instruction&, u64 address, unsigned size, Access);
    [[noreturn]] void fault(const Instruction&, int code, const std::string& why) const;

private:
    const Allocation* recent[4] = {};
    unsigned oldest = 0;
    const Allocation* find(u64 address, unsigned size);
    std::string neighbours(u64 address) const;
    void check(const Instruction&, Shadow*, unsigned size, Access, uint32_t now, u64 from, u64 bytes) const;
};

}  // namespace ptx
