//! SoftPool of a tile of the output: block after block of its windows.

use super::block::{self, Block, Temperature, Windows};
use super::direct;
use super::element::Element;
use super::tiles::{pieces, Tile};
use super::view::View;
use crate::backend::Weighting;
use crate::geometry::Geometry;
use pulp::{Simd, WithSimd};

/// The work on one tile.
pub struct Forward<'a, T: Element> {
    pub input: View<'a, T>,
    pub geometry: &'a Geometry,
    pub weighting: Weighting,
    pub block: &'a mut Block<T>,
    pub tile: &'a Tile,
    pub output: &'a mut [T],
}

impl<T: Element> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            input,
            geometry,
            weighting,
            block,
            tile,
            output,
        } = self;
        let temperature = Temperature::new(weighting.beta);
        let height = geometry.axes[1].output;
        let size = [tile.rows.len(), tile.columns.len()];
        let width = block::width(geometry);
        let planes = (width / size[1]).max(1);
        for (row, at) in tile.rows.clone().enumerate() {
            for group in pieces(tile.planes.len(), planes) {
                for columns in pieces(size[1], width) {
                    let windows = Windows {
                        planes: shift(&group, tile.planes.start),
                        row: [at / height, at % height],
                        columns: shift(&columns, tile.columns.start),
                    };
                    block.load::<S>(input, geometry, &windows, temperature.sign);
                    block.sum(simd, temperature);
                    block.outputs(simd, temperature);
                    for (segment, plane) in group.clone().enumerate() {
                        let start = (plane * size[0] + row) * size[1] + columns.start;
                        let y = &block.mean[segment * block.segment..][..columns.len()];
                        let out = &mut output[start..start + columns.len()];
                        T::narrow(y, out);
                        if !super::simd::all_finite(y) {
                            let input = input.plane(tile.planes.start + plane);
                            let at = [windows.row[0], windows.row[1], windows.columns.start];
                            exceptions(input, geometry, weighting, (at, y), out);
                        }
                    }
                }
            }
        }
    }
}

impl<T: Element> Forward<'_, T> {
    /// The tile by the definition.
    pub fn direct(self) {
        let height = self.geometry.axes[1].output;
        let mut output = self.output.iter_mut();
        for plane in self.tile.planes.clone() {
            let input = self.input.plane(plane);
            for r in self.tile.rows.clone() {
                for w in self.tile.columns.clone() {
                    let at = [r / height, r % height, w];
                    if let Some(y) = output.next() {
                        *y = direct::window(input, self.geometry, self.weighting, at);
                    }
                }
            }
        }
    }
}

fn shift(range: &std::ops::Range<usize>, by: usize) -> std::ops::Range<usize> {
    range.start + by..range.end + by
}

/// Windows with values that are not finite, by the definition; `at` is the first window of the row's outputs `y`.
#[cold]
fn exceptions<T: Element>(
    plane: super::view::Plane<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    ([d, h, w], y): ([usize; 3], &[T::Compute]),
    out: &mut [T],
) {
    for (i, (y, out)) in y.iter().zip(out).enumerate() {
        if !super::simd::all_finite(&[*y]) {
            *out = direct::window(plane, geometry, weighting, [d, h, w + i]);
        }
    }
}
