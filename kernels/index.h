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

// The cells of window o and those behind it that no window has, where windows share none.
template <typename I>
DEVICE Range<I> own(CONSTANT Axis& axis, I o) {
    I stride = I(axis.stride.value), padding = I(axis.padding), input = I(axis.input);
    I begin = o == 0 ? I(0) : o * stride - padding;
    return {begin, o + 1 == I(axis.output) ? input : least((o + 1) * stride - padding, input)};
}
