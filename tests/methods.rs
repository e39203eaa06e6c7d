//! The other pooling methods: against PyTorch, against definitions in float64, finite differences, and statistics.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, ModuleT, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::{
    soft_pool2d, AvgPool, AvgPool2d, Lip, Lip2d, LpPool, LpPool2d, MaxPool, MaxPool2d, Pooling,
    PoolingMethod, S3Pool, S3Pool1d, S3Pool2d, S3Pool3d, SoftPool2d, StochasticPool,
    StochasticPool1d, StochasticPool2d,
};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const CPU: Device = Device::Cpu;
const FIXTURES: &[u8] = include_bytes!("fixtures/methods.safetensors");

fn values(xs: &Tensor) -> Result<Vec<f64>> {
    Ok(xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[track_caller]
fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims());
    for (i, (a, b)) in values(a)
        .unwrap()
        .iter()
        .zip(values(b).unwrap())
        .enumerate()
    {
        assert!(
            (a - b).abs() <= tolerance * (1.0 + b.abs()),
            "at {i}: {a} is not {b}"
        );
    }
}

/// The output and the gradient of the sum of its squares.
fn run(layer: &dyn ModuleT, xs: &Tensor) -> Result<(Tensor, Tensor)> {
    let xs = Var::from_tensor(xs)?;
    let ys = layer.forward_t(&xs, false)?;
    let grads = ys.sqr()?.sum_all()?.backward()?;
    Ok((ys, grads.get(&xs).context("no gradient")?.clone()))
}

// PyTorch

fn layer<const D: usize>(
    name: &str,
    case: &Value,
    tensors: &HashMap<String, Tensor>,
) -> Result<Box<dyn ModuleT>> {
    let size = |name: &str| case[name].as_u64().unwrap() as usize;
    macro_rules! windows {
        ($layer:expr) => {
            $layer
                .stride(size("stride"))
                .padding(size("padding"))
                .ceil_mode(case["ceil_mode"].as_bool().unwrap())
        };
    }
    let kernel = size("kernel");
    Ok(match case["method"].as_str().unwrap() {
        "max" => Box::new(windows!(MaxPool::<D>::new(kernel))),
        "avg" => Box::new(
            windows!(AvgPool::<D>::new(kernel))
                .count_include_pad(case["count_include_pad"].as_bool().unwrap()),
        ),
        "lp" => Box::new(windows!(LpPool::<D>::new(case["p"].as_f64().unwrap(), kernel)).sum(true)),
        "lip" => {
            let vb = VarBuilder::from_tensors(tensors.clone(), DType::F64, &CPU);
            Box::new(windows!(Lip::<D>::new(kernel)).learned(3, vb.pp(name))?)
        }
        other => panic!("unknown method {other}"),
    })
}

#[test]
fn agrees_with_pytorch() -> Result<()> {
    let (_, metadata) = SafeTensors::read_metadata(FIXTURES)?;
    let cases = &metadata.metadata().as_ref().context("no metadata")?["cases"];
    let cases: BTreeMap<String, Value> = serde_json::from_str(cases)?;
    let tensors = candle_core::safetensors::load_buffer(FIXTURES, &CPU)?;
    assert_eq!(cases.len(), 66);
    for (name, case) in cases {
        let layer = match case["rank"].as_u64() {
            Some(1) => layer::<1>(&name, &case, &tensors)?,
            Some(2) => layer::<2>(&name, &case, &tensors)?,
            _ => layer::<3>(&name, &case, &tensors)?,
        };
        println!("{name}");
        let (ys, dx) = run(layer.as_ref(), &tensors[&format!("{name}.x")])?;
        let tolerance = if case["method"] == "lip" {
            1e-10
        } else {
            1e-12
        };
        close(&ys, &tensors[&format!("{name}.y")], tolerance);
        close(&dx, &tensors[&format!("{name}.dx")], tolerance);
    }
    Ok(())
}

// Definitions in float64

