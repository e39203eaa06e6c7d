//! Windows one by one, in f64 as their definition reads: those that do not hold.

use super::element::Element;
use super::rule::Window;
use super::vector::Real;
use super::view::{Area, View};
use crate::geometry::Geometry;

/// The cells of a window, read from the tensors.
pub struct Alone<'a, T> {
    pub x: View<'a, T>,
    /// For rules with logits of their own.
    pub z: Option<View<'a, T>>,
    pub geometry: &'a Geometry,
}

impl<T: Element> Alone<'_, T> {
    /// Fills `window` with the cells of the one at depth, row and column `o` of a plane.
    pub fn read(&self, plane: usize, o: [usize; 3], window: &mut Window) {
        let area = self.area(o);
        let fill = |to: &mut Vec<f64>, view: &View<'_, T>| {
            to.clear();
            to.extend(view.cells(plane, &area).map(|cell| cell.widen().to_f64()));
        };
        fill(&mut window.x, &self.x);
        if let Some(z) = &self.z {
            fill(&mut window.z, z);
        }
        let sizes = [0, 1, 2].map(|a| padded_len(&self.geometry.axes[a], o[a]));
        window.padded =
            sizes.iter().map(|&size| size as f64).product::<f64>() - window.x.len() as f64;
    }

    /// Its cells.
    pub fn area(&self, o: [usize; 3]) -> Area {
        let [depths, rows, columns] = [0, 1, 2].map(|a| self.geometry.axes[a].window(o[a]));
        Area {
            depths,
            rows,
            columns,
        }
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
