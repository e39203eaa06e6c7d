//! How a tensor lies in memory.

use arbitrary::Arbitrary;
use candle_core::{Result, Tensor, D};

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Layout {
    Contiguous,
    /// The last two dimensions change places.
    Transposed,
    /// Every row is part of a wider one.
    Narrowed,
    /// The first dimension runs fastest.
    FirstLast,
}

const BEFORE: usize = 3;

impl Layout {
    /// A contiguous tensor of which `xs` is a [`Self::view`].
    pub fn hold(self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Contiguous => Ok(xs.clone()),
            Self::Transposed => xs.transpose(D::Minus1, D::Minus2)?.contiguous(),
            Self::Narrowed => xs.pad_with_zeros(D::Minus1, BEFORE, 2),
            Self::FirstLast => {
                let mut order: Vec<usize> = (1..xs.rank()).collect();
                order.push(0);
                xs.permute(order)?.contiguous()
            }
        }
    }

    /// What in `base`, or in its gradient, has the place of `xs`.
    pub fn view(self, base: &Tensor, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Contiguous => Ok(base.clone()),
            Self::Transposed => base.transpose(D::Minus1, D::Minus2),
            Self::Narrowed => base.narrow(D::Minus1, BEFORE, xs.dim(D::Minus1)?),
            Self::FirstLast => {
                let mut order = vec![xs.rank() - 1];
                order.extend(0..xs.rank() - 1);
                base.permute(order)
            }
        }
    }
}
