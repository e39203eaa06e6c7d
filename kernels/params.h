// What src/backend/params.rs declares: the one argument of every kernel besides its buffers.

struct Divisor {
    u64 value;
    u32 multiplier, shift;
};

struct Axis {
    u64 input, output, reach, padding;
    Divisor stride;
    u64 adaptive;
};

template <typename C>
struct Temperature {
    C sign, unit, inverse, scale, rate;
};

struct Params {
    Axis axes[3];
    u64 input[5], grad[5];
    Divisor channels;
    u64 items;
    Divisor columns, rows, depths, parts;
    u64 windows;
    u32 input_vectors, grad_vectors, output_vectors;
    u32 nan_to_num, exact;
    Temperature<float> in_single;
    // In f64, whose bits a language without it has in integers.
    Temperature<DOUBLE> in_double;
};
DEVICE u32 divide(u32 n, CONSTANT Divisor& d) { return (high_product(n, d.multiplier) + n) >> d.shift; }
DEVICE u64 divide(u64 n, CONSTANT Divisor& d) { return n / d.value; }
static_assert(sizeof(Params) == 424, "the layout that params.rs has");
