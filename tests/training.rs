//! SoftPool in a candle-nn model: it trains, with either gradient.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{conv2d, linear, loss, seq, AdamW, Conv2dConfig, Optimizer, VarBuilder, VarMap};
use candle_softpool::{AdaptiveSoftPool2d, Gradient, SoftPool2d};
use common::{device, normal, tensor};

/// Two pooling layers between convolutions, as in a small classifier.
fn model(gradient: Gradient, vb: VarBuilder) -> Result<impl Module> {
    let same = Conv2dConfig {
        padding: 1,
        ..Default::default()
    };
    Ok(seq()
        .add(conv2d(1, 6, 3, same, vb.pp("conv1"))?)
        .add(candle_nn::Activation::Relu)
        .add(SoftPool2d::new(3).stride(2).padding(1).gradient(gradient))
        .add(conv2d(6, 8, 3, same, vb.pp("conv2"))?)
        .add(candle_nn::Activation::Relu)
        .add(AdaptiveSoftPool2d::new(2).gradient(gradient))
        .add_fn(|xs| xs.flatten_from(1))
        .add(linear(32, 2, vb.pp("out"))?))
}

/// The same start in every run.
fn variables(gradient: Gradient) -> Result<(VarMap, impl Module)> {
    let vars = VarMap::new();
    let model = model(
        gradient,
        VarBuilder::from_varmap(&vars, DType::F32, &device()),
    )?;
    let mut named: Vec<_> = vars.data().lock().unwrap().clone().into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (seed, (_, var)) in named.iter().enumerate() {
        let start: Vec<f64> = normal(seed as u64, var.elem_count())
            .iter()
            .map(|v| 0.3 * v)
            .collect();
        var.set(&tensor(&start, var.shape(), DType::F32)?)?;
    }
    Ok((vars, model))
}

/// Stripes along rows or along columns, under noise.
fn stripes(count: usize) -> Result<(Tensor, Tensor)> {
    let noise = normal(1, count * 144);
    let pixel = |i: usize| {
        let (image, row, column) = (i / 144, i / 12 % 12, i % 12);
        let along = if image % 2 == 0 { row } else { column };
        (along / 2 % 2) as f64 + 0.3 * noise[i]
    };
    let images: Vec<f64> = (0..count * 144).map(pixel).collect();
    let labels: Vec<u32> = (0..count as u32).map(|image| image % 2).collect();
    Ok((
        tensor(&images, (count, 1, 12, 12), DType::F32)?,
        Tensor::new(labels, &Device::Cpu)?.to_device(&device())?,
    ))
}

#[test]
fn a_sequential_model_learns() -> Result<()> {
    for gradient in [Gradient::Paper, Gradient::Exact] {
        let (vars, model) = variables(gradient)?;
        let (images, labels) = stripes(32)?;
        let mut optimizer = AdamW::new_lr(vars.all_vars(), 0.02)?;
        let mut losses = vec![];
        for _ in 0..25 {
            let loss = loss::cross_entropy(&model.forward(&images)?, &labels)?;
            losses.push(loss.to_scalar::<f32>()?);
            optimizer.backward_step(&loss)?;
        }
        assert!(losses[24] < 0.2 * losses[0], "{gradient:?}: {losses:?}");
        let right = model.forward(&images)?.argmax(1)?.eq(&labels)?;
        let right = right.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
        assert!(right > 0.95, "{gradient:?}: {right}");
    }
    Ok(())
}

/// The gradient reaches what lies before the pooling, and differs with the setting.
#[test]
fn the_gradient_is_the_one_asked_for() -> Result<()> {
    let (images, labels) = stripes(8)?;
    let first_layer = |gradient: Gradient| -> Result<Vec<f64>> {
        let (vars, model) = variables(gradient)?;
        let grads = loss::cross_entropy(&model.forward(&images)?, &labels)?.backward()?;
        let weight = vars.data().lock().unwrap()["conv1.weight"].clone();
        common::values(grads.get(&weight).unwrap())
    };
    let (paper, exact) = (first_layer(Gradient::Paper)?, first_layer(Gradient::Exact)?);
    assert!(paper.iter().chain(&exact).all(|g| g.is_finite()));
    assert!(paper
        .iter()
        .zip(&exact)
        .any(|(a, b)| (a - b).abs() > 1e-3 * a.abs()));
    Ok(())
}
