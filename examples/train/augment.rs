//! Small random shifts, turns and changes of size.

use rand::Rng;

/// Pixels that an image is moved by, at most.
const SHIFT: f32 = 2.0;
/// Radians that it is turned by, at most.
const TURN: f32 = 0.2;
/// Part of its size that it grows or shrinks by, at most.
const SCALE: f32 = 0.12;

/// Appends `image`, moved at random about its middle, as numbers from 0 to 1; what comes in from outside is 0.
pub fn moved(image: &[u8], [height, width]: [usize; 2], rng: &mut impl Rng, out: &mut Vec<f32>) {
    let mut within = |limit: f32| rng.random_range(-limit..=limit);
    let (dy, dx, angle, scale) = (
        within(SHIFT),
        within(SHIFT),
        within(TURN),
        1.0 + within(SCALE),
    );
    let (sin, cos) = (angle.sin() * scale, angle.cos() * scale);
    let (cy, cx) = ((height - 1) as f32 / 2.0, (width - 1) as f32 / 2.0);
    let pixel = |y: isize, x: isize| match y >= 0 && x >= 0 {
        true if (y as usize) < height && (x as usize) < width => {
            f32::from(image[y as usize * width + x as usize]) / 255.0
        }
        _ => 0.0,
    };
    for y in 0..height {
        for x in 0..width {
            let (v, u) = (y as f32 - cy - dy, x as f32 - cx - dx);
            let (sy, sx) = (cy + sin * u + cos * v, cx + cos * u - sin * v);
            let (fy, fx) = (sy - sy.floor(), sx - sx.floor());
            let (iy, ix) = (sy.floor() as isize, sx.floor() as isize);
            let upper = pixel(iy, ix) * (1.0 - fx) + pixel(iy, ix + 1) * fx;
            let lower = pixel(iy + 1, ix) * (1.0 - fx) + pixel(iy + 1, ix + 1) * fx;
            out.push(upper * (1.0 - fy) + lower * fy);
        }
    }
}