#[derive(Clone, Copy, Debug)]
struct Window {
    size: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 3],
    ceil_mode: bool,
}

impl Window {
    fn outputs(&self, d: usize) -> usize {
        let [n, k, s, p] = [
            self.size[d],
            self.kernel[d],
            self.stride[d],
            self.padding[d],
        ];
        let Some(free) = (n + 2 * p).checked_sub(k) else {
            return 1; // In ceil mode, if it hangs over by less than a stride.
        };
        match self.ceil_mode && free % s != 0 && (free / s + 1) * s < n + p {
            true => free / s + 2,
            false => free / s + 1,
        }
    }

    fn range(&self, d: usize, start: usize) -> std::ops::Range<usize> {
        let end = start + self.kernel[d];
        start.saturating_sub(self.padding[d])..end.saturating_sub(self.padding[d]).min(self.size[d])
    }

    /// The output of one plane: `f` of each window's cells.
    fn pool(&self, plane: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let mut ys = vec![];
        for z in 0..self.outputs(0) {
            for y in 0..self.outputs(1) {
                for x in 0..self.outputs(2) {
                    let mut cells = vec![];
                    for i in self.range(0, z * self.stride[0]) {
                        for j in self.range(1, y * self.stride[1]) {
                            for k in self.range(2, x * self.stride[2]) {
                                cells.push(plane[(i * self.size[1] + j) * self.size[2] + k]);
                            }
                        }
                    }
                    ys.push(f(&cells));
                }
            }
        }
        ys
    }
}

prop_compose! {
    fn window()(
        size in prop::array::uniform3(1usize..7), kernel in prop::array::uniform3(1usize..5),
        stride in prop::array::uniform3(1usize..4), padding in prop::array::uniform3(0usize..3), ceil_mode: bool,
    ) -> Window {
        let padding = [0, 1, 2].map(|d| padding[d].min(kernel[d] / 2));
        let over = [0, 1, 2].map(|d| if ceil_mode { stride[d] - 1 } else { 0 });
        let size = [0, 1, 2].map(|d| size[d].max(kernel[d].saturating_sub(over[d])));
        Window { size, kernel, stride, padding, ceil_mode }
    }
}

fn check(window: Window, layer: &dyn ModuleT, f: impl Fn(&[f64]) -> f64) -> Result<()> {
    let [d, h, w] = window.size;
    // An odd layout, and some cells equal and zero.
    let xs = Tensor::randn(0f64, 2., (2, d, w, h), &CPU)?
        .transpose(2, 3)?
        .round()?;
    let ys = layer.forward_t(&xs, false)?;
    let planes: Vec<Vec<f64>> = xs.reshape((2, ()))?.to_vec2()?;
    let expected: Vec<f64> = planes
        .iter()
        .flat_map(|plane| window.pool(plane, &f))
        .collect();
    let outputs = [0, 1, 2].map(|d| window.outputs(d));
    close(
        &ys,
        &Tensor::from_vec(expected, [&[2], outputs.as_slice()].concat(), &CPU)?,
        1e-12,
    );
    Ok(())
}

macro_rules! windows {
    ($window:ident, $layer:expr) => {
        $layer
            .stride($window.stride)
            .padding($window.padding)
            .ceil_mode($window.ceil_mode)
    };
}

fn mean(cells: &[f64]) -> f64 {
    cells.iter().sum::<f64>() / cells.len() as f64
}

