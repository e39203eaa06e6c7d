//! How a tensor lies in memory.

use arbitrary::Arbitrary;
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, D};

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Layout {
    Contiguous,
    /// The last two dimensions change places.
    Transposed,
    /// Every row is part of a wider one.
    Narrowed,
    /// The first dimension runs fastest.
    FirstLast,
    /// The channels of a cell lie side by side.
    ChannelsLast,
}

const BEFORE: usize = 3;

/// A variable, and the view of it that is pooled.
pub struct Held {
    base: Var,
    of: Tensor,
    layout: Layout,
    /// Which dimension is the channels'.
    channels: usize,
}

impl Held {
    pub fn new(of: Tensor, layout: Layout, channels: usize) -> Result<Self> {
        let base = match layout {
            Layout::Contiguous => of.clone(),
            Layout::Transposed => of.transpose(D::Minus1, D::Minus2)?.contiguous()?,
            Layout::Narrowed => of.pad_with_zeros(D::Minus1, BEFORE, 2)?,
            Layout::FirstLast => to_last(&of, 0)?.contiguous()?,
            Layout::ChannelsLast => to_last(&of, channels)?.contiguous()?,
        };
        Ok(Self {
            base: Var::from_tensor(&base)?,
            of,
            layout,
            channels,
        })
    }

    pub fn view(&self) -> Result<Tensor> {
        self.view_of(&self.base)
    }

    pub fn gradient(&self, grads: &GradStore) -> Result<Tensor> {
        self.view_of(grads.get(&self.base).expect("a gradient"))
    }

    fn view_of(&self, base: &Tensor) -> Result<Tensor> {
        match self.layout {
            Layout::Contiguous => Ok(base.clone()),
            Layout::Transposed => base.transpose(D::Minus1, D::Minus2),
            Layout::Narrowed => base.narrow(D::Minus1, BEFORE, self.of.dim(D::Minus1)?),
            Layout::FirstLast => from_last(base, 0),
            Layout::ChannelsLast => from_last(base, self.channels),
        }
    }
}

fn to_last(xs: &Tensor, d: usize) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..xs.rank()).filter(|&i| i != d).collect();
    order.push(d);
    xs.permute(order)
}

fn from_last(xs: &Tensor, d: usize) -> Result<Tensor> {
    let mut order: Vec<usize> = (0..xs.rank() - 1).collect();
    order.insert(d, xs.rank() - 1);
    xs.permute(order)
}
