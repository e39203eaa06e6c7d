//! Rows turned into columns, a square of vectors at a time.

use super::aligned::Aligned;
use super::vector::{prefetch, Arch, InstructionSet, Kernel, Real, Vector, MOST_LANES};

/// Copies row after row of cells, so that each becomes a column.
pub struct Turn<'a, C> {
    pub cells: &'a [C],
    /// From a row to the next.
    pub step: usize,
    pub rows: usize,
    pub columns: usize,
    /// Column after column, so far apart.
    pub to: &'a mut [C],
    pub pitch: usize,
}

impl<C: Real> Kernel for Turn<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<C, I> = <C as Real>::Vector<I>;
        let Self {
            cells,
            step,
            rows,
            columns,
            to,
            pitch,
        } = self;
        let lanes = V::<C, I>::LANES;
        if rows < lanes || columns < lanes {
            for row in 0..rows {
                for column in 0..columns {
                    to[column * pitch + row] = cells[row * step + column];
                }
            }
            return;
        }
        // Checked once for all squares.
        assert!((rows - 1) * step + columns <= cells.len());
        assert!((columns - 1) * pitch + rows <= to.len());
        for row in starts(rows, lanes) {
            for column in starts(columns, lanes) {
                let mut square = [V::<C, I>::zero(); MOST_LANES];
                for (i, vector) in square.iter_mut().enumerate().take(lanes) {
                    let at = (row + i) * step + column;
                    // Most turns are of one group of planes after the other, each too small for a processor to foresee the next.
                    prefetch(cells, at + rows * step);
                    // SAFETY: a part of a row, which was asserted to be inside.
                    *vector = V::<C, I>::load(unsafe { cells.get_unchecked(at..at + lanes) });
                }
                turn(&mut square);
                for (i, vector) in square.iter().enumerate().take(lanes) {
                    let at = (column + i) * pitch + row;
                    // SAFETY: a part of a column, as above.
                    vector.store(unsafe { to.get_unchecked_mut(at..at + lanes) });
                }
            }
        }
    }
}

/// So many values of each of `unit` planes, plane after plane, and whatever lies behind: in `room` if they lie abreast.
pub fn plane_after_plane<'a, C: Real>(
    arch: Arch,
    values: &'a [C],
    unit: usize,
    count: usize,
    room: &'a mut Aligned<C>,
) -> &'a [C] {
    // One value of each plane lies right either way.
    if unit == 1 || count == 1 {
        return values;
    }
    room.grow(count * unit);
    arch.run(Turn {
        cells: values,
        step: unit,
        rows: count,
        columns: unit,
        to: room,
        pitch: count,
    });
    room
}

/// Where squares begin: the last reaches back.
fn starts(count: usize, lanes: usize) -> impl Iterator<Item = usize> {
    (0..count)
        .step_by(lanes)
        .map(move |at| at.min(count - lanes))
}

/// Turns as many vectors as each has lanes: every round deals the upper half in between the lower one.
#[inline(always)]
fn turn<V: Vector>(square: &mut [V; MOST_LANES]) {
    let half = V::LANES / 2;
    let mut rounds = V::LANES;
    while rounds > 1 {
        let mut dealt = *square;
        for i in 0..half {
            [dealt[2 * i], dealt[2 * i + 1]] = V::interleave([square[i], square[i + half]]);
        }
        *square = dealt;
        rounds /= 2;
    }
}