proptest! {
    #[test]
    fn max_is_its_definition(w in window()) {
        let layer = windows!(w, MaxPool::<3>::new(w.kernel));
        check(w, &layer, |cells| cells.iter().copied().fold(f64::NEG_INFINITY, f64::max)).unwrap();
    }

    /// Of every plane, where many share a band.
    #[test]
    fn indices_and_draws_are_those_of_the_outputs(w in window(), planes in 1usize..20, seed: u64) {
        let [d, h, width] = w.size;
        let xs = Tensor::randn(0f64, 1., (planes, d, h, width), &CPU).unwrap();
        let flat = |t: &Tensor| t.reshape((planes, ())).unwrap();
        let (ys, indices) = windows!(w, MaxPool::<3>::new(w.kernel)).forward_with_indices(&xs).unwrap();
        close(&flat(&xs).gather(&flat(&indices), 1).unwrap(), &flat(&ys), 0.0);

        let xs = Var::from_tensor(&xs.abs().unwrap()).unwrap();
        let drawn = windows!(w, StochasticPool::<3>::new(w.kernel)).seed(seed).forward_t(&xs, true).unwrap();
        let times = drawn.sum_all().unwrap().backward().unwrap().remove(&xs).unwrap();
        let total = |t: &Tensor| flat(t).sum(1).unwrap();
        close(&total(&(xs.as_tensor() * &times).unwrap()), &total(&drawn), 1e-9);
    }

    #[test]
    fn avg_is_its_definition(w in window()) {
        check(w, &windows!(w, AvgPool::<3>::new(w.kernel)).count_include_pad(false), mean).unwrap();
    }

    #[test]
    fn lp_is_its_definition(w in window(), p in prop_oneof![0.5f64..5.0, (1u32..11).prop_map(f64::from)]) {
        let layer = windows!(w, LpPool::<3>::new(p, w.kernel));
        let power = |cells: &[f64]| cells.iter().map(|x| x.abs().powf(p)).sum::<f64>();
        check(w, &layer.sum(true), |cells| power(cells).powf(1.0 / p)).unwrap();
        let average = layer.count_include_pad(false);
        check(w, &average, |cells| (power(cells) / cells.len() as f64).powf(1.0 / p)).unwrap();
    }

    #[test]
    fn stochastic_in_evaluation_is_the_expectation(w in window()) {
        check(w, &windows!(w, StochasticPool::<3>::new(w.kernel)), |cells| {
            let total: f64 = cells.iter().map(|x| x.max(0.0)).sum();
            let weighted: f64 = cells.iter().map(|x| x.max(0.0) * x).sum();
            if total == 0.0 { mean(cells) } else { weighted / total }
        }).unwrap();
    }

    #[test]
    fn s3_in_evaluation_averages_dense_maxima(w in window()) {
        let layer = windows!(w, S3Pool::<3>::new(w.kernel));
        // Windows with stride one, until the last that the outputs need; then averages of `stride` of them.
        let [d, h, width] = w.size;
        let xs = Tensor::randn(0f64, 1., (1, d, h, width), &CPU).unwrap();
        let plane: Vec<f64> = xs.flatten_all().unwrap().to_vec1().unwrap();
        let outputs = [0, 1, 2].map(|d| w.outputs(d));
        let dense = [0, 1, 2].map(|d| {
            let whole = (w.size[d] + 2 * w.padding[d] + 1).saturating_sub(w.kernel[d]);
            whole.max((outputs[d] - 1) * w.stride[d] + 1)
        });
        let peak = |at: [usize; 3]| {
            let [a, b, c] = [0, 1, 2].map(|d| w.range(d, at[d]));
            a.flat_map(|i| b.clone().flat_map({ let c = c.clone(); move |j| c.clone().map(move |k| (i, j, k)) }))
                .map(|(i, j, k)| plane[(i * h + j) * width + k])
                .fold(f64::NEG_INFINITY, f64::max)
        };
        let mut expected = vec![];
        for z in 0..outputs[0] {
            for y in 0..outputs[1] {
                for x in 0..outputs[2] {
                    let ranges: Vec<_> = [z, y, x].iter().enumerate()
                        .map(|(d, o)| o * w.stride[d]..((o + 1) * w.stride[d]).min(dense[d])).collect();
                    let mut cells = vec![];
                    for i in ranges[0].clone() { for j in ranges[1].clone() { for k in ranges[2].clone() {
                        cells.push(peak([i, j, k]));
                    }}}
                    expected.push(mean(&cells));
                }
            }
        }
        let ys = layer.forward(&xs).unwrap();
        let shape = [&[1], outputs.as_slice()].concat();
        close(&ys, &Tensor::from_vec(expected, shape, &CPU).unwrap(), 1e-12);
    }

    #[test]
    fn lip_with_the_input_as_logits_is_soft_pool(h in 3usize..9, w in 3usize..9, p in 0usize..2, ceil_mode: bool) {
        let xs = Tensor::randn(0f64, 3., (2, 2, h, w), &CPU).unwrap();
        let lip = Lip2d::new(3).stride(2).padding(p).ceil_mode(ceil_mode).forward_with(&xs, &xs).unwrap();
        let soft = SoftPool2d::new(3).stride(2).padding(p).ceil_mode(ceil_mode).forward(&xs).unwrap();
        close(&lip, &soft, 1e-12);
    }
}

