//! Sums down the columns and along the rows of windows.

use super::aligned::Aligned;
use super::lanes::Lanes;
use super::simd::Real;
use pulp::Simd;

/// Sums of the cells that lie these offsets away, in their order.
#[inline(always)]
pub fn sum<S: Simd, C: Real>(simd: S, cells: &[C], offsets: &[usize], sums: &mut [C]) {
    let (first, rest) = offsets.split_at(offsets.len().min(4));
    match *first {
        [a] => sum_of::<S, C, 1>(simd, cells, [a], sums, false),
        [a, b] => sum_of::<S, C, 2>(simd, cells, [a, b], sums, false),
        [a, b, c] => sum_of::<S, C, 3>(simd, cells, [a, b, c], sums, false),
        [a, b, c, d] => sum_of::<S, C, 4>(simd, cells, [a, b, c, d], sums, false),
        _ => {}
    }
    let mut four = rest.chunks_exact(4);
    for offsets in &mut four {
        let offsets = [0, 1, 2, 3].map(|i| offsets[i]);
        sum_of::<S, C, 4>(simd, cells, offsets, sums, true);
    }
    for &offset in four.remainder() {
        sum_of::<S, C, 1>(simd, cells, [offset], sums, true);
    }
}

/// One pass of [`sum`], added to the `sums` if there is something to `add` to.
#[inline(always)]
fn sum_of<S: Simd, C: Real, const N: usize>(
    simd: S,
    cells: &[C],
    offsets: [usize; N],
    sums: &mut [C],
    add: bool,
) {
    let len = sums.len();
    let sums = C::vectors_mut::<S>(sums);
    let count = sums.len();
    let rows = offsets.map(|offset| &C::vectors::<S>(&cells[offset..offset + len])[..count]);
    for (i, sum) in sums.iter_mut().enumerate() {
        let mut s = match add {
            true => C::vadd(simd, *sum, rows[0][i]),
            false => rows[0][i],
        };
        for row in &rows[1..] {
            s = C::vadd(simd, s, row[i]);
        }
        *sum = s;
    }
}

/// The cells in turn into phases of so many lanes, which begin `pitch` apart; no cell is left out, as the compiler
/// vectorises nothing less.
#[inline(always)]
fn split<const PHASES: usize, C: Real>(cells: &[C], lanes: usize, pitch: usize, phases: &mut [C]) {
    let mut rest = phases;
    let mut phases: [&mut [C]; PHASES] = std::array::from_fn(|_| {
        let (phase, after) = std::mem::take(&mut rest).split_at_mut(pitch);
        rest = after;
        &mut phase[..lanes]
    });
    for (lane, cells) in cells.as_chunks::<PHASES>().0[..lanes].iter().enumerate() {
        for (phase, cell) in phases.iter_mut().zip(cells) {
            phase[lane] = *cell;
        }
    }
}

/// Sums of the windows along rows: `kernel` cells, `stride` from one window to the next; `phases` is space.
#[inline(always)]
pub fn sum_windows<S: Simd, C: Real>(
    simd: S,
    cells: &[C],
    lanes: &Lanes,
    (phases, taps): (&mut Aligned<C>, &mut Vec<usize>),
    sums: &mut [C],
) {
    let (kernel, stride) = lanes.window();
    // Lanes beyond the last window read on, into what is left of other bands or zeros.
    let of_phase = sums.len() + lanes.extra;
    taps.clear();
    taps.extend((0..kernel).map(|k| {
        let (phase, shift) = lanes.tap(k);
        phase * of_phase + shift
    }));
    if stride == 1 {
        return sum::<S, _>(simd, cells, taps, sums);
    }
    phases.grow(stride * of_phase);
    match stride {
        2 => split::<2, _>(cells, sums.len(), of_phase, phases),
        3 => split::<3, _>(cells, sums.len(), of_phase, phases),
        stride => {
            for phase in 0..lanes.phases {
                let phases = &mut phases[phase * of_phase..][..sums.len()];
                let cells = cells[phase..].iter().step_by(stride);
                for (lane, cell) in phases.iter_mut().zip(cells) {
                    *lane = *cell;
                }
            }
        }
    }
    sum::<S, _>(simd, phases, taps, sums);
}
