//! What the host's compiler lets pass in the text of Metal's kernels but Apple's does not, by reading it.

use candle_core::DType;
use candle_softpool::backend::metal_source;
use candle_softpool::backend::plan::{self, Kernel, Rule};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The text of a module as a device's compiler gets it, the dialect's macros replaced.
static METAL: LazyLock<String> = LazyLock::new(|| {
    let mut text = metal_source::module(Rule::SoftPool, DType::F32, "u32");
    for (macro_name, word) in [
        ("GLOBAL", "device"),
        ("CONSTANT", "constant"),
        ("PRIVATE", "thread"),
        ("SHARED", "threadgroup"),
    ] {
        assert!(text.contains(&format!("#define {macro_name} {word}\n")));
        text = text.replace(&format!("#define {macro_name} {word}\n"), "");
        text = text.replace(macro_name, word);
    }
    text
});
const BACKEND: &str = include_str!("../src/backend/metal.rs");

/// Words of C++ that Metal 3.0 lacks, and those of Metal that it got later or that the kernels must not need.
const FOREIGN: [&str; 22] = [
    "double",
    "std",
    "bfloat",
    "auto",
    "new",
    "delete",
    "virtual",
    "throw",
    "try",
    "catch",
    "dynamic_cast",
    "typeid",
    "goto",
    "asm",
    "extern",
    "thread_local",
    "operator",
    "long",
    "fast",
    "int64_t",
    "uint64_t",
    "if_constexpr",
];
const ADDRESS_SPACES: [&str; 4] = ["device", "constant", "thread", "threadgroup"];

/// A word or a symbol, and whether it follows without a space.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Token<'a> {
    text: &'a str,
    glued: bool,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

fn tokens(mut source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut glued = false;
    while let Some(first) = source.chars().next() {
        let length = if source.starts_with("//") {
            source.find('\n').unwrap_or(source.len())
        } else if first.is_alphanumeric() || first == '_' {
            let part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
            source.find(|c| !part(c)).unwrap_or(source.len())
        } else {
            first.len_utf8()
        };
        let (text, rest) = source.split_at(length);
        let blank = text.starts_with("//") || first.is_whitespace() || first == '\\';
        if !blank {
            tokens.push(Token { text, glued });
        }
        (glued, source) = (!blank, rest);
    }
    tokens
}

/// Pointers and references, which are written next to their type, that name no address space.
fn without_address_space(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let pointer = ["*", "&"].contains(&token.text) && token.glued && i > 0;
        if !pointer || !(tokens[i - 1].is_word() || tokens[i - 1].text == ">") {
            continue;
        }
        let declaration = declaration(&tokens[..i]);
        if !declaration.iter().any(|t| ADDRESS_SPACES.contains(&t.text)) {
            let words: Vec<_> = declaration.iter().map(|t| t.text).collect();
            found.push(words.join(" ") + token.text);
        }
    }
    found
}

/// The end of `tokens` from the start of a declaration or a template argument on.
fn declaration<'a, 'b>(tokens: &'b [Token<'a>]) -> &'b [Token<'a>] {
    let mut open = 0;
    for (i, token) in tokens.iter().enumerate().rev() {
        match token.text {
            ">" => open += 1,
            "<" if open > 0 => open -= 1,
            "<" | "(" | "," | ";" | "{" | "}" if open == 0 => return &tokens[i + 1..],
            _ => (),
        }
    }
    tokens
}

/// Words that do not belong, and names of the compiler's own.
fn foreign_words(source: &str) -> Vec<&str> {
    let words = tokens(source).into_iter().map(|t| t.text);
    words
        .filter(|word| {
            let of_the_compiler = word.starts_with("__") && *word != "__VA_ARGS__";
            FOREIGN.contains(word) || of_the_compiler || word.starts_with("atomic")
        })
        .collect()
}

fn includes(source: &str) -> Vec<&str> {
    let lines = source.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("#include "))
        .collect()
}

/// The functions that each function calls, by name; macros count as functions.
fn calls(source: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let tokens: Vec<_> = without_directives(source).flat_map(tokens).collect();
    let mut calls = BTreeMap::<&str, BTreeSet<&str>>::new();
    let (mut depth, mut current, mut candidate) = (0, None, None);
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => {
                if current.is_none() && candidate.is_some() {
                    current = candidate.map(|name| (name, depth));
                }
                depth += 1;
            }
            "}" => {
                depth -= 1;
                if current.is_some_and(|(_, outside)| outside == depth) {
                    (current, candidate) = (None, None);
                }
            }
            ";" if current.is_none() => candidate = None,
            "(" if i > 0 => {
                let Some(name) = called(&tokens[..i]) else {
                    continue;
                };
                match current {
                    Some((caller, _)) => {
                        calls.entry(caller).or_default().insert(name);
                    }
                    None => candidate = candidate.or(Some(name)),
                }
            }
            _ => (),
        }
    }
    calls
}

/// Lines that are no directives of the preprocessor, nor go on with one.
fn without_directives(source: &str) -> impl Iterator<Item = &str> {
    let mut directive = false;
    source.lines().filter(move |line| {
        let skip = directive || line.starts_with('#');
        directive = skip && line.ends_with('\\');
        !skip
    })
}

/// The name before an opening parenthesis, template arguments left out.
fn called<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let mut open = 0;
    for token in tokens.iter().rev() {
        match token.text {
            ">" if token.glued || open > 0 => open += 1,
            "<" if open > 0 => open -= 1,
            _ if open > 0 => (),
            word if token.is_word() => return Some(word),
            _ => return None,
        }
    }
    None
}

