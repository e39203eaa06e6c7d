//! Paths in JSON, whose text is Unicode, which a path need not be.

use serde_json::{json, Value};
use std::path::Path;

/// Adds a path under a name; one that is no Unicode is legible there only, and whole in hexadecimal under `name_hex`.
pub fn add_path(line: &mut Value, name: &str, path: Option<&Path>) {
    line[name] = json!(path.map(|path| path.display().to_string()));
    if let Some(path) = path.filter(|path| path.to_str().is_none()) {
        let bytes = path.as_os_str().as_encoded_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        line[format!("{name}_hex")] = json!(hex);
    }
}
