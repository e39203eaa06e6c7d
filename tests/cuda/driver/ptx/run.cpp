// A grid: its blocks one after another, the threads of a block one after another too, in turns where they wait.
#include <algorithm>

#include "machine.hpp"

namespace ptx {

namespace {

constexpr unsigned WARP = 32;
// A thread that runs so many instructions will not end.
constexpr u64 ENDLESS = u64(1) << 31;

using Locals = std::vector<std::vector<char>>;

// Runs a thread until it ends or waits, and says which.
Control advance(const Function& f, int& at, u64* registers, Machine& machine);

void copy(const Instruction& i, const Variable& to, const Variable& from, Machine& machine) {
    for (u64 k = 0; k < to.size; k++)
        *machine.at(i, to.address + k, 1, Access::WRITE) = *machine.at(i, from.address + k, 1, Access::READ);
}

void call(const Instruction& i, const Call& call, Machine& machine) {
    const Function& callee = *call.callee;
    if (callee.code.empty()) machine.fault(i, LAUNCH_FAILED, "call of " + callee.name);
    for (size_t k = 0; k < call.arguments.size(); k++) copy(i, callee.parameters[k], call.arguments[k], machine);
    std::vector<u64> registers = callee.registers;
    int at = 0;
    if (advance(callee, at, registers.data(), machine) != Control::RETURN)
        machine.fault(i, LAUNCH_FAILED, "a barrier, a shuffle or an end within the function " + callee.name);
    for (size_t k = 0; k < call.results.size(); k++) copy(i, call.results[k], callee.results[k], machine);
}

Control advance(const Function& f, int& at, u64* registers, Machine& machine) {
    const Instruction* const code = f.code.data();
    u64 count = 0;
    for (;;) {
        const Instruction& i = code[at];
        if (++count > ENDLESS) machine.fault(i, LAUNCH_FAILED, "a thread that does not end");
        if (i.predicate >= 0 && (registers[i.predicate] & 1) == i.negated) {
            at++;
            continue;
        }
        switch (i.control) {
            case Control::NEXT: i.action(i, registers, machine); break;
            case Control::BRANCH: at = i.target; continue;
            case Control::CALL: call(i, f.calls[i.target], machine); break;
            default: machine.instructions += count; return i.control;
        }
        at++;
    }
}

class Grid {
public:
    Grid(const Module& module, const Function& f, const Launch& launch) : module(module), f(f), launch(launch), machine(module, launch) {
        machine.shared.resize(f.shared_bytes + launch.dynamic_shared);
        machine.shared_shadow.resize(machine.shared.size());
        size_locals(locals);
    }

    Counts run() {
        for (block[2] = 0; block[2] < launch.grid[2]; block[2]++)
            for (block[1] = 0; block[1] < launch.grid[1]; block[1]++)
                for (block[0] = 0; block[0] < launch.grid[0]; block[0]++, blocks++) f.waits ? run_in_turns() : run_alone();
        return {blocks * threads, machine.instructions};
    }

private:
    struct Thread {
        int at = 0;
        Control state = Control::NEXT;
        std::vector<u64> registers;
        Locals locals;
        bool runs() const { return state == Control::NEXT; }
        bool waits_in_warp() const { return state == Control::SHUFFLE || state == Control::WARP_BARRIER; }
        void go_on() {
            state = Control::NEXT;
            at++;
        }
    };

    const Module& module;
    const Function& f;
    const Launch& launch;
    Machine machine;
    const unsigned threads = launch.block[0] * launch.block[1] * launch.block[2];
    unsigned block[3] = {};
    u64 blocks = 0;
    Locals locals;
    std::vector<Thread> states;

    void size_locals(Locals& l) const {
        l.resize(module.functions.size());
        for (const auto& [name, function] : module.functions)
            if (!function->entry || function.get() == &f) l[function->index].assign(function->local_bytes, char(0xcd));
    }
    void set_specials(u64* registers, unsigned t) const {
        const unsigned *b = launch.block, *g = launch.grid;
        const unsigned values[SPECIALS] = {t % b[0], t / b[0] % b[1], t / b[0] / b[1], b[0], b[1], b[2], block[0],
                                           block[1], block[2],        g[0],            g[1], g[2], t % WARP};
        for (const auto& special : f.specials) registers[special.slot] = values[special.which];
    }

    // Shared memory is another block's no more, and its accesses no race with that.
    void begin_block() {
        std::fill(machine.shared.begin(), machine.shared.end(), char(0xcd));
        std::fill(machine.shared_shadow.begin(), machine.shared_shadow.end(), Shadow{});
        machine.interval++;
    }

