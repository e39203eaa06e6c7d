//! Rectangles of an image.

/// In pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// The tiles of an image, row by row of tiles from the top.
pub fn rows(width: u32, height: u32, tile: u32) -> impl Iterator<Item = Vec<Rect>> {
    let along = move |size: u32| {
        let starts = (0..size).step_by(tile as usize);
        starts.map(move |start| (start, tile.min(size - start)))
    };
    along(height).map(move |(y, height)| {
        let row = along(width).map(|(x, width)| Rect {
            x,
            y,
            width,
            height,
        });
        row.collect()
    })
}
