//! Some cells of every plane, the same of all, and their gradients put back.

use super::element::Element;
use super::plan::TASK_CELLS;
use rayon::prelude::*;

/// The cells with these indices of planes of so many cells.
pub fn gather<T: Element>(planes: &[T], cells: usize, indices: &[u32]) -> Vec<T> {
    by_planes(planes, [cells, indices.len()], |plane, kept| {
        for (kept, &index) in kept.iter_mut().zip(indices) {
            *kept = plane[index as usize];
        }
    })
}

/// Planes of so many cells that have these at the indices, and zeros elsewhere.
pub fn scatter<T: Element>(kept: &[T], cells: usize, indices: &[u32]) -> Vec<T> {
    by_planes(kept, [indices.len(), cells], |kept, plane| {
        for (&kept, &index) in kept.iter().zip(indices) {
            plane[index as usize] = kept;
        }
    })
}

/// What becomes of planes of so many cells: as many of another size, zeros until they are written.
fn by_planes<T: Element>(
    planes: &[T],
    [from, to]: [usize; 2],
    turn: impl Fn(&[T], &mut [T]) + Sync,
) -> Vec<T> {
    let mut result = vec![T::default(); planes.len() / from * to];
    planes
        .par_chunks(from)
        .zip(result.par_chunks_mut(to))
        .with_min_len(TASK_CELLS.div_ceil(from))
        .for_each(|(plane, result)| turn(plane, result));
    result
}
