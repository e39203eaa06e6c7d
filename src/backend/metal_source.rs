//! The text of Metal's kernels, which the device's driver compiles when a program first needs them.

use super::plan::Rule;
use candle_core::DType;

const DIALECT: &str = include_str!("../../metal/softpool.metal");
/// What the dialect includes, by name: a device's compiler reads no files.
const HEADERS: [(&str, &str); 9] = [
    ("params.h", include_str!("../../kernels/params.h")),
    ("math.h", include_str!("../../kernels/math.h")),
    ("index.h", include_str!("../../kernels/index.h")),
    ("launch.h", include_str!("../../kernels/launch.h")),
    ("rules.h", include_str!("../../kernels/rules.h")),
    ("windows.h", include_str!("../../kernels/windows.h")),
    ("patches.h", include_str!("../../kernels/patches.h")),
    ("tiles.h", include_str!("../../kernels/tiles.h")),
    ("list.h", include_str!("../../kernels/list.h")),
];

/// The kernels of a rule, a dtype and an index, each header in its place.
pub fn module(rule: Rule, dtype: DType, index: &str) -> String {
    let mut text = format!(
        "#define MODULE_RULE {}\n#define MODULE_DTYPE {}\n#define MODULE_INDEX {index}\n{DIALECT}",
        rule.name(),
        dtype.as_str()
    );
    for (name, header) in HEADERS {
        text = text.replace(
            &format!("#include \"../kernels/{name}\""),
            header.trim_end(),
        );
    }
    text
}
