//! Rows turned into columns, a square of vectors at a time.

use super::vector::{InstructionSet, Kernel, Real, Vector, MOST_LANES};

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
        for row in (0..rows).step_by(lanes) {
            for column in (0..columns).step_by(lanes) {
                if rows - row < lanes || columns - column < lanes {
                    for r in row..rows.min(row + lanes) {
                        for c in column..columns.min(column + lanes) {
                            to[c * pitch + r] = cells[r * step + c];
                        }
                    }
                    continue;
                }
                let mut square = [V::<C, I>::zero(); MOST_LANES];
                for i in 0..lanes {
                    square[i] = V::<C, I>::load(&cells[(row + i) * step + column..]);
                }
                turn(&mut square);
                for i in 0..lanes {
                    square[i].store(&mut to[(column + i) * pitch + row..]);
                }
            }
        }
    }
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
