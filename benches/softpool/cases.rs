//! The shapes and windows that are measured.

/// What is pooled.
pub struct Case {
    pub name: String,
    /// `(N, C, spatial…)`
    pub shape: Vec<usize>,
    /// One size for each spatial dimension, as are stride and padding.
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub padding: Vec<usize>,
    /// Other ranks and layouts of the same bytes, instead of SoftPool's peers.
    pub views: bool,
}

/// The same pooling as that of planes: in two dimensions, the leading ones with channels.
pub struct Planes {
    pub shape: [usize; 4],
    pub kernel: (usize, usize),
    pub stride: (usize, usize),
    pub padding: (usize, usize),
}

/// A ResNet's stem at batch 8, with three windows; a large activation; PlainUSR's local attention; spatial pyramid
/// pooling, YOLO's among it; a ResNet's head; frames of a video; a long series; one small map; and the first again in
/// other ranks and layouts.
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        case(&[8, 64, 112, 112], 2, 2, 0),
        case(&[8, 64, 112, 112], 3, 2, 0),
        case(&[8, 64, 112, 112], 3, 2, 1),
        case(&[20, 32, 128, 128], 2, 2, 0),
        case(&[8, 16, 256, 256], 7, 3, 0),
        case(&[8, 64, 28, 28], 5, 1, 2),
        case(&[8, 64, 28, 28], 13, 1, 6),
        case(&[8, 256, 20, 20], 5, 1, 2),
        case(&[8, 2048, 7, 7], 7, 7, 0),
        video(),
        case(&[4, 64, 32768], 2, 2, 0),
        case(&[1, 64, 8, 8], 2, 2, 0),
    ];
    for (kernel, stride) in [(2, 2), (3, 2)] {
        let mut views = case(&[8, 64, 112, 112], kernel, stride, 0);
        views.name += " views";
        views.views = true;
        cases.push(views);
    }
    cases
}

fn case(shape: &[usize], kernel: usize, stride: usize, padding: usize) -> Case {
    let rank = shape.len() - 2;
    let mut name = format!("{} {kernel}/{stride}", joined(shape, "x"));
    if padding > 0 {
        name += &format!(" p{padding}");
    }
    Case {
        name,
        shape: shape.to_vec(),
        kernel: vec![kernel; rank],
        stride: vec![stride; rank],
        padding: vec![padding; rank],
        views: false,
    }
}

/// Frames are pooled in their height and width alone.
fn video() -> Case {
    let (shape, window) = (vec![2, 64, 8, 56, 56], vec![1, 2, 2]);
    Case {
        name: format!("{} ({})", joined(&shape, "x"), joined(&window, ",")),
        shape,
        kernel: window.clone(),
        stride: window,
        padding: vec![0; 3],
        views: false,
    }
}

fn joined(sizes: &[usize], by: &str) -> String {
    let sizes: Vec<_> = sizes.iter().map(usize::to_string).collect();
    sizes.join(by)
}

impl Case {
    pub fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// For who pools in two dimensions only.
    pub fn planes(&self) -> Planes {
        let last = |sizes: &[usize], one: usize| match *sizes {
            [.., h, w] => (h, w),
            [w] => (one, w),
            [] => (one, one),
        };
        let spatial = &self.shape[2..];
        let (h, w) = last(spatial, 1);
        let frames: usize = spatial.iter().rev().skip(2).product();
        Planes {
            shape: [self.shape[0], self.shape[1] * frames, h, w],
            kernel: last(&self.kernel, 1),
            stride: last(&self.stride, 1),
            padding: last(&self.padding, 0),
        }
    }
}
