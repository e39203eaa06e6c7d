// Where windows and cells are.

template <typename I>
struct Position {
    I plane, depth, row, column;
};

template <typename I>
DEVICE Position<I> position(I item, CONSTANT Params& p) {
    Position<I> at;
    I rest = divide(item, p.columns);
    at.column = item - rest * I(p.columns.value);
    I deeper = divide(rest, p.rows);
    at.row = rest - deeper * I(p.rows.value);
    at.plane = divide(deeper, p.depths);
    at.depth = deeper - at.plane * I(p.depths.value);
    return at;
}

template <typename I>
DEVICE I offset(CONSTANT u64* strides, Position<I> at, CONSTANT Params& p) {
    I batch = divide(at.plane, p.channels);
    I channel = at.plane - batch * I(p.channels.value);
    return batch * I(strides[0]) + channel * I(strides[1]) + at.depth * I(strides[2]) + at.row * I(strides[3]) +
           at.column * I(strides[4]);
}

// A cell from its plane's first. Where rows are one long row for windows but not in memory, that is unfolded.
template <typename I>
DEVICE I within_plane(CONSTANT u64* strides, I depth, I row, I column, CONSTANT Params& p) {
    if (p.folded_columns.value) {
        const I above = divide(column, p.folded_columns), deeper = divide(above, p.folded_rows);
        column -= above * I(p.folded_columns.value);
        row += above - deeper * I(p.folded_rows.value);
        depth += deeper;
    }
    return depth * I(strides[2]) + row * I(strides[3]) + column * I(strides[4]);
}

// The index of a window among those of all planes, which is that of its output.
template <typename I>
DEVICE I output_index(Position<I> at, CONSTANT Params& p) {
    return ((at.plane * I(p.axes[0].output) + at.depth) * I(p.axes[1].output) + at.row) * I(p.axes[2].output) +
           at.column;
}

template <typename I>
DEVICE I input_index(Position<I> at, CONSTANT Params& p) {
    return ((at.plane * I(p.axes[0].input) + at.depth) * I(p.axes[1].input) + at.row) * I(p.axes[2].input) +
           at.column;
}

template <typename I>
struct Range {
    I begin, end;
};

template <typename I>
DEVICE I least(I a, I b) {
    return a < b ? a : b;
}

// Cells from `at` to the end of a row of so many.
template <typename I>
DEVICE I left_of(I at, I cells) {
    return at < cells ? cells - at : I(0);
}

// The cells of window o.
template <typename I>
DEVICE Range<I> window(CONSTANT Axis& axis, I o) {
    I input = I(axis.input);
    if (axis.adaptive) {
        I output = I(axis.output);
        return {o * input / output, ((o + 1) * input + output - 1) / output};
    }
    I first = o * I(axis.stride.value), padding = I(axis.padding);
    return {first > padding ? first - padding : I(0), least(first + I(axis.reach), input)};
}

// The windows of cell i.
template <typename I>
DEVICE Range<I> windows_of(CONSTANT Axis& axis, I i) {
    I output = I(axis.output), reach = I(axis.reach);
    if (axis.adaptive) {
        I input = I(axis.input);
        return {i * output / input, ((i + 1) * output + input - 1) / input};
    }
    I first = i < reach ? I(0) : divide(I(i - reach), axis.stride) + 1;
    return {first, least(divide(I(i + I(axis.padding)), axis.stride) + 1, output)};
}

// The cells of window o with the padded ones; what hangs over the padding is none.
template <typename I>
DEVICE u64 with_padding(CONSTANT Axis& axis, I o) {
    const Range<I> cells = window(axis, o);
    if (axis.adaptive) return cells.end - cells.begin;
    return least(axis.size, axis.padded - u64(o) * axis.stride.value);
}

// What a window's sum is divided by.
template <typename C, typename I>
DEVICE C count_of(Position<I> at, CONSTANT Params& p) {
    if (p.count == COUNT_NOTHING) return C(1);
    if (p.count == COUNT_PADDING)
        return C(with_padding(p.axes[0], at.depth)) * C(with_padding(p.axes[1], at.row)) *
               C(with_padding(p.axes[2], at.column));
    const Range<I> d = window(p.axes[0], at.depth), h = window(p.axes[1], at.row), w = window(p.axes[2], at.column);
    return C(d.end - d.begin) * C(h.end - h.begin) * C(w.end - w.begin);
}

// The cells of window o and those behind it that no window has, where windows share none.
template <typename I>
DEVICE Range<I> own(CONSTANT Axis& axis, I o) {
    I stride = I(axis.stride.value), padding = I(axis.padding), input = I(axis.input);
    I begin = o == 0 ? I(0) : o * stride - padding;
    return {begin, o + 1 == I(axis.output) ? input : least((o + 1) * stride - padding, input)};
}
