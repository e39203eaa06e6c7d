// A parsed module of PTX: functions, their instructions and variables.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "values.hpp"

namespace ptx {

// Addresses carry the space that they point into in their upper bits, so that no address of the host is one.
enum Space : u64 { HOST, GLOBAL, PARAM, SHARED, LOCAL, MODULE };
constexpr int SPACE_BITS = 60;
constexpr u64 address_in(Space space, u64 offset) { return u64(space) << SPACE_BITS | offset; }
constexpr Space space_of(u64 address) { return Space(address >> SPACE_BITS); }
constexpr u64 offset_of(u64 address) { return address & ((u64(1) << SPACE_BITS) - 1); }
// Local memory is apart for each function: its index, then the offset.
constexpr int LOCAL_BITS = 40;

struct Instruction;
struct Machine;
using Action = void (*)(const Instruction&, u64* registers, Machine&);

// What comes after an instruction.
enum class Control : uint8_t { NEXT, BRANCH, EXIT, RETURN, CALL, BARRIER, WARP_BARRIER, SHUFFLE };
enum class Shuffle : uint8_t { BUTTERFLY, DOWN, UP, INDEX };

struct Instruction {
    Action action = nullptr;
    Control control = Control::NEXT;
    // Modifiers.
    Rounding rounding = Rounding::NEAREST;
    bool to_integer = false;  // .rni, .rzi, .rmi, .rpi
    bool ftz = false, saturate = false, read_only = false, shared = false;
    bool carry_in = false, carry_out = false;
    Shuffle shuffle = Shuffle::BUTTERFLY;
    uint8_t how = 0;      // a comparison, and what it is combined with
    uint8_t combine = 0;
    uint8_t size = 0;     // bytes of an element in memory, or of a part of a packed register
    uint8_t vector = 1;   // elements
    // Registers by index; -1 for none.
    int destination[4] = {-1, -1, -1, -1};
    int source[5] = {-1, -1, -1, -1, -1};
    int predicate = -1;
    bool negated = false;
    int64_t offset = 0;  // of an address
    int target = -1;     // of a branch, or the index of a call
    double error = 0;    // the largest relative error of an approximation
    int line = 0;
};

struct Variable {
    u64 address, size, alignment;
};

struct Function;
struct Call {
    std::string name;
    Function* callee = nullptr;
    std::vector<Variable> arguments, results;
};

struct Function {
    std::string name;
    bool entry = false;
    int index = 0;
    std::vector<Variable> parameters, results;
    u64 parameter_bytes = 0, local_bytes = 0, shared_bytes = 0;
    unsigned most_threads = 1024;  // of a block
    std::vector<Instruction> code;
    std::vector<u64> registers;  // as a thread begins: constants are registers too
    struct Special {
        int slot, which;
    };
    std::vector<Special> specials;  // %tid.x and so on, by their place in special_names
    std::vector<Call> calls;
    bool waits = false;                 // has barriers or shuffles
    std::vector<std::string> problems;  // what is not understood
};

struct Module {
    int target = 0;  // compute capability
    std::map<std::string, std::unique_ptr<Function>> functions;
    std::vector<char> memory;  // its .global and .const variables
    std::vector<std::string> problems;
};

constexpr const char* special_names[] = {"%tid.x",   "%tid.y",   "%tid.z",    "%ntid.x",   "%ntid.y",   "%ntid.z", "%ctaid.x",
                                         "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid"};
constexpr int SPECIALS = sizeof special_names / sizeof *special_names;

std::unique_ptr<Module> parse(const std::string& text);

// What of a function and those that it calls is not understood.
std::vector<std::string> problems_of(const Function&);

// ---- Between the parser and the table of instructions ---------------------------------------------------------

struct Statement {
    std::string opcode;
    std::vector<std::string> modifiers;  // what follows the opcode's name, the types among them
    std::vector<std::string> operands;
};

// Names in a function's body.
struct Names {
    virtual int slot(const std::string& name) = 0;                  // of a register
    virtual int operand(const std::string& text) = 0;               // of a register, a constant or an address
    virtual Variable variable(const std::string& name) = 0;
    virtual void branch(int instruction, const std::string& label) = 0;
    virtual ~Names() = default;
};

// The instruction that a statement says; false where it is unknown.
bool assemble(const Statement&, Instruction&, Function&, Names&);

// Bytes of a type such as f32; 0 where it is none.
unsigned size_of(const std::string& type);
// The parts between commas; lists in brackets stay whole.
std::vector<std::string> split(const std::string& list);
// What is in brackets of any kind, where there are any.
std::string contents(const std::string& text);
std::string trim(const std::string& text);

}  // namespace ptx
