//! What training scripts put before and between the names of tensors.

/// Attributes that hold a network in another module; they may also be the network's own.
const HOLDERS: [&str; 5] = ["model.", "backbone.", "module.", "network.", "net."];
/// Counters that no layer uses: of a batch norm's batches, and of the networks in an average.
const COUNTERS: [&str; 2] = ["num_batches_tracked", "n_averaged"];

/// What torchvision calls this tensor today; `None` for a counter.
pub(super) fn torchvision(name: &str) -> Option<String> {
    let mut name = name;
    while let Some(inner) = name.strip_prefix("module.") {
        name = inner;
    }
    let parts: Vec<&str> = name
        .split('.')
        .filter(|part| *part != "_orig_mod")
        .collect();
    if parts.last().is_some_and(|last| COUNTERS.contains(last)) {
        return None;
    }
    let mut known = String::new();
    for (i, part) in parts.iter().enumerate() {
        let old_dense_layer = i >= 2
            && parts[i - 2].starts_with("denselayer")
            && ["norm", "conv"].contains(&parts[i - 1])
            && ["1", "2"].contains(part);
        if i > 0 && !old_dense_layer {
            known.push('.');
        }
        known.push_str(part);
    }
    Some(known)
}

/// What most of the names begin with, of holders alone.
pub(super) fn holders<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut prefix = String::new();
    // What is left of them: names are not read from their beginning for each holder.
    let mut inner: Vec<&str> = names.map(String::as_str).collect();
    let most = inner.len() / 2;
    while let Some(holder) = HOLDERS.iter().find(|holder| {
        let held = inner.iter().filter(|name| name.starts_with(**holder));
        held.count() > most
    }) {
        let held = inner.iter().filter_map(|name| name.strip_prefix(holder));
        inner = held.collect();
        prefix.push_str(holder);
    }
    prefix
}