/// A function that calls itself, perhaps by way of others.
fn recursion(source: &str) -> Option<&str> {
    let calls = calls(source);
    calls.keys().copied().find(|&start| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(name) = next.pop() {
            for &callee in calls.get(name).into_iter().flatten() {
                if callee == start {
                    return true;
                }
                if seen.insert(callee) {
                    next.push(callee);
                }
            }
        }
        false
    })
}

/// The arguments of a macro where it is used, not where it is defined.
fn uses<'a>(source: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let lines = source
        .lines()
        .map(|line| line.trim().trim_end_matches('\\').trim());
    lines
        .filter_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix('(')?
                .strip_suffix(')')
        })
        .map(|arguments| arguments.split(", ").collect())
        .collect()
}

/// `argument [[attribute]]` of every argument with an attribute.
fn attributes(source: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    for part in source.split("[[").collect::<Vec<_>>().windows(2) {
        let name = part[0]
            .trim_end()
            .rsplit(|c: char| !c.is_alphanumeric())
            .next();
        let attribute = part[1].split("]]").next();
        found.extend(name.zip(attribute.map(String::from)));
    }
    found
}

#[test]
fn pointers_and_references_have_an_address_space() {
    assert_eq!(without_address_space(&METAL), [""; 0]);
    let bad =
        "void f(thread float& a, const Params& p, Vector<T, 2>* v) { x = a * *b; g(cast<T*>(p)); }";
    let found = without_address_space(bad);
    assert_eq!(found, ["const Params&", "Vector < T , 2 >*", "T*"]);
}

#[test]
fn nothing_that_metal_3_0_lacks() {
    assert_eq!(includes(&METAL), ["<metal_stdlib>"]);
    assert_eq!(foreign_words(&METAL), [""; 0]);
    let bad = "double x = std::exp(y); // auto\natomic_uint n; __builtin_trap();";
    assert_eq!(
        foreign_words(bad),
        ["double", "std", "atomic_uint", "__builtin_trap"]
    );
}

#[test]
fn no_function_calls_itself() {
    assert!(calls(&METAL).len() > 30, "{:?}", calls(&METAL));
    assert!(calls(&METAL)["gather"].contains("gradients_of"));
    assert_eq!(recursion(&METAL), None);
    assert!(
        recursion("int f(int n) { return g(n); } T g(T n) { return n ? f<T>(n) : h(n); }")
            .is_some()
    );
}

/// Kernels are no templates: their names are those in the library.
#[test]
fn every_kernel_has_its_name_and_no_other_has() {
    let mut wanted = BTreeSet::new();
    let mut found = BTreeSet::new();
    for kernel in Kernel::all() {
        wanted.insert(plan::function(kernel, false, DType::F32));
    }
    // Those of any rule, and those of SoftPool alone.
    let kernels = ["KERNEL", "TEAM_KERNEL"];
    for kernel in kernels.iter().flat_map(|name| uses(&METAL, name)) {
        assert_eq!(kernel[1..3], ["T", "I"]);
        let of_rules = kernel[0].strip_prefix("R##_");
        let names: Vec<_> = match of_rules {
            Some(step) => Rule::ALL.map(|r| format!("{}_{step}", r.name())).to_vec(),
            None => vec![kernel[0].to_string()],
        };
        found.extend(names.iter().map(|name| format!("{name}_f32_u32")));
    }
    assert_eq!(found, wanted);
    for rule in Rule::ALL {
        let name = rule.name();
        assert!(METAL.contains(&format!(" {name};")), "no rule {name}");
        let text = metal_source::module(rule, DType::BF16, "u64");
        let module = ["MODULE_RULE", "MODULE_DTYPE", "MODULE_INDEX"];
        for (word, value) in module.into_iter().zip([name, "bf16", "u64"]) {
            assert!(text.starts_with("#define MODULE_RULE"));
            assert!(text.contains(&format!("#define {word} {value}\n")));
        }
        assert!(!text.contains("#include \""), "a header is left out");
    }
    let used = uses(&METAL, "KERNELS");
    assert_eq!(used, [["MODULE_RULE", "MODULE_DTYPE", "MODULE_INDEX"]]);
    let kernels = tokens(&METAL).iter().filter(|t| t.text == "kernel").count();
    assert_eq!(kernels, 1, "kernels besides the macro's");
}

#[test]
fn arguments_are_bound_as_declared() {
    let found = attributes(&METAL);
    let buffers = ["input", "logits", "grad", "output", "scratch", "p"]
        .into_iter()
        .enumerate();
    let mut wanted: Vec<_> = buffers
        .map(|(i, name)| (name, format!("buffer({i})")))
        .collect();
    wanted.push(("shared", "threadgroup(0)".into()));
    wanted.push(("block", "threadgroup_position_in_grid".into()));
    wanted.push(("blocks", "threadgroups_per_grid".into()));
    wanted.push(("index", "thread_position_in_threadgroup".into()));
    wanted.push(("count", "threads_per_threadgroup".into()));
    assert_eq!(found, wanted);
    for call in [
        "set_input_buffer(0, Some(input.buffer), input.offset_in_bytes)",
        "set_input_buffer(1, Some(logits.buffer), logits.offset_in_bytes)",
        "set_input_buffer(2, Some(grad.buffer), grad.offset_in_bytes)",
        "set_output_buffer(3, Some(output), 0)",
        "set_output_buffer(4, Some(scratch), 0)",
        "set_bytes(5, &params)",
        "set_threadgroup_memory_length(0, launch.shared_bytes(dtype).max(LEAST_SHARED_BYTES))",
    ] {
        assert!(BACKEND.contains(call), "{call}");
    }
}
