//! Sums down the columns and along the rows of windows.

use super::aligned::Aligned;
use super::lanes::Lanes;
use super::simd::Real;
use super::weigh::load;
use pulp::Simd;

/// Sums of the cells that lie these offsets away, in their order.
#[inline(always)]
pub fn sum<S: Simd, C: Real>(simd: S, cells: &[C], offsets: &[usize], sums: &mut [C]) {
    for (pass, offsets) in offsets.chunks(8).enumerate() {
        let add = pass > 0;
        match *offsets {
            [a] => sum_of::<S, C, 1>(simd, cells, [a], sums, add),
            [a, b] => sum_of::<S, C, 2>(simd, cells, [a, b], sums, add),
            [a, b, c] => sum_of::<S, C, 3>(simd, cells, [a, b, c], sums, add),
            [a, b, c, d] => sum_of::<S, C, 4>(simd, cells, [a, b, c, d], sums, add),
            [a, b, c, d, e] => sum_of::<S, C, 5>(simd, cells, [a, b, c, d, e], sums, add),
            [a, b, c, d, e, f] => sum_of::<S, C, 6>(simd, cells, [a, b, c, d, e, f], sums, add),
            [a, b, c, d, e, f, g] => {
                sum_of::<S, C, 7>(simd, cells, [a, b, c, d, e, f, g], sums, add)
            }
            [a, b, c, d, e, f, g, h] => {
                sum_of::<S, C, 8>(simd, cells, [a, b, c, d, e, f, g, h], sums, add)
            }
            _ => {}
        }
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

/// The cells in turn into phases of so many lanes, whole [`GROUP`]s, which begin `pitch` apart.
#[inline(always)]
fn split<const PHASES: usize, C: Real>(cells: &[C], lanes: usize, pitch: usize, phases: &mut [C]) {
    let groups = cells.as_chunks::<PHASES>().0.as_chunks::<GROUP>().0;
    for (i, group) in groups[..lanes / GROUP].iter().enumerate() {
        // By value, so that the compiler need not think of stores between the loads.
        let group = *group;
        let mut split = [[C::default(); GROUP]; PHASES];
        for (lane, cells) in group.iter().enumerate() {
            for (phase, cell) in cells.iter().enumerate() {
                split[phase][lane] = *cell;
            }
        }
        for (phase, lanes) in split.iter().enumerate() {
            phases[phase * pitch + i * GROUP..][..GROUP].copy_from_slice(lanes);
        }
    }
}

/// [`split`] into three where the instruction set has [`Real::thirds`].
#[inline(always)]
fn split_in_three<S: Simd, C: Real>(
    simd: S,
    cells: &[C],
    lanes: usize,
    pitch: usize,
    phases: &mut [C],
) -> Option<()> {
    let vector = C::lanes::<S>();
    for at in (0..lanes).step_by(vector) {
        let three = [
            load::<S, C>(cells, 3 * at),
            load::<S, C>(cells, 3 * at + vector),
            load::<S, C>(cells, 3 * at + 2 * vector),
        ];
        let thirds = C::thirds(simd, three)?;
        for (phase, third) in thirds.into_iter().enumerate() {
            let lanes = &mut phases[phase * pitch + at..][..vector];
            C::vectors_mut::<S>(lanes)[0] = third;
        }
    }
    Some(())
}

/// Windows along rows come in whole groups: the most lanes of a vector.
pub const GROUP: usize = 16;

/// Where the cells of so many windows along rows lie in their [`lanes_of`].
#[inline(always)]
pub fn taps(lanes: &Lanes, windows: usize, taps: &mut Vec<usize>) {
    taps.clear();
    taps.extend((0..lanes.window().0).map(|k| {
        let (phase, shift) = lanes.tap(k);
        phase * (windows + lanes.extra) + shift
    }));
}

/// The cells of so many windows along rows, split into `phases` where the stride is not one.
///
/// Lanes beyond the last window read on, into what is left of other bands or zeros.
#[inline(always)]
pub fn lanes_of<'a, S: Simd, C: Real>(
    simd: S,
    cells: &'a [C],
    lanes: &Lanes,
    windows: usize,
    phases: &'a mut Aligned<C>,
) -> &'a [C] {
    let (_, stride) = lanes.window();
    if stride == 1 {
        return cells;
    }
    let of_phase = windows + lanes.extra;
    phases.grow(stride * of_phase);
    match stride {
        2 => split::<2, _>(cells, windows, of_phase, phases),
        3 => {
            if split_in_three(simd, cells, windows, of_phase, phases).is_none() {
                split::<3, _>(cells, windows, of_phase, phases);
            }
        }
        stride => {
            for phase in 0..lanes.phases {
                let phases = &mut phases[phase * of_phase..][..windows];
                let cells = cells[phase..].iter().step_by(stride);
                for (lane, cell) in phases.iter_mut().zip(cells) {
                    *lane = *cell;
                }
            }
        }
    }
    phases
}