    void run_alone() {
        begin_block();
        machine.locals = &locals;
        std::vector<u64> registers(f.registers);
        for (unsigned t = 0; t < threads; t++) {
            set_specials(registers.data(), t);
            machine.thread = blocks * threads + t;
            int at = 0;
            advance(f, at, registers.data(), machine);
        }
    }

    void run_in_turns() {
        begin_block();
        states.assign(threads, {});
        for (unsigned t = 0; t < threads; t++) {
            states[t].registers = f.registers;
            set_specials(states[t].registers.data(), t);
            size_locals(states[t].locals);
        }
        for (;;) {
            for (unsigned warp = 0; warp < threads; warp += WARP) run_warp(warp, std::min(warp + WARP, threads));
            if (!pass_barrier()) return;
            machine.interval++;
        }
    }
    // Until all its threads have ended or wait for the block.
    void run_warp(unsigned first, unsigned end) {
        for (;;) {
            for (unsigned t = first; t < end; t++) {
                Thread& thread = states[t];
                if (!thread.runs()) continue;
                machine.thread = blocks * threads + t;
                machine.locals = &thread.locals;
                thread.state = advance(f, thread.at, thread.registers.data(), machine);
            }
            const auto waiting = std::find_if(states.begin() + first, states.begin() + end, [](auto& t) { return t.waits_in_warp(); });
            if (waiting == states.begin() + end) return;
            meet(f.code[waiting->at], waiting->at, first, end);
        }
    }
    // The threads of a warp that wait at one instruction.
    void meet(const Instruction& i, int at, unsigned first, unsigned end) {
        const auto here = [&](unsigned t) { return t < end && states[t].waits_in_warp() && states[t].at == at; };
        const bool shuffles = i.control == Control::SHUFFLE;
        u64 value[WARP] = {};
        for (unsigned t = first; t < end; t++) {
            if (!here(t)) continue;
            const u64* r = states[t].registers.data();
            if (shuffles) value[t - first] = r[i.source[0]];
            const uint32_t mask = uint32_t(r[i.source[shuffles ? 3 : 0]]);
            machine.thread = blocks * threads + t;
            if (!(mask >> (t - first) & 1)) machine.fault(i, LAUNCH_FAILED, "a thread that its own mask leaves out");
            for (unsigned u = first; u < first + WARP; u++)
                if (mask >> (u - first) & 1 && u < end && !here(u)) machine.fault(i, LAUNCH_FAILED, "not all threads of the mask meet");
        }
        for (unsigned t = first; t < end; t++) {
            if (!here(t)) continue;
            u64* r = states[t].registers.data();
            const auto [from, inside] = shuffles ? source_of(i, int(t - first), r) : std::pair(int(t - first), true);
            machine.thread = blocks * threads + t;
            if (!here(first + from)) machine.fault(i, LAUNCH_FAILED, "shfl from a thread that does not take part");
            if (i.destination[0] >= 0) r[i.destination[0]] = uint32_t(value[from]);
            if (i.destination[1] >= 0) r[i.destination[1]] = inside;
        }
        std::vector<unsigned> met;
        for (unsigned t = first; t < end; t++)
            if (here(t)) met.push_back(t);
        for (const unsigned t : met) states[t].go_on();
    }
    // The lane that a lane reads, as the PTX manual has it, and whether it lies within the segment.
    static std::pair<int, bool> source_of(const Instruction& i, int lane, const u64* r) {
        const int by = r[i.source[1]] & 31, clamp = r[i.source[2]] & 31, segments = r[i.source[2]] >> 8 & 31;
        const int highest = (lane & segments) | (clamp & ~segments), lowest = lane & segments;
        int from = lane;
        switch (i.shuffle) {
            case Shuffle::BUTTERFLY: from = lane ^ by; break;
            case Shuffle::DOWN: from = lane + by; break;
            case Shuffle::UP: from = lane - by; break;
            case Shuffle::INDEX: from = lowest | (by & ~segments); break;
        }
        const bool inside = i.shuffle == Shuffle::UP ? from >= highest : from <= highest;
        return {inside ? from : lane, inside};
    }
    // False where no thread waits any more.
    bool pass_barrier() {
        int barrier = -1;
        for (unsigned t = 0; t < threads; t++) {
            Thread& thread = states[t];
            if (thread.state != Control::BARRIER) continue;
            machine.thread = blocks * threads + t;
            if (barrier >= 0 && thread.at != barrier) machine.fault(f.code[thread.at], LAUNCH_FAILED, "threads wait at different barriers");
            barrier = thread.at;
        }
        for (Thread& thread : states)
            if (thread.state == Control::BARRIER) thread.go_on();
        return barrier >= 0;
    }
};

}  // namespace

Counts run(const Module& module, const Function& f, const Launch& launch) { return Grid(module, f, launch).run(); }

}  // namespace ptx