// Gradients

/// Central differences of a weighted sum of the outputs, against the backward pass.
fn check_gradient(f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>, xs: &Tensor) -> Result<()> {
    let var = Var::from_tensor(xs)?;
    let ys = f(&var)?;
    let weights = Tensor::randn(0f64, 1., ys.shape(), &CPU)?;
    let loss = |xs: &Tensor| -> Result<f64> { Ok((f(xs)? * &weights)?.sum_all()?.to_scalar()?) };
    let grads = (ys * &weights)?.sum_all()?.backward()?;
    let analytic = values(grads.get(&var).context("no gradient")?)?;
    let at = values(xs)?;
    let step = 1e-6;
    for (i, analytic) in analytic.iter().enumerate() {
        let moved = |by: f64| {
            let mut at = at.clone();
            at[i] += by;
            loss(&Tensor::from_vec(at, xs.shape(), &CPU)?)
        };
        let numeric = (moved(step)? - moved(-step)?) / (2.0 * step);
        assert!(
            (analytic - numeric).abs() < 1e-7 * (1.0 + numeric.abs()),
            "cell {i}: {analytic}, by differences {numeric}"
        );
    }
    Ok(())
}

#[test]
fn gradients_are_finite_differences() -> Result<()> {
    let xs = Tensor::randn(0f64, 1., (2, 2, 6, 7), &CPU)?;
    macro_rules! check {
        ($($layer:expr),+) => {$(
            let layer = $layer.stride(2).padding(1).ceil_mode(true);
            check_gradient(&|xs| layer.forward_t(xs, false), &xs)?;
        )+};
    }
    check!(
        MaxPool2d::new(3),
        AvgPool2d::new(3),
        AvgPool2d::new(3).count_include_pad(false),
        LpPool2d::new(2.0, 3),
        LpPool2d::new(3.0, 3).sum(true),
        LpPool2d::new(5.0, 3),
        LpPool2d::new(9.0, 3),
        StochasticPool2d::new(3),
        S3Pool2d::new(3)
    );
    for seed in 0..3 {
        check_gradient(
            &|xs| {
                StochasticPool2d::new(3)
                    .stride(2)
                    .padding(1)
                    .seed(seed)
                    .forward_t(xs, true)
            },
            &xs,
        )?;
        check_gradient(
            &|xs| {
                S3Pool2d::new(3)
                    .stride(2)
                    .padding(1)
                    .grid(4)
                    .seed(seed)
                    .forward_t(xs, true)
            },
            &xs,
        )?;
    }
    // LIP: values, logits, and both through the logit module.
    let lip = Lip2d::new(3).stride(2).padding(1);
    let logits = Tensor::randn(0f64, 1., xs.shape(), &CPU)?;
    check_gradient(&|xs| lip.forward_with(xs, &logits), &xs)?;
    check_gradient(&|logits| lip.forward_with(&xs, logits), &logits)?;
    check_gradient(
        &|one| lip.forward_with(&xs, one),
        &logits.narrow(1, 0, 1)?.contiguous()?,
    )?;
    let vars: HashMap<_, _> = [
        ("logit.conv.weight", vec![2, 2, 3, 3]),
        ("logit.bn.weight", vec![2]),
        ("logit.bn.bias", vec![2]),
    ]
    .into_iter()
    .map(|(name, shape)| Ok((name.to_string(), Tensor::randn(0f64, 0.5, shape, &CPU)?)))
    .collect::<Result<_>>()?;
    let learned = lip.learned(2, VarBuilder::from_tensors(vars, DType::F64, &CPU))?;
    check_gradient(&|xs| learned.forward(xs), &xs)?;
    Ok(())
}

