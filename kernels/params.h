// What src/backend/params.rs declares: the one argument of every kernel besides its buffers.

struct Divisor {
    u64 value;
    u32 multiplier, shift;
};

struct Axis {
    u64 input, output, reach, padding;
    u64 size, padded;
    Divisor stride;
    u64 adaptive;
};

template <typename C>
struct Temperature {
    C sign, unit, inverse, scale, rate;
    C exponent;
};

struct Params {
    Axis axes[3];
    u64 input[5], logits[5], grad[5];
    Divisor channels;
    u64 items;
    Divisor columns, rows, depths;
    Divisor folded_columns, folded_rows;
    u64 windows, cells;
    u32 input_vectors, grad_vectors, output_vectors, misaligned;
    u32 nan_to_num, exact, count, team;
    u32 across, tile_rows, tile_columns, logits_vectors;
    Temperature<float> in_single;
    // In f64, whose bits a language without it has in integers.
    Temperature<DOUBLE> in_double;
};
static_assert(sizeof(Params) == 576, "the layout that params.rs has");

// What Params::count says is counted of a window.
#define COUNT_CELLS 0
#define COUNT_PADDING 1
#define COUNT_NOTHING 2

DEVICE u32 divide(u32 n, CONSTANT Divisor& d) { return (high_product(n, d.multiplier) + n) >> d.shift; }
DEVICE u64 divide(u64 n, CONSTANT Divisor& d) { return n / d.value; }
