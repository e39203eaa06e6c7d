//! Messages to standard error, which may be closed or full: the results matter more.

/// `eprintln!` without its panic.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}
pub(crate) use say;