#[test]
fn a_tie_gives_its_gradient_to_the_first() -> Result<()> {
    let xs = Var::from_tensor(&Tensor::new(
        &[[[0f32, 5., 5.], [5., 5., 1.], [0., 0., 0.]]],
        &CPU,
    )?)?;
    let grads = MaxPool2d::new(2)
        .stride(1)
        .forward(&xs)?
        .sum_all()?
        .backward()?;
    let dx = grads.get(&xs).context("no gradient")?.to_vec3::<f32>()?;
    assert_eq!(dx, [[[0.0, 2.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]);
    Ok(())
}

#[test]
fn dead_windows_have_no_gradient() -> Result<()> {
    let zeros = Tensor::zeros((1, 1, 4, 4), DType::F32, &CPU)?;
    for p in [0.5, 1.0, 2.0, 3.0] {
        let (ys, dx) = run(&LpPool2d::new(p, 2), &zeros)?;
        assert!(
            values(&ys)?.iter().chain(&values(&dx)?).all(|v| *v == 0.0),
            "p = {p}"
        );
    }
    let (ys, dx) = run(&StochasticPool2d::new(2), &zeros)?;
    assert!(values(&ys)?.iter().chain(&values(&dx)?).all(|v| *v == 0.0));
    Ok(())
}

#[test]
fn values_that_are_not_finite() -> Result<()> {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let xs = Tensor::new(&[[1f32, nan, 2., inf, -inf, 3., -inf, -inf]], &CPU)?;
    let ys = MaxPool::<1>::new(2)
        .forward(&xs)?
        .to_vec2::<f32>()?
        .remove(0);
    assert!(ys[0].is_nan());
    assert_eq!(ys[1..], [inf, 3.0, -inf]);
    let ys = AvgPool::<1>::new(2)
        .forward(&xs)?
        .to_vec2::<f32>()?
        .remove(0);
    assert!(ys[0].is_nan());
    assert_eq!(ys[1..], [inf, -inf, -inf]);
    for layer in [
        Pooling::from(LpPool::<1>::new(2.0, 2)),
        StochasticPool1d::new(2).into(),
        S3Pool1d::new(2).into(),
    ] {
        let ys = layer.forward(&xs)?.to_vec2::<f32>()?.remove(0);
        assert!(ys[0].is_nan(), "{layer}: {ys:?}");
    }
    Ok(())
}

// Dtypes, shapes and errors

fn every_layer(dtype: DType) -> Result<Vec<Pooling>> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, dtype, &CPU);
    let methods = PoolingMethod::ALL.iter();
    Ok(methods
        .map(|m| m.learned(3, 2, 1, 3, vb.pp("lip")).map(seeded))
        .collect::<candle_core::Result<_>>()?)
}

/// The same draws for every layer.
fn seeded(layer: Pooling) -> Pooling {
    match layer {
        Pooling::Stochastic(layer) => layer.seed(0).into(),
        Pooling::S3(layer) => layer.seed(0).into(),
        layer => layer,
    }
}

