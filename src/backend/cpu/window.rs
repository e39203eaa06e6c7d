//! Windows one by one, in f64 as their definition reads: those that do not hold.

use super::element::Element;
use super::rule::Window;
use super::vector::Real;
use super::view::View;
use crate::geometry::Geometry;

/// The cells of a window, read from the tensors.
pub struct Alone<'a, T> {
    pub x: View<'a, T>,
    pub z: View<'a, T>,
    pub geometry: &'a Geometry,
}

impl<T: Element> Alone<'_, T> {
    /// Fills `window` with the cells of the one at depth, row and column `o` of a plane.
    pub fn read(&self, plane: usize, o: [usize; 3], window: &mut Window) {
        window.x.clear();
        window.z.clear();
        for at in self.cells(o) {
            window.x.push(self.x.cell(plane, at).widen().to_f64());
            window.z.push(self.z.cell(plane, at).widen().to_f64());
        }
        let sizes = [0, 1, 2].map(|a| padded_len(&self.geometry.axes[a], o[a]));
        window.padded =
            sizes.iter().map(|&size| size as f64).product::<f64>() - window.x.len() as f64;
    }

    /// Depth, row and column of its cells, in row-major order.
    pub fn cells(&self, o: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
        let [depths, rows, columns] = [0, 1, 2].map(|a| self.geometry.axes[a].window(o[a]));
        depths.flat_map(move |d| {
            let columns = columns.clone();
            rows.clone()
                .flat_map(move |h| columns.clone().map(move |w| [d, h, w]))
        })
    }
}

/// Cells of a window along an axis, padded ones included; what hangs over the padding is none.
pub fn padded_len(axis: &crate::geometry::Axis, o: usize) -> usize {
    match axis.adaptive {
        true => axis.window(o).len(),
        false => {
            let padded = axis.input.saturating_add(2 * axis.padding);
            axis.kernel.min(padded - o * axis.stride)
        }
    }
}
