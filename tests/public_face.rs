//! Every name and signature that users compile against, used as documented.

mod common;

use candle_core::{DType, Module, Result, Tensor};
use candle_softpool::{
    soft_pool1d, soft_pool1d_with_stride, soft_pool2d, soft_pool2d_with_stride, soft_pool3d,
    soft_pool3d_with_stride, AdaptiveSoftPool, AdaptiveSoftPool1d, AdaptiveSoftPool2d,
    AdaptiveSoftPool3d, Gradient, Implementation, SoftPool, SoftPool1d, SoftPool2d, SoftPool3d,
};
use common::{assert_same, randn};

fn lines() -> Tensor {
    randn(1, 1.0, (2, 3, 10), DType::F32).unwrap()
}

fn images() -> Tensor {
    randn(2, 1.0, (2, 3, 10, 12), DType::F32).unwrap()
}

fn volumes() -> Tensor {
    randn(3, 1.0, (2, 3, 6, 10, 12), DType::F32).unwrap()
}

#[test]
fn as_in_the_documentation() -> Result<()> {
    let xs = images();
    let ys = soft_pool2d(&xs, 2)?;
    assert_eq!(ys.dims(), [2, 3, 5, 6]);
    let ys = soft_pool2d_with_stride(&xs, (3, 2), 2)?;
    assert_eq!(ys.dims(), [2, 3, 4, 6]);
    let pool = SoftPool2d::new(3).stride(2).padding(1);
    let ys = xs.apply(&pool)?;
    assert_eq!(ys.dims(), [2, 3, 5, 6]);
    Ok(())
}

#[test]
fn functions_are_layers() -> Result<()> {
    let xs = lines();
    assert_same(&soft_pool1d(&xs, 3)?, &SoftPool1d::new(3).forward(&xs)?);
    let strided = SoftPool1d::new(3).stride(2).forward(&xs)?;
    assert_same(&soft_pool1d_with_stride(&xs, 3, 2)?, &strided);
    let xs = images();
    assert_same(&soft_pool2d(&xs, 3)?, &SoftPool2d::new(3).forward(&xs)?);
    let strided = SoftPool2d::new(3).stride(2).forward(&xs)?;
    assert_same(&soft_pool2d_with_stride(&xs, 3, 2)?, &strided);
    let xs = volumes();
    assert_same(&soft_pool3d(&xs, 3)?, &SoftPool3d::new(3).forward(&xs)?);
    let strided = SoftPool3d::new(3).stride(2).forward(&xs)?;
    assert_same(&soft_pool3d_with_stride(&xs, 3, 2)?, &strided);
    Ok(())
}

#[test]
fn aliases_are_the_generic_layers() {
    let _: [SoftPool<1>; 1] = [SoftPool1d::new(2)];
    let _: [SoftPool<2>; 1] = [SoftPool2d::new(2)];
    let _: [SoftPool<3>; 1] = [SoftPool3d::new(2)];
    let _: [AdaptiveSoftPool<1>; 1] = [AdaptiveSoftPool1d::new(2)];
    let _: [AdaptiveSoftPool<2>; 1] = [AdaptiveSoftPool2d::new(2)];
    let _: [AdaptiveSoftPool<3>; 1] = [AdaptiveSoftPool3d::new(2)];
}

#[test]
fn a_size_is_an_integer_a_tuple_or_an_array() {
    assert_eq!(SoftPool1d::new(2), SoftPool1d::new([2]));
    assert_eq!(SoftPool1d::new(2), SoftPool1d::new((2,)));
    assert_eq!(SoftPool2d::new(2), SoftPool2d::new((2, 2)));
    assert_eq!(SoftPool2d::new((3, 2)), SoftPool2d::new([3, 2]));
    assert_eq!(SoftPool3d::new((3, 2, 1)), SoftPool3d::new([3, 2, 1]));
    let sizes = SoftPool2d::new(4).stride((3, 2)).padding((1, 0));
    assert_eq!(sizes, SoftPool2d::new(4).stride([3, 2]).padding([1, 0]));
    assert_eq!(AdaptiveSoftPool2d::new(3), AdaptiveSoftPool2d::new((3, 3)));
    assert_eq!(
        AdaptiveSoftPool3d::new((1, 2, 3)),
        AdaptiveSoftPool3d::new([1, 2, 3])
    );
}

#[test]
fn defaults() {
    let spelled_out = SoftPool2d::new((3, 2))
        .stride((3, 2))
        .padding(0)
        .ceil_mode(false)
        .beta(1.0)
        .gradient(Gradient::Paper)
        .nan_to_num(false)
        .implementation(Implementation::Fused);
    assert_eq!(SoftPool2d::new((3, 2)), spelled_out);
    let spelled_out = AdaptiveSoftPool1d::new(4)
        .beta(1.0)
        .gradient(Gradient::Paper)
        .nan_to_num(false)
        .implementation(Implementation::Fused);
    assert_eq!(AdaptiveSoftPool1d::new(4), spelled_out);
    assert_eq!(Gradient::default(), Gradient::Paper);
    assert_eq!(Implementation::default(), Implementation::Fused);
}

/// Layers are plain values: copied, printed, shared between threads, boxed as modules.
#[test]
fn layers_are_values() -> Result<()> {
    fn plain<T: Copy + std::fmt::Debug + Send + Sync + 'static>(_: T) {}
    let pool = SoftPool2d::new(2).gradient(Gradient::Exact);
    plain(pool);
    plain(AdaptiveSoftPool3d::new(1));
    let printed = format!("{pool:?}");
    assert!(
        printed.contains("kernel: [2, 2]") && printed.contains("Exact"),
        "{printed}"
    );
    let layers: Vec<Box<dyn Module>> = vec![Box::new(pool), Box::new(AdaptiveSoftPool2d::new(1))];
    let ys = layers
        .iter()
        .try_fold(images(), |xs, layer| layer.forward(&xs))?;
    assert_eq!(ys.dims(), [2, 3, 1, 1]);
    Ok(())
}