#[test]
fn halves_are_rounded_once() -> Result<()> {
    for (dtype, ulp) in [
        (DType::F16, 1.0 / 2048.0),
        (DType::BF16, 1.0 / 256.0),
        (DType::F32, 1e-6),
    ] {
        let xs = (Tensor::randn(0f32, 1., (2, 3, 9, 10), &CPU)? * 20.0)?
            .abs()?
            .to_dtype(dtype)?;
        for (narrow, wide) in every_layer(dtype)?.iter().zip(every_layer(DType::F64)?) {
            for layer_train in [false, true] {
                let ys = narrow.forward_t(&xs, layer_train)?;
                assert_eq!(ys.dtype(), dtype);
                let expected = wide.forward_t(&xs.to_dtype(DType::F64)?, layer_train)?;
                // A stochastic draw may turn on the rounding of a sum.
                if !(layer_train && narrow.method() == PoolingMethod::Stochastic) {
                    close(&ys, &expected, ulp);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn empty_and_unbatched() -> Result<()> {
    for layer in every_layer(DType::F32)? {
        let empty = Tensor::zeros((0, 3, 8, 8), DType::F32, &CPU)?;
        assert_eq!(layer.forward_t(&empty, true)?.dims(), [0, 3, 4, 4]);
        let xs = Tensor::randn(0f32, 1., (3, 8, 8), &CPU)?;
        let batched = layer.forward(&xs.unsqueeze(0)?)?.squeeze(0)?;
        close(&layer.forward(&xs)?, &batched, 1e-6);
        close(&layer.eval().forward(&xs)?, &batched, 1e-6);
    }
    Ok(())
}

#[track_caller]
fn error(result: candle_core::Result<Tensor>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    assert!(
        parts.iter().all(|part| message.contains(part)),
        "{message:?} lacks one of {parts:?}"
    );
}

#[test]
fn errors_name_layer_value_and_what_is_allowed() -> Result<()> {
    let xs = Tensor::zeros((1, 3, 8, 8), DType::F32, &CPU)?;
    for method in PoolingMethod::ALL {
        let vb = VarBuilder::zeros(DType::F32, &CPU);
        let layer = |k: usize, s: usize, p: usize| method.learned::<2>(k, s, p, 3, vb.clone());
        error(
            layer(0, 1, 0)?.forward(&xs),
            &["2d: kernel [0, 0]", "at least 1"],
        );
        error(
            layer(2, 0, 0)?.forward(&xs),
            &["2d: stride [0, 0]", "at least 1"],
        );
        error(
            layer(2, 2, 2)?.forward(&xs),
            &["2d: padding [2, 2]", "for kernel [2, 2]"],
        );
        error(
            layer(9, 1, 0)?.forward(&xs),
            &["2d: kernel [9, 9]", "[8, 8]"],
        );
        error(
            layer(2, 2, 0)?.forward(&xs.get(0)?.get(0)?),
            &["2d: input of shape [8, 8]", "(N, C, H, W)"],
        );
        error(
            layer(2, 2, 0)?.forward(&xs.to_dtype(DType::U8)?),
            &["2d: input of dtype U8", "F16, BF16, F32 or F64"],
        );
        for sizes in [
            [usize::MAX, 1, usize::MAX / 2],
            [usize::MAX, usize::MAX, usize::MAX / 2],
            [2, usize::MAX, 1],
        ] {
            // An answer or an error, no panic.
            let _ = layer(sizes[0], sizes[1], sizes[2])?.forward_t(&xs, true);
        }
    }
    for p in [0.0, 0.009, -1.0, f64::NAN, f64::INFINITY] {
        error(
            LpPool2d::new(p, 2).forward(&xs),
            &["LpPool2d: p is", "from 0.01 on"],
        );
    }
    error(
        S3Pool2d::new(2).grid(3).forward(&xs),
        &["S3Pool2d: grid [3, 3]", "stride [2, 2]"],
    );
    let large = S3Pool3d::new(8_388_604)
        .stride(4_194_303)
        .padding(4_194_302);
    for train in [false, true] {
        error(
            large
                .clone()
                .ceil_mode(true)
                .forward_t(&Tensor::ones((1, 2, 2, 2), DType::F32, &CPU)?, train),
            &["S3Pool3d: ", "windows of stride one", "less than 2^32"],
        );
    }
    error(
        Lip2d::new(2).forward(&xs),
        &["Lip2d", "no logit module", "learned"],
    );
    error(
        Lip2d::new(2).forward_with(&xs, &xs.get(0)?),
        &["Lip2d: logits of shape [3, 8, 8]", "[1, 1, 8, 8]"],
    );
    let lip = Lip2d::new(2).learned(4, VarBuilder::zeros(DType::F32, &CPU))?;
    error(lip.forward(&xs), &["Lip2d", "3 channels, expected 4"]);
    let message = "mean".parse::<Pooling>().unwrap_err().to_string();
    assert!(
        message.contains("\"mean\": expected one of soft, max, avg, lp, stochastic, s3, lip"),
        "{message}"
    );
    let message = "lip".parse::<Pooling>().unwrap_err().to_string();
    assert!(message.contains("has variables"), "{message}");
    Ok(())
}

#[test]
fn names_go_round() -> Result<()> {
    for method in PoolingMethod::ALL {
        assert_eq!(method.to_string().parse::<PoolingMethod>()?, *method);
        if *method != PoolingMethod::Lip {
            assert_eq!(method.name().parse::<Pooling>()?.to_string(), method.name());
        }
    }
    let xs = Tensor::randn(0f32, 1., (1, 3, 8, 8), &CPU)?;
    close(
        &"soft".parse::<Pooling>()?.forward(&xs)?,
        &soft_pool2d(&xs, 2)?,
        0.0,
    );
    Ok(())
}

// Chance

#[test]
fn stochastic_draws_by_activation() -> Result<()> {
    let cells = [0.0, 1.0, 2.0, 5.0, -3.0];
    let count = 20_000;
    let xs = Tensor::new(&cells, &CPU)?.broadcast_as((count, 5))?;
    let pool = StochasticPool1d::new(5).seed(11);
    let drawn = values(&pool.forward_t(&xs, true)?)?;
    for cell in cells {
        let p = f64::max(cell, 0.0) / 8.0;
        let frequency = drawn.iter().filter(|y| **y == cell).count() as f64 / count as f64;
        let deviation = (p * (1.0 - p) / count as f64).sqrt();
        assert!(
            (frequency - p).abs() <= 4.0 * deviation,
            "{cell}: {frequency}, expected {p}"
        );
    }
    // Without a positive cell all are equally likely, padding apart.
    let xs = Tensor::new(&[-1f32, -2.], &CPU)?.broadcast_as((count, 2))?;
    let drawn = values(
        &StochasticPool1d::new(4)
            .padding(1)
            .seed(0)
            .forward_t(&xs, true)?,
    )?;
    let ones = drawn.iter().filter(|y| **y == -1.0).count() as f64 / count as f64;
    assert!((ones - 0.5).abs() < 4.0 * (0.25 / count as f64).sqrt());
    assert!(drawn.iter().all(|y| *y == -1.0 || *y == -2.0));
    Ok(())
}

#[test]
fn s3_draws_rows_in_order_without_repetition() -> Result<()> {
    // Kernel 1 shows the rows that were drawn; the last grid has 3 cells of 4: one and a half strides.
    let xs = Tensor::arange(0f64, 11.0, &CPU)?.reshape((1, 11))?;
    let pool = S3Pool1d::new(1).stride(2).grid(4).seed(5);
    let passes = 20_000;
    let mut counts = [0; 11];
    for _ in 0..passes {
        let rows = values(&pool.forward_t(&xs, true)?)?;
        assert_eq!(rows.len(), 6);
        assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "{rows:?}");
        assert!(
            (0..3).all(|g| rows[2 * g..2 * g + 2].iter().all(|r| *r as usize / 4 == g)),
            "{rows:?}"
        );
        rows.iter().for_each(|row| counts[*row as usize] += 1);
    }
    for (row, count) in counts.iter().enumerate() {
        let p: f64 = if row < 8 { 0.5 } else { 2.0 / 3.0 };
        let deviation = (p * (1.0 - p) / passes as f64).sqrt();
        assert!(
            (*count as f64 / passes as f64 - p).abs() < 4.0 * deviation,
            "row {row}: {count}"
        );
    }
    Ok(())
}

#[test]
fn evaluation_is_the_mean_of_training() -> Result<()> {
    let xs = Tensor::rand(0f64, 1., (2, 2, 7, 6), &CPU)?;
    let passes = 4000;
    let layers: [Pooling; 2] = [
        StochasticPool2d::new(3).stride(2).padding(1).seed(0).into(),
        S3Pool2d::new(3).stride(2).padding(1).seed(0).into(),
    ];
    for layer in layers {
        let expected = layer.forward(&xs)?;
        let mut sum = expected.zeros_like()?;
        for _ in 0..passes {
            sum = (sum + layer.forward_t(&xs, true)?)?;
        }
        // Values lie in [0, 1], so five standard deviations of the mean are at most 5·0.5/√passes.
        let worst = ((sum / passes as f64)? - expected)?
            .abs()?
            .flatten_all()?
            .max(0)?
            .to_scalar::<f64>()?;
        assert!(worst < 2.5 / f64::from(passes).sqrt(), "{layer}: {worst}");
    }
    Ok(())
}

#[test]
fn seeds_repeat_and_passes_differ() -> Result<()> {
    let xs = Tensor::rand(0f32, 1., (1, 2, 16, 16), &CPU)?;
    let layers: [fn(u64) -> Pooling; 2] = [
        |seed| StochasticPool2d::new(2).seed(seed).into(),
        |seed| S3Pool2d::new(2).grid(8).seed(seed).into(),
    ];
    for layer in layers {
        let pass = |layer: &Pooling| values(&layer.forward_t(&xs, true).unwrap()).unwrap();
        let (a, b, other) = (layer(1), layer(1), layer(2));
        let first = pass(&a);
        assert_eq!(first, pass(&b));
        assert_ne!(first, pass(&other));
        let copy = a.clone();
        let second = pass(&a);
        assert_ne!(first, second);
        assert_eq!(second, pass(&copy));
    }
    Ok(())
}

#[test]
fn lip_begins_as_the_average_and_learns() -> Result<()> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &CPU);
    let lip = Lip2d::new(2).learned(2, vb)?;
    let xs = Tensor::randn(0f32, 1., (4, 2, 8, 8), &CPU)?;
    close(&lip.forward(&xs)?, &AvgPool2d::new(2).forward(&xs)?, 1e-5);
    let wanted = MaxPool2d::new(2).forward(&xs)?;
    let mut optimizer = <candle_nn::SGD as candle_nn::Optimizer>::new(vars.all_vars(), 0.5)?;
    let mut losses = vec![];
    for _ in 0..60 {
        let loss = candle_nn::loss::mse(&lip.forward(&xs)?, &wanted)?;
        losses.push(loss.to_scalar::<f32>()?);
        candle_nn::Optimizer::backward_step(&mut optimizer, &loss)?;
    }
    assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
    Ok(())
}

proptest! {
    /// Without a gradient to keep, the average goes through candle's own kernel where that can.
    #[test]
    fn avg_is_the_same_with_and_without_gradient(
        h in 3usize..12, w in 3usize..12, k in 1usize..4, s in 1usize..4, ceil_mode: bool,
    ) {
        let xs = Var::randn(0f64, 1., (2, 3, h, w), &CPU).unwrap();
        let layer = AvgPool2d::new(k).stride(s).ceil_mode(ceil_mode);
        let tracked = layer.forward(&xs).unwrap();
        close(&layer.forward(&xs.as_detached_tensor()).unwrap(), &tracked, 1e-12);
        prop_assert!(tracked.sum_all().unwrap().backward().unwrap().get(&xs).is_some());
    }
}
