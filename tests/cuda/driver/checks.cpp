// The driver's own tests: each family of instructions against known values, and a bad kernel for each check.
#include <cuda.h>
#include <stdio.h>

#include <functional>

#include "memory.hpp"
#include "ptx/machine.hpp"

using namespace ptx;

namespace {

int failures, checks;

void expect(bool holds, const std::string& what) {
    checks++;
    if (holds) return;
    failures++;
    fprintf(stderr, "FAILED: %s\n", what.c_str());
}

// ---- One thread's arithmetic ----------------------------------------------------------------------------------

std::string kernel(const std::string& body, const std::string& head = "") {
    return ".version 8.0\n.target sm_80\n.address_size 64\n" + head +
           "\n.visible .entry k(.param .u64 in, .param .u64 out)\n{\n.reg .pred %p<4>;\n.reg .b32 %r<32>;\n.reg .b64 %x, %y, %a, %b, "
           "%c, %d, %rd<32>;\nld.param.u64 %x, [in];\nld.param.u64 %y, [out];\n" +
           body + "\nret;\n}\n";
}

struct Device {
    uint64_t in, out;
    size_t in_bytes, out_bytes;
    Device(size_t in_bytes, size_t out_bytes)
        : in(allocate(in_bytes)->address), out(allocate(out_bytes)->address), in_bytes(in_bytes), out_bytes(out_bytes) {
        mark_written(range(in, in_bytes), in_bytes);
    }
    ~Device() { release(in), release(out); }
    template <class T>
    T* input() const {
        return reinterpret_cast<T*>(range(in, in_bytes).host);
    }
    template <class T>
    T* output() const {
        return reinterpret_cast<T*>(range(out, out_bytes).host);
    }
};

uint32_t serial = 100;

void run_on(const Device& device, const std::string& text, unsigned blocks = 1, unsigned threads = 1) {
    const auto module = parse(text);
    auto problems = module->problems;
    const auto it = module->functions.find("k");
    if (it != module->functions.end())
        for (const auto& problem : problems_of(*it->second)) problems.push_back(problem);
    if (!problems.empty()) throw Fault{problems[0], 0};
    Launch launch{{blocks, 1, 1}, {threads, 1, 1}, 0, std::vector<char>(16), snapshot(), serial++};
    memcpy(&launch.parameters[0], &device.in, 8);
    memcpy(&launch.parameters[8], &device.out, 8);
    run(*module, *it->second, launch);
}

// What statements leave in %d, given %a, %b and %c.
u64 result(const std::string& statements, u64 a, u64 b = 0, u64 c = 0) {
    const Device device(24, 8);
    const u64 in[] = {a, b, c};
    memcpy(device.input<u64>(), in, sizeof in);
    const std::string loads = "ld.global.b64 %a, [%x];\nld.global.b64 %b, [%x+8];\nld.global.b64 %c, [%x+16];\n";
    try {
        run_on(device, kernel(loads + "mov.b64 %d, 0;\n" + statements + "\nst.global.b64 [%y], %d;"));
    } catch (const Fault& fault) {
        expect(false, statements + ": " + fault.why);
    }
    return *device.output<u64>();
}

void gives(const std::string& statements, u64 wanted, u64 a, u64 b = 0, u64 c = 0) {
    const u64 found = result(statements, a, b, c);
    char text[128];
    snprintf(text, sizeof text, " gives %#llx, not %#llx", (unsigned long long)found, (unsigned long long)wanted);
    expect(found == wanted, statements + text);
}

u64 f(float v) { return put(v); }
u64 d(double v) { return put(v); }
u64 h(double v) { return put(f16(v)); }
u64 b(double v) { return put(bf16(v)); }
u64 i(int32_t v) { return uint32_t(v); }

void floating_point() {
    gives("add.f32 %d, %a, %b;", f(3), f(1), f(2));
    gives("sub.f64 %d, %a, %b;", d(-1), d(1), d(2));
    gives("mul.ftz.f32 %d, %a, %b;", f(0), f(1e-20f), f(1e-20f));
    gives("mul.f32 %d, %a, %b;", f(1e-20f * 1e-20f), f(1e-20f), f(1e-20f));
    gives("add.sat.f32 %d, %a, %b;", f(1), f(3), f(2));
    gives("add.sat.f32 %d, %a, %b;", f(0), f(NAN), f(2));
    gives("add.f16 %d, %a, %b;", h(2048), h(2048), h(1));  // a tie, to even
    gives("add.f16 %d, %a, %b;", h(2052), h(2050), h(1));
    gives("mul.bf16 %d, %a, %b;", b(6), b(2), b(3));
    gives("fma.rn.f32 %d, %a, %b, %c;", f(0x1p-46f), f(1 + 0x1p-23f), f(1 + 0x1p-23f), f(-(1 + 0x1p-22f)));
    gives("fma.rn.f64 %d, %a, %b, %c;", d(7), d(2), d(3), d(1));
    gives("fma.rn.bf16 %d, %a, %b, %c;", b(7), b(2), b(3), b(1));
    gives("fma.rn.bf16x2 %d, %a, %b, %c;", b(7) | b(14) << 16, b(2) | b(4) << 16, b(3) | b(3) << 16, b(1) | b(2) << 16);
    gives("div.rn.f32 %d, %a, %b;", f(1.0f / 3), f(1), f(3));
    gives("min.f32 %d, %a, %b;", f(2), f(NAN), f(2));
    gives("max.NaN.f32 %d, %a, %b;", f(NAN), f(1), f(NAN));
    gives("max.f32 %d, %a, %b;", f(0), f(-0.0f), f(0));
    gives("min.f32 %d, %a, %b;", f(-0.0f), f(0), f(-0.0f));
    gives("neg.f32 %d, %a;", f(-0.0f), f(0));
    gives("abs.f64 %d, %a;", d(2), d(-2));
    gives("neg.bf16 %d, %a;", b(-2), b(2));
    gives("copysign.f32 %d, %a, %b;", f(-3), f(-1), f(3));
    gives("sqrt.rn.f64 %d, %a;", d(3), d(9));
    gives("rcp.rn.f64 %d, %a;", d(0.25), d(4));
    // The rounding modes: one third, and a sum that no float is.
    gives("div.rz.f32 %d, %a, %b;", 0x3eaaaaaa, f(1), f(3));
    gives("div.rp.f32 %d, %a, %b;", 0x3eaaaaab, f(1), f(3));
    gives("add.rm.f32 %d, %a, %b;", f(1), f(1), f(1e-10f));
    gives("add.rp.f32 %d, %a, %b;", f(1 + 0x1p-23f), f(1), f(1e-10f));
    gives("fma.rm.f32 %d, %a, %b, %c;", f(-1 - 0x1p-23f), f(1e-5f), f(-1e-5f), f(-1));
}

void integers() {
    gives("add.s32 %d, %a, %b;", i(-1), i(1), i(-2));
    gives("sub.u64 %d, %a, %b;", ~u64(0), 1, 2);
    gives("mul.lo.s32 %d, %a, %b;", i(-6), i(2), i(-3));
    gives("mul.hi.u32 %d, %a, %b;", 1, 1u << 31, 2);
    gives("mul.hi.s32 %d, %a, %b;", i(-1), i(-1), i(2));
    gives("mul.hi.u64 %d, %a, %b;", 2, u64(1) << 63, 4);
    gives("mul.wide.s32 %d, %a, %b;", u64(-6), i(2), i(-3));
    gives("mul.wide.u32 %d, %a, %b;", u64(0xfffffffe00000001), 0xffffffff, 0xffffffff);
    gives("mul.wide.u16 %d, %a, %b;", 0xfffe0001, 0xffff, 0xffff);
    gives("mad.lo.s32 %d, %a, %b, %c;", i(-5), i(2), i(-3), i(1));
    gives("mad.wide.u32 %d, %a, %b, %c;", (u64(1) << 33) + 5, 1u << 31, 4, 5);
    gives("add.cc.u32 %r1, %a, %b;\naddc.u32 %d, %c, 0;", 8, 0xffffffff, 1, 7);
    gives("sub.cc.u32 %r1, %a, %b;\nsubc.u32 %d, %c, 0;", 6, 0, 1, 7);
    gives("div.s32 %d, %a, %b;", i(-3), i(-7), i(2));
    gives("rem.s32 %d, %a, %b;", i(-1), i(-7), i(2));
    gives("rem.u64 %d, %a, %b;", 1, 7, 2);
    gives("min.s32 %d, %a, %b;", i(-1), i(-1), i(1));
    gives("min.u32 %d, %a, %b;", 1, i(-1), i(1));
    gives("abs.s32 %d, %a;", 5, i(-5));
    gives("neg.s64 %d, %a;", u64(-5), 5);
    gives("shl.b32 %d, %a, %b;", 0, 1, 32);
    gives("shr.s32 %d, %a, %b;", i(-1), i(-5), 40);
    gives("shr.u32 %d, %a, %b;", 0x7fffffff, i(-1), 1);
    gives("shf.l.wrap.b32 %d, %a, %b, %c;", 0x23456788, 0x80000000, 0x12345678, 4 + 32);
    gives("shf.r.clamp.b32 %d, %a, %b, %c;", 0x12345678, 0x80000000, 0x12345678, 40);
    gives("and.b32 %d, %a, %b;", 8, 12, 10);
    gives("or.b64 %d, %a, %b;", 14, 12, 10);
    gives("xor.b16 %d, %a, %b;", 6, 12, 10);
    gives("not.b32 %d, %a;", 0xfffffff0, 15);
    gives("lop3.b32 %d, %a, %b, %c, 0x96;", 1, 1, 1, 1);
    gives("clz.b32 %d, %a;", 27, 16);
    gives("clz.b64 %d, %a;", 64, 0);
    gives("popc.b32 %d, %a;", 3, 0x111);
    gives("brev.b32 %d, %a;", 0x80000000, 1);
    gives("bfe.u32 %d, %a, 4, 8;", 0x67, 0x12345678);
    gives("bfe.s32 %d, %a, 4, 4;", i(-7), 0x90);
    gives("bfi.b32 %d, %a, %b, 8, 4;", 0xfffff5ff, 5, 0xffffffff);
    gives("prmt.b32 %d, %a, %b, 0x7531;", 0x77553311, 0x33221100, 0x77665544);
    gives("prmt.b32 %d, %a, %b, 0x8880;", 0xffffff80, 0x80);
}

void conversions() {
    for (uint32_t bits = 0; bits < 1 << 16; bits += 7) {
        const double value = double(get<f16>(bits));
        if (value == value) gives("cvt.f32.f16 %d, %a;", f(float(value)), bits);
        if (value == value) gives("cvt.rn.f16.f32 %d, %a;", bits, f(float(value)));
    }
    gives("cvt.rn.f16.f32 %d, %a;", h(2048), f(2049));  // ties to even
    gives("cvt.rn.f16.f32 %d, %a;", h(2052), f(2051));
    gives("cvt.rz.f16.f32 %d, %a;", h(2050), f(2051));
    gives("cvt.rp.f16.f32 %d, %a;", h(-2050), f(-2051));
    gives("cvt.rm.f16.f32 %d, %a;", h(-2052), f(-2051));
    gives("cvt.rn.f16.f32 %d, %a;", 0x7c00, f(65520));
    gives("cvt.rn.f16.f32 %d, %a;", h(65504), f(65519.996f));
    gives("cvt.rn.bf16.f32 %d, %a;", 0x3f80, 0x3f808000);  // ties to even
    gives("cvt.rn.bf16.f32 %d, %a;", 0x3f82, 0x3f818000);
    gives("cvt.rn.bf16.f32 %d, %a;", 0x3f81, 0x3f808001);
    gives("cvt.rn.bf16.f32 %d, %a;", 0x7f80, 0x7f7fffff);
    gives("cvt.f32.bf16 %d, %a;", 0x3f810000, 0x3f81);
    gives("cvt.rn.f32.f64 %d, %a;", f(0.1f), d(0.1));
    gives("cvt.rz.f32.f64 %d, %a;", f(1), d(1 + 0x1p-24 + 0x1p-30));
    gives("cvt.rzi.s32.f32 %d, %a;", i(-2), f(-2.7f));
    gives("cvt.rni.s32.f32 %d, %a;", i(2), f(2.5f));
    gives("cvt.rmi.f32.f32 %d, %a;", f(-3), f(-2.5f));
    gives("cvt.rzi.u32.f32 %d, %a;", 0, f(-2.7f));
    gives("cvt.rzi.s32.f32 %d, %a;", i(INT32_MAX), f(1e20f));
    gives("cvt.rzi.s32.f32 %d, %a;", 0, f(NAN));
    gives("cvt.rn.f32.s32 %d, %a;", f(-3), i(-3));
    gives("cvt.rn.f32.u64 %d, %a;", f(0x1p63f), u64(1) << 63);
    gives("cvt.s64.s32 %d, %a;", u64(-3), i(-3));
    gives("cvt.u64.u32 %d, %a;", 0xfffffffd, i(-3));
    gives("cvt.s16.s8 %d, %a;", i(-1), 0xff);
    gives("cvt.u8.u32 %d, %a;", 0x34, 0x1234);
    gives("cvt.sat.u8.s32 %d, %a;", 255, 0x1234);
    gives("mov.b32 {%r1, %r2}, %a;\ncvt.u64.u32 %d, %r2;", 0x1234, 0x12345678);  // by halves
    gives("mov.b64 {%r1, %r2}, %a;\nmov.b64 %d, {%r2, %r1};", 0x0000000200000001, 0x0000000100000002);
}

void predicates() {
    const auto chosen = [](const std::string& test) { return test + "\nselp.b32 %d, 1, 2, %p1;"; };
    gives(chosen("setp.lt.f32 %p1, %a, %b;"), 1, f(1), f(2));
    gives(chosen("setp.lt.f32 %p1, %a, %b;"), 2, f(NAN), f(2));
    gives(chosen("setp.ltu.f32 %p1, %a, %b;"), 1, f(NAN), f(2));
    gives(chosen("setp.neu.f32 %p1, %a, %b;"), 1, f(NAN), f(NAN));
    gives(chosen("setp.ne.f32 %p1, %a, %b;"), 2, f(NAN), f(NAN));
    gives(chosen("setp.num.f32 %p1, %a, %b;"), 1, f(1), f(2));
    gives(chosen("setp.nan.f64 %p1, %a, %b;"), 1, d(1), d(NAN));
    gives(chosen("setp.lt.s32 %p1, %a, %b;"), 1, i(-1), i(1));
    gives(chosen("setp.lo.u32 %p1, %a, %b;"), 2, i(-1), i(1));
    gives(chosen("setp.eq.ftz.f32 %p1, %a, %b;"), 1, f(1e-40f), f(0));
    gives(chosen("setp.gt.f16 %p1, %a, %b;"), 1, h(2), h(1));
    gives(chosen("setp.eq.s32 %p2, %a, %a;\nsetp.lt.and.s32 %p1, %a, %b, %p2;"), 1, 1, 2);
    gives(chosen("setp.eq.s32 %p2|%p1, %a, %b;"), 1, 1, 2);
    gives("setp.eq.s32 %p1, %a, %b;\n@%p1 bra OVER;\nmov.u32 %d, 5;\nOVER:", 5, 1, 2);
    gives("setp.eq.s32 %p1, %a, %b;\n@!%p1 bra OVER;\nmov.u32 %d, 5;\nOVER:", 0, 1, 2);
    gives("set.gt.f32.f32 %d, %a, %b;", f(1), f(2), f(1));
    gives("set.gt.u32.f32 %d, %a, %b;", 0xffffffff, f(2), f(1));
    // A loop: 1 + 2 + ... + 10.
    gives("mov.u32 %r1, 0;\nLOOP:\nadd.u32 %r1, %r1, 1;\nadd.u32 %d, %d, %r1;\nsetp.lt.u32 %p1, %r1, 10;\n@%p1 bra LOOP;", 55, 0);
}

// Within what the manual says, and at its edges both ways.
void approximations() {
    const auto errs = [](const std::string& statement, double largest, const std::function<double(double)>& exact, double from, double to) {
        double least = 0, most = 0;
        for (int k = 0; k < 500; k++) {
            const float x = float(from + (to - from) * k / 499);
            const double error = double(get<float>(result(statement, f(x)))) / exact(double(x)) - 1;
            least = std::min(least, error), most = std::max(most, error);
        }
        expect(least >= -largest && most <= largest, statement + " errs by more than it may");
        expect(least < -0.7 * largest && most > 0.7 * largest, statement + " does not err as much as it may");
    };
    errs("ex2.approx.ftz.f32 %d, %a;", 0x1.6ap-23, [](double x) { return exp2(x); }, -100, 100);
    errs("rcp.approx.ftz.f32 %d, %a;", 0x1p-23, [](double x) { return 1 / x; }, 0.01, 100);
    gives("ex2.approx.ftz.f32 %d, %a;", f(1), f(0));
    gives("ex2.approx.ftz.f32 %d, %a;", f(0), f(-INFINITY));
    gives("ex2.approx.ftz.f32 %d, %a;", f(0), f(-127));
    gives("ex2.approx.ftz.f32 %d, %a;", f(INFINITY), f(200));
    gives("rcp.approx.ftz.f32 %d, %a;", f(0.5f), f(2));
}

// ---- Memory and threads ---------------------------------------------------------------------------------------

// Kernels of 32 threads, which have their own index in %r1 and its place in 4-byte cells in %rd1 (input) and %rd2.
std::string threads(const std::string& body, const std::string& head = "") {
    return kernel("mov.u32 %r1, %tid.x;\nmul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd1, %x, %rd3;\nadd.s64 %rd2, %y, %rd3;\n" + body, head);
}

void works(const char* what, const std::string& text, const std::function<uint32_t(uint32_t)>& wanted) {
    const Device device(128, 128);
    for (uint32_t k = 0; k < 32; k++) device.input<uint32_t>()[k] = 100 + k;
    try {
        run_on(device, text, 1, 32);
        bool right = true;
        for (uint32_t k = 0; k < 32; k++) right &= device.output<uint32_t>()[k] == wanted(k);
        expect(right, std::string(what) + " gives other values");
    } catch (const Fault& fault) {
        expect(false, what + (": " + fault.why));
    }
}

void fails(const std::string& message, int code, const std::string& text) {
    const Device device(128, 128);
    try {
        run_on(device, text, 1, 32);
        expect(false, "nothing is said of: " + message);
    } catch (const Fault& fault) {
        expect(fault.why.find(message) != std::string::npos && fault.code == code, "expected " + message + ", not " + fault.why);
    }
}

const char* const SHARED_ROW = ".shared .align 4 .b8 row[128];\nmov.u64 %rd4, row;\nadd.s64 %rd5, %rd4, %rd3;\n";

void memory_and_threads() {
    const auto neighbour = [](uint32_t k) { return 100 + (k ^ 1); };
    works("a copy", threads("ld.global.nc.u32 %r2, [%rd1];\nst.global.u32 [%rd2], %r2;"), [](uint32_t k) { return 100 + k; });
    works("a vector copy",
          threads("setp.ge.u32 %p1, %r1, 8;\n@%p1 ret;\nmul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd1, %x, %rd3;\nadd.s64 %rd2, %y, %rd3;\n"
                  "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1];\nst.global.v2.u32 [%rd2+8], {%r4, %r5};\nst.global.v2.u32 [%rd2], {%r2, %r3};"),
          [](uint32_t k) { return 100 + k; });
    works("a signed byte", threads("ld.global.s8 %r2, [%x];\nst.global.u32 [%rd2], %r2;"), [](uint32_t) { return 100; });
    const std::string through_shared = std::string(SHARED_ROW) + "ld.global.u32 %r2, [%rd1];\nst.shared.u32 [%rd5], %r2;\n";
    const std::string from_neighbour = "xor.b64 %rd6, %rd3, 4;\nadd.s64 %rd7, %rd4, %rd6;\nld.shared.u32 %r3, [%rd7];\nst.global.u32 [%rd2], %r3;";
    works("a barrier", threads(through_shared + "bar.sync 0;\n" + from_neighbour), neighbour);
    works("a butterfly", threads("ld.global.u32 %r2, [%rd1];\nshfl.sync.bfly.b32 %r3|%p1, %r2, 1, 31, -1;\nst.global.u32 [%rd2], %r3;"), neighbour);
    works("a shuffle down", threads("ld.global.u32 %r2, [%rd1];\nshfl.sync.down.b32 %r3, %r2, 4, 31, -1;\nst.global.u32 [%rd2], %r3;"),
          [](uint32_t k) { return 100 + (k + 4 < 32 ? k + 4 : k); });
    works("a shuffle up by halves", threads("ld.global.u32 %r2, [%rd1];\nshfl.sync.up.b32 %r3, %r2, 1, 0x1000, -1;\nst.global.u32 [%rd2], %r3;"),
          [](uint32_t k) { return 100 + (k % 16 ? k - 1 : k); });
    works("a shuffle by index", threads("ld.global.u32 %r2, [%rd1];\nshfl.sync.idx.b32 %r3, %r2, 5, 31, -1;\nst.global.u32 [%rd2], %r3;"),
          [](uint32_t) { return 105; });
    works("an atomic sum", threads(std::string(SHARED_ROW) + "mov.u32 %r2, 0;\nst.shared.u32 [%rd5], %r2;\nbar.sync 0;\nred.shared.add.u32 [row], "
                                                              "%r1;\nbar.sync 0;\nld.shared.u32 %r3, [row];\nst.global.u32 [%rd2], %r3;"),
          [](uint32_t) { return 31 * 32 / 2; });
    works("a function", threads("{\n.param .b32 p0;\nst.param.b32 [p0+0], %r1;\n.param .b32 r0;\ncall.uni (r0), twice, (p0);\nld.param.b32 %r2, [r0+0];\n}\n"
                                "st.global.u32 [%rd2], %r2;",
                                ".func (.param .b32 result) twice(.param .b32 v)\n{\n.reg .b32 %r<3>;\nld.param.u32 %r1, [v];\nadd.u32 %r2, %r1, "
                                "%r1;\nst.param.b32 [result+0], %r2;\nret;\n}\n"),
          [](uint32_t k) { return 2 * k; });
    works("a constant table", threads("and.b32 %r2, %r1, 1;\nmul.wide.u32 %rd4, %r2, 4;\nmov.u64 %rd5, table;\nadd.s64 %rd6, %rd5, %rd4;\nld.global.u32 %r3, "
                                      "[%rd6];\nst.global.u32 [%rd2], %r3;",
                                      ".global .align 4 .b32 table[2] = {7, 9};\n"),
          [](uint32_t k) { return k % 2 ? 9 : 7; });

    fails("which is not allocated, near an allocation of 128 bytes, at its byte 128", 700, threads("ld.global.u32 %r2, [%rd1+4];"));
    fails("write of 4 bytes", 700, threads("st.global.u32 [%rd2+-4], %r1;"));
    fails("no address of the device's", 700, threads("cvt.u64.u32 %rd4, %r1;\nshl.b64 %rd4, %rd4, 4;\nld.global.u32 %r2, [%rd4];"));
    fails("misaligned access of 8 bytes", 716, threads("ld.global.v2.u32 {%r2, %r3}, [%x+4];"));
    fails("memory that nothing has written", 719, threads("ld.global.u32 %r2, [%rd2];"));
    fails("threads race", 719, threads("st.global.u32 [%y], %r1;"));
    fails("threads race", 719, threads("st.global.u32 [%rd2], %r1;\nld.global.u32 %r2, [%y];"));
    fails("threads race", 719, threads("ld.global.u32 %r2, [%rd1];\nsetp.eq.u32 %p1, %r1, 31;\n@%p1 st.global.u32 [%x], %r1;"));
    fails("ld.global.nc of what this kernel writes", 719, threads("st.global.u32 [%rd2], %r1;\nld.global.nc.u32 %r2, [%rd2];"));
    fails("threads race", 719, threads(through_shared + "ld.shared.u32 %r3, [row];"));
    fails("memory that nothing has written", 719, threads(std::string(SHARED_ROW) + "ld.shared.u32 %r2, [%rd5];"));
    fails("beyond the shared memory", 700, threads(std::string(SHARED_ROW) + "st.shared.u32 [%rd5+128], %r1;"));
    fails("beyond the kernel's parameters", 700, threads("ld.param.u64 %rd4, [out+8];"));
    fails("write to a variable of the module", 700, threads("mov.u64 %rd5, table;\nst.global.u32 [%rd5], %r1;", ".global .align 4 .b32 table[2] = {7, 9};\n"));
    fails("different barriers", 719, threads("setp.lt.u32 %p1, %r1, 9;\n@%p1 bra FEW;\nbar.sync 0;\nret;\nFEW:\nbar.sync 0;"));
    fails("not all threads of the mask meet", 719, threads("setp.lt.u32 %p1, %r1, 9;\n@%p1 ret;\nshfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;"));
    fails("its own mask leaves out", 719, threads("shfl.sync.bfly.b32 %r3, %r1, 1, 31, 3;"));
    fails("trap", 719, threads("trap;"));
    fails("call of absent", 719, threads("call.uni absent, ();", ".extern .func absent\n()\n;\n"));

    fails("frobnicate.u32 %r2, %r1", 0, threads("frobnicate.u32 %r2, %r1;"));
    fails("add.sideways.u32 %r2, %r1, %r1", 0, threads("add.sideways.u32 %r2, %r1, %r1;"));
    fails("cvt.rn.f32.e4m3 %r2, %r1", 0, threads("cvt.rn.f32.e4m3 %r2, %r1;"));
    fails("operand %clock", 0, threads("mov.u32 %r2, %clock;"));
    fails("directive .cluster", 0, threads(".cluster .b32 x[4];"));
    fails("directive .tex", 0, threads("", ".tex .u32 t;\n"));
    fails("no label NOWHERE", 0, threads("bra NOWHERE;"));
    fails("no PTX", 0, "ELF");
}

// ---- The driver's calls ---------------------------------------------------------------------------------------

void calls() {
    CUcontext context;
    cuDevicePrimaryCtxRetain(&context, 0);
    CUdeviceptr p;
    expect(cuMemAlloc(&p, 8) == CUDA_ERROR_INVALID_CONTEXT, "memory without a context");
    cuCtxSetCurrent(context);
    expect(cuMemAlloc(&p, 0) == CUDA_ERROR_INVALID_VALUE, "an allocation of nothing");
    expect(cuMemAlloc(&p, size_t(1) << 40) == CUDA_ERROR_OUT_OF_MEMORY, "an allocation of everything");
    expect(cuMemAlloc(&p, 8) == CUDA_SUCCESS, "an allocation");
    char bytes[16] = {};
    expect(cuMemcpyDtoHAsync(bytes, p, 8, nullptr) == CUDA_ERROR_LAUNCH_FAILED, "a copy of what nothing has written");
    expect(cuMemcpyHtoDAsync(p, bytes, 16, nullptr) == CUDA_ERROR_INVALID_VALUE, "a copy to beyond an allocation");
    expect(cuMemcpyHtoDAsync(p, bytes, 8, nullptr) == CUDA_SUCCESS, "a copy");
    expect(cuMemcpyDtoHAsync(bytes, p, 8, nullptr) == CUDA_SUCCESS, "a copy back");
    expect(cuMemFreeAsync(p, nullptr) == CUDA_SUCCESS, "a release");
    expect(cuMemFreeAsync(p, nullptr) == CUDA_ERROR_INVALID_VALUE, "a second release");

    CUmodule module;
    CUfunction function;
    expect(cuModuleLoadData(&module, "no kernels") == CUDA_ERROR_INVALID_PTX, "a module that is no PTX");
    const std::string text = ".version 8.0\n.target sm_80\n.visible .entry k()\n.maxntid 64, 1, 1\n{\nret;\n}\n.visible .entry odd()\n{\nodd.u32;\n}\n";
    expect(cuModuleLoadData(&module, text.c_str()) == CUDA_SUCCESS, "a module");
    expect(cuModuleGetFunction(&function, module, "absent") == CUDA_ERROR_NOT_FOUND, "a kernel that is not there");
    expect(cuModuleGetFunction(&function, module, "odd") == CUDA_ERROR_INVALID_PTX, "a kernel that is not understood");
    expect(cuModuleGetFunction(&function, module, "k") == CUDA_SUCCESS, "a kernel");
    const auto launch = [&](unsigned grid, unsigned block) { return cuLaunchKernel(function, grid, 1, 1, block, 1, 1, 0, nullptr, nullptr, nullptr); };
    expect(launch(0, 32) == CUDA_ERROR_INVALID_VALUE, "a grid of nothing");
    expect(launch(1, 65) == CUDA_ERROR_INVALID_VALUE, "a block larger than the kernel's");
    expect(launch(2, 64) == CUDA_SUCCESS, "a launch");
}

}  // namespace

int main() {
    floating_point();
    integers();
    conversions();
    predicates();
    approximations();
    memory_and_threads();
    fprintf(stderr, "what follows is refused as it should be:\n");
    calls();
    printf("%d of %d checks of the driver failed\n", failures, checks);
    return failures ? 1 : 0;
}
