// PTX's text into a module: directives, declarations, labels and statements. What a statement does is in instructions.cpp.
#include <stdlib.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "program.hpp"

namespace ptx {

std::string trim(const std::string& text) {
    const char* const blanks = " \t\r\n";
    const size_t first = text.find_first_not_of(blanks), last = text.find_last_not_of(blanks);
    return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

std::string contents(const std::string& text) {
    const bool bracketed = text.size() >= 2 && strchr("{[(", text[0]);
    return bracketed ? text.substr(1, text.size() - 2) : text;
}

std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> parts;
    std::string part;
    int depth = 0;
    for (const char c : list) {
        if (strchr("{[(", c)) depth++;
        if (strchr("}])", c)) depth--;
        if (c == ',' && !depth) {
            parts.push_back(trim(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trim(part).empty()) parts.push_back(trim(part));
    return parts;
}

namespace {

std::vector<std::string> words(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> list;
    for (std::string word; in >> word;) list.push_back(word);
    return list;
}

u64 round_up(u64 v, u64 to) { return (v + to - 1) / to * to; }

// A number as PTX writes it: bits of floats after 0f and 0d.
bool number(const std::string& word, u64& value) {
    const auto bits_after = [&](size_t size, char letter) {
        return word.size() == size && word[0] == '0' && tolower(word[1]) == letter;
    };
    if (bits_after(10, 'f') || bits_after(18, 'd')) return value = strtoull(word.c_str() + 2, nullptr, 16), true;
    if (word.empty() || !(isdigit(static_cast<unsigned char>(word[0])) || word[0] == '-')) return false;
    value = word[0] == '-' ? u64(strtoll(word.c_str(), nullptr, 0)) : strtoull(word.c_str(), nullptr, 0);
    return true;
}

// `.param .align 8 .b8 name[424]`; `name[]` has no bytes.
struct Declaration {
    std::string name;
    u64 bytes = 0, alignment = 1, element = 1;
    std::set<std::string> directives;

    explicit Declaration(const std::string& text) {
        const auto all = words(text);
        for (size_t k = 0; k < all.size(); k++) {
            const std::string& word = all[k];
            if (word == ".align" && k + 1 < all.size()) {
                alignment = strtoull(all[++k].c_str(), nullptr, 10);
            } else if (word[0] != '.') {
                name = word;
            } else if (const unsigned bytes = size_of(word.substr(1))) {
                element = bytes;
                alignment = std::max<u64>(alignment, bytes);
            } else {
                directives.insert(word);
            }
        }
        const size_t bracket = name.find('[');
        u64 count = 1;
        if (bracket != std::string::npos) {
            count = strtoull(name.c_str() + bracket + 1, nullptr, 10);
            name.resize(bracket);
        }
        bytes = count * element;
    }
};

class Parser : Names {
public:
    Parser(Module& module, const std::string& text) : module(module), text(text) {}

    void parse_module() {
        while (skip_blanks()) {
            if (text[at] != '.') {
                module.problems.push_back("line " + std::to_string(line()) + ": unexpected text");
                return;
            }
            const std::string line = text.substr(at, text.find('\n', at) - at), first = words(line)[0];
            if (first == ".version" || first == ".address_size" || first == ".target") {
                if (first == ".target") module.target = atoi(line.c_str() + line.find("sm_") + 3);
                at += line.size();
                continue;
            }
            const std::string head = until("(;={");
            if (head.find(".entry") != std::string::npos || head.find(".func") != std::string::npos)
                parse_function(head);
            else
                parse_variable(head);
        }
    }

private:
    Module& module;
    const std::string& text;
    size_t at = 0, counted = 0;
    int lines = 1;
    std::map<std::string, Variable> globals;  // shared ones too
    u64 shared_bytes = 0;
    // Of the function at hand.
    Function* f = nullptr;
    std::map<std::string, int> slots, labels;
    std::set<std::string> declared;
    std::map<std::string, u64> ranges;
    std::map<u64, int> constants;
    std::map<std::string, Variable> locals;
    std::vector<std::pair<int, std::string>> branches;

    int line() {
        lines += int(std::count(text.begin() + counted, text.begin() + at, '\n'));
        counted = at;
        return lines;
    }
    // False at the end.
    bool skip_blanks() {
        while (at < text.size()) {
            if (isspace(static_cast<unsigned char>(text[at]))) at++;
            else if (text.compare(at, 2, "//") == 0) at = std::min(text.find('\n', at), text.size());
            else if (text.compare(at, 2, "/*") == 0) at = std::min(text.find("*/", at), text.size() - 2) + 2;
            else return true;
        }
        return false;
    }
    std::string until(const char* stops) {
        const size_t end = std::min(text.find_first_of(stops, at), text.size());
        const std::string part = text.substr(at, end - at);
        at = end;
        return part;
    }
    bool take(char c) {
        const bool is = at < text.size() && text[at] == c;
        at += is;
        return is;
    }

    // ---- Variables ----

    void check(const Declaration& d, const std::set<std::string>& known, std::vector<std::string>& problems) {
        for (const auto& directive : d.directives)
            if (!known.count(directive)) problems.push_back("line " + std::to_string(line()) + ": directive " + directive);
    }
    void parse_variable(const std::string& head) {
        const Declaration d(head);
        check(d, {".global", ".const", ".shared", ".extern", ".visible", ".weak"}, module.problems);
        const bool shared = d.directives.count(".shared");
        u64 end = shared ? shared_bytes : module.memory.size();
        end = round_up(end, d.alignment);
        globals[d.name] = {address_in(shared ? SHARED : MODULE, end), d.bytes, d.alignment};
        if (shared) shared_bytes = end + d.bytes;
        else module.memory.resize(end + d.bytes);
        if (take('=')) {
            for (const auto& word : split(contents(trim(until(";"))))) {
                u64 value;
                if (!number(word, value)) {
                    module.problems.push_back("line " + std::to_string(line()) + ": value " + word);
                    break;
                }
                memcpy(&module.memory[end], &value, d.element);
                end += d.element;
            }
        }
        until(";");
        take(';');
    }

    // ---- Functions ----

    Function* declare(const std::string& name, bool entry) {
        auto& function = module.functions[name];
        if (!function) {
            function.reset(new Function);
            function->name = name;
            function->index = int(module.functions.size()) - 1;
        }
        function->entry = entry;
        return function.get();
    }
    // A kernel's are in the launch's parameters, those of other functions in their local memory.
    std::vector<Variable> parse_parameters(const std::string& list) {
        std::vector<Variable> parameters;
        for (const auto& one : split(list)) {
            const Declaration d(one);
            check(d, {".param", ".ptr", ".global", ".const", ".shared"}, f->problems);
            u64& end = f->entry ? f->parameter_bytes : f->local_bytes;
            end = round_up(end, d.alignment);
            const u64 address = f->entry ? address_in(PARAM, end) : local_address(end);
            end += d.bytes;
            parameters.push_back(locals[d.name] = {address, d.bytes, d.alignment});
        }
        return parameters;
    }
    u64 local_address(u64 offset) const { return address_in(LOCAL, u64(f->index) << LOCAL_BITS | offset); }
    std::string parse_list() {
        take('(');
        const std::string list = until(")");
        take(')');
        skip_blanks();
        return list;
    }
    // [.visible] .entry name (parameters) directives { body }, or .func [(results)] name [(parameters)], with a body or without.
    void parse_function(const std::string& head) {
        std::string results, parameters, name = words(head).back();
        const bool entry = head.find(".entry") != std::string::npos;
        if (name == ".func") {
            results = parse_list();
            name = trim(until("(;{"));
        }
        if (at < text.size() && text[at] == '(') parameters = parse_list();
        const std::string directives = until("{;");
        f = declare(name, entry);
        f->parameter_bytes = f->local_bytes = 0;
        locals.clear(), slots.clear(), declared.clear(), ranges.clear(), labels.clear(), constants.clear(), branches.clear();
        f->results = parse_parameters(results);
        f->parameters = parse_parameters(parameters);
        parse_bounds(directives);
        if (take(';')) return;
        take('{');
        f->shared_bytes = shared_bytes;
        parse_body();
        Instruction end;
        end.control = entry ? Control::EXIT : Control::RETURN;
        f->code.push_back(end);
        for (const auto& [instruction, label] : branches) {
            const auto it = labels.find(label);
            if (it == labels.end()) f->problems.push_back("no label " + label);
            else f->code[instruction].target = it->second;
        }
    }
    void parse_bounds(const std::string& directives) {
        const auto all = words(directives);
        for (size_t k = 0; k < all.size(); k++) {
            if (all[k] == ".maxntid") {
                f->most_threads = 1;
                while (k + 1 < all.size() && all[k + 1][0] != '.') f->most_threads *= atoi(all[++k].c_str());
            } else if (all[k] == ".minnctapersm") {
                k++;
            } else if (all[k] != ".noreturn") {
                f->problems.push_back("line " + std::to_string(line()) + ": directive " + all[k]);
            }
        }
    }
    void parse_body() {
        for (int depth = 1; skip_blanks();) {
            if (take('{')) {
                depth++;
            } else if (take('}')) {
                if (!--depth) return;
            } else if (text[at] == '.') {
                parse_local(until(";"));
                take(';');
            } else {
                const size_t start = at;
                const std::string word = until(":; \t\n");
                if (word[0] != '@' && take(':')) {
                    labels[word] = int(f->code.size());
                } else {
                    at = start;
                    const int where = line();
                    parse_statement(trim(until(";")), where);
                    take(';');
                }
            }
        }
    }
    void parse_local(const std::string& directive) {
        const std::string first = words(directive)[0];
        if (first == ".reg") return parse_registers(directive);
        if (first == ".pragma") return;
        const Declaration d(directive);
        check(d, {".shared", ".local", ".param"}, f->problems);
        const bool shared = first == ".shared";
        u64& end = shared ? f->shared_bytes : f->local_bytes;
        end = round_up(end, d.alignment);
        locals[d.name] = {shared ? address_in(SHARED, end) : local_address(end), d.bytes, d.alignment};
        end += d.bytes;
    }

    // ---- Statements ----

    // [@[!]predicate] opcode.modifiers operands
    void parse_statement(const std::string& whole, int where) {
        if (whole.empty()) return;
        Instruction instruction;
        instruction.line = where;
        std::string rest = whole;
        if (rest[0] == '@') {
            const size_t end = rest.find_first_of(" \t");
            instruction.negated = rest[1] == '!';
            instruction.predicate = slot(rest.substr(1 + instruction.negated, end - 1 - instruction.negated));
            rest = trim(rest.substr(end));
        }
        const size_t end = std::min(rest.find_first_of(" \t\n"), rest.size());
        Statement s{"", {}, split(rest.substr(end))};
        std::istringstream name(rest.substr(0, end));
        std::getline(name, s.opcode, '.');
        for (std::string modifier; std::getline(name, modifier, '.');) s.modifiers.push_back(modifier);
        if (!assemble(s, instruction, *f, *this)) f->problems.push_back("line " + std::to_string(where) + ": " + whole);
        f->code.push_back(instruction);
    }

    // ---- Names ----

    int slot(const std::string& name) override {
        if (name == "_") return -1;
        const auto it = slots.find(name);
        if (it != slots.end()) return it->second;
        if (!is_register(name)) f->problems.push_back("line " + std::to_string(line()) + ": operand " + name);
        const int n = new_register(0);
        for (int k = 0; k < SPECIALS; k++)
            if (name == special_names[k]) f->specials.push_back({n, k});
        return slots[name] = n;
    }
    int operand(const std::string& operand) override {
        u64 value;
        if (operand == "WARP_SZ") return constant(32);
        if (number(operand, value)) return constant(value);
        const size_t plus = operand.find('+');
        const std::string base = trim(operand.substr(0, plus));
        if (const Variable* v = find(base))
            return constant(v->address + (plus == std::string::npos ? 0 : strtoll(operand.c_str() + plus + 1, nullptr, 0)));
        return slot(operand);
    }
    // `.reg .b32 %r<12>` declares %r0 to %r11, `.reg .b16 c, d` those two.
    void parse_registers(const std::string& directive) {
        for (const auto& part : split(directive)) {
            const std::string name = words(part).back();
            const size_t bracket = name.find('<');
            if (bracket == std::string::npos) declared.insert(name);
            else ranges[name.substr(0, bracket)] = strtoull(name.c_str() + bracket + 1, nullptr, 10);
        }
    }
    bool is_register(const std::string& name) const {
        if (declared.count(name) || std::find(special_names, special_names + SPECIALS, name) != special_names + SPECIALS) return true;
        const size_t digits = name.find_last_not_of("0123456789") + 1;
        const auto range = ranges.find(name.substr(0, digits));
        return digits < name.size() && range != ranges.end() && strtoull(name.c_str() + digits, nullptr, 10) < range->second;
    }
    Variable variable(const std::string& name) override {
        const Variable* v = find(name);
        if (!v) f->problems.push_back("no variable " + name);
        return v ? *v : Variable{};
    }
    void branch(int instruction, const std::string& label) override { branches.push_back({instruction, label}); }
    const Variable* find(const std::string& name) const {
        for (const auto* names : {&locals, &globals}) {
            const auto it = names->find(name);
            if (it != names->end()) return &it->second;
        }
        return nullptr;
    }
    int constant(u64 value) {
        const auto it = constants.find(value);
        return it != constants.end() ? it->second : constants[value] = new_register(value);
    }
    int new_register(u64 value) {
        f->registers.push_back(value);
        return int(f->registers.size()) - 1;
    }
};

void collect(const Function& f, std::set<const Function*>& seen, std::vector<std::string>& problems) {
    if (!seen.insert(&f).second) return;
    for (const auto& problem : f.problems) problems.push_back(f.name + ", " + problem);
    for (const auto& call : f.calls) {
        // One without a body, such as __assertfail, is an error where it is called.
        if (!call.callee) problems.push_back(f.name + ", no function " + call.name);
        else collect(*call.callee, seen, problems);
    }
}

}  // namespace

std::unique_ptr<Module> parse(const std::string& text) {
    std::unique_ptr<Module> module(new Module);
    if (text.find(".version") == std::string::npos) module->problems.push_back("a module that is no PTX");
    else Parser(*module, text).parse_module();
    for (auto& [name, function] : module->functions)
        for (auto& call : function->calls) {
            const auto it = module->functions.find(call.name);
            if (it != module->functions.end()) call.callee = it->second.get();
        }
    return module;
}

std::vector<std::string> problems_of(const Function& function) {
    std::set<const Function*> seen;
    std::vector<std::string> problems;
    collect(function, seen, problems);
    return problems;
}

}  // namespace ptx
