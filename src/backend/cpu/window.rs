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
        let sizes = [0, 1, 2].map(|a| self.geometry.axes[a].padded_len(o[a]));
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
