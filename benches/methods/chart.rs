//! The times as a bar chart in SVG, readable on light and dark pages.

use crate::Cost;
use std::fmt::Write;

const LABELS: f64 = 150.0;
const BARS: f64 = 480.0;
const ROW: f64 = 22.0;

/// A panel a shape, on one logarithmic scale of milliseconds.
pub fn draw(shapes: &[(String, Vec<Cost>)]) -> String {
    let times = || {
        shapes
            .iter()
            .flat_map(|(_, costs)| costs)
            .flat_map(|c| [c.forward, c.backward])
            .flatten()
            .map(|c| c.0)
    };
    let low = times().fold(f64::INFINITY, f64::min).log10().floor();
    let high = times().fold(f64::MIN_POSITIVE, f64::max).log10().ceil();
    let x = |ms: f64| LABELS + BARS * (ms.log10() - low) / (high - low);

    let mut body = String::new();
    let mut y = 40.0;
    for (title, costs) in shapes {
        let _ = write!(
            body,
            r#"<text x="{LABELS}" y="{}" class="title">{title}</text>"#,
            y + 14.0
        );
        y += ROW;
        let bottom = y + ROW * costs.len() as f64;
        for power in low as i32..=high as i32 {
            let at = x(10f64.powi(power));
            let _ = write!(
                body,
                r#"<line x1="{at}" x2="{at}" y1="{y}" y2="{bottom}" class="grid"/>"#
            );
            let _ = write!(
                body,
                r#"<text x="{at}" y="{}" class="tick">{} ms</text>"#,
                bottom + 14.0,
                10f64.powi(power)
            );
        }
        for cost in costs {
            let _ = write!(
                body,
                r#"<text x="{}" y="{}" class="name">{}</text>"#,
                LABELS - 8.0,
                y + 14.0,
                cost.name
            );
            for (pass, class, top) in [
                (cost.forward, "forward", 2.0),
                (cost.backward, "backward", 10.0),
            ] {
                if let Some((ms, _)) = pass {
                    let (width, top, end) = (x(ms) - LABELS, y + top, x(ms) + 4.0);
                    let _ = write!(
                        body,
                        r#"<rect x="{LABELS}" y="{top}" width="{width}" height="8" class="{class}"/>"#
                    );
                    let _ = write!(
                        body,
                        r#"<text x="{end}" y="{}" class="value">{ms:.2}</text>"#,
                        top + 7.5
                    );
                }
            }
            y += ROW;
        }
        y += 2.0 * ROW;
    }
    let width = LABELS + BARS + 60.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="12">
<style>
text {{ fill: #24292f }} .title {{ font-weight: bold }} .name {{ text-anchor: end }} .tick {{ text-anchor: middle; font-size: 10px }}
.value {{ font-size: 9px }} .grid {{ stroke: #8884 }} .forward {{ fill: #4c8bf5 }} .backward {{ fill: #e8833a }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}
</style>
<rect x="{LABELS}" y="10" width="12" height="12" class="forward"/><text x="{}" y="20">forward</text>
<rect x="{}" y="10" width="12" height="12" class="backward"/><text x="{}" y="20">forward and backward</text>
{body}
</svg>
"##,
        LABELS + 18.0,
        LABELS + 90.0,
        LABELS + 108.0
    )
}
