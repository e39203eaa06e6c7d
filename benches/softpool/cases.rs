//! The shapes and windows that are measured.

/// What is pooled.
pub struct Case {
    pub name: String,
    /// `(N, C, H, W)`
    pub shape: [usize; 4],
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Other ranks and layouts of the same bytes, instead of SoftPool's peers.
    pub views: bool,
}

/// A ResNet's stem at batch 8, with both windows; a large activation; local attention; spatial pyramid pooling;
/// one small map; and the first again in other ranks and layouts.
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        case([8, 64, 112, 112], 2, 2, 0),
        case([8, 64, 112, 112], 3, 2, 0),
        case([20, 32, 128, 128], 2, 2, 0),
        case([8, 16, 256, 256], 7, 3, 0),
        case([8, 64, 28, 28], 5, 1, 2),
        case([8, 64, 28, 28], 13, 1, 6),
        case([1, 64, 8, 8], 2, 2, 0),
    ];
    for (kernel, stride) in [(2, 2), (3, 2)] {
        let mut views = case([8, 64, 112, 112], kernel, stride, 0);
        views.name += " views";
        views.views = true;
        cases.push(views);
    }
    cases
}

fn case(shape: [usize; 4], kernel: usize, stride: usize, padding: usize) -> Case {
    let sizes = shape.map(|n| n.to_string()).join("x");
    let mut name = format!("{sizes} {kernel}/{stride}");
    if padding > 0 {
        name += &format!(" p{padding}");
    }
    Case {
        name,
        shape,
        kernel,
        stride,
        padding,
        views: false,
    }
}
