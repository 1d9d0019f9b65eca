//! Modules are layers: each imports only from those before it. And only some
//! may touch the outside world.
//!
//! The compiler and clippy keep what they can: without the feature `server` there is
//! nothing of the vault but its client's layers, and `clippy.toml` with `src/lib.rs` says
//! what only `io` may call. The rest is looked for in the text.

use std::fs;
use std::path::{Path, PathBuf};

/// In order; `docs/architecture.md` has the picture. `crypto` needs `io` for
/// random numbers only.
const LAYERS: [&str; 17] = [
    "io", "crypto", "format", "tree", "store", "merge", "journal", "volume", "sync", "fs", "vault",
    "control", "fuse", "daemon", "cli", "fuzzing", "bin",
];

/// Lower layers that a module reaches only through the one between: the module, what it must
/// not import, and the field of the one between.
const HIDDEN: [(&str, &str, &str); 1] = [("fs", "store", ".store")];

/// The layers of `vault`, in order, and which others each imports from.
const VAULT: [(&str, &[&str]); 11] = [
    ("protocol", &[]),
    ("line", &["protocol"]),
    ("client", &["protocol", "line"]),
    ("budget", &[]),
    ("config", &[]),
    ("hsm", &["protocol", "config"]),
    ("ledger", &["protocol", "config", "hsm"]),
    ("server", &["protocol", "budget", "config", "hsm", "ledger"]),
    ("listen", &[]),
    ("serve", &["protocol", "line", "hsm", "server", "listen"]),
    ("relay", &["protocol", "line", "budget", "listen"]),
];

/// Who may touch the operating system directly, beside tests.
const OUTSIDE: [(&str, &[&str]); 4] = [
    ("std::fs::", &["io", "vault", "control", "fuse", "daemon", "cli", "bin"]),
    ("std::thread::spawn", &["vault", "control", "fuse", "daemon", "cli"]),
    ("fuser::", &["fuse"]),
    ("cryptoki::", &["vault"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All lines below `folder` that are part of the programs, each with its file relative to
/// it and its number.
fn lines_of_programs(folder: &Path) -> Vec<(PathBuf, usize, String)> {
    let mut files = Vec::new();
    sources(folder, &mut files);
    let mut lines = Vec::new();
    for file in files {
        let relative = file.strip_prefix(folder).unwrap();
        if relative.iter().any(|name| name.to_string_lossy().starts_with("tests")) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        // What follows the tests module is not part of the program.
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let numbered = program.lines().enumerate();
        let code = numbered.filter(|(_, line)| !line.trim_start().starts_with("//"));
        lines.extend(code.map(|(at, line)| (relative.to_owned(), at + 1, line.to_owned())));
    }
    lines
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The module that a file is of: the first name on its way.
fn module_of(relative: &Path) -> &str {
    relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs")
}

/// What stands behind each `prefix`: the names of modules. An empty one is of `{`, whose
/// names nobody would look at.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
    })
}

#[test]
fn modules_import_only_from_lower_layers() {
    let lines = lines_of_programs(&src());
    assert!(lines.len() > 10_000, "the sources were found");
    let mut wrong = Vec::new();
    for (file, number, line) in lines {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        let place = format!("{}:{number}", file.display());
        let Some(layer) = LAYERS.iter().position(|name| *name == module) else {
            wrong.push(format!("{place}: module {module} has no layer"));
            continue;
        };
        for name in names_after(&line, "crate::") {
            let used = LAYERS.iter().position(|layer| *layer == name);
            if name.is_empty() || used.is_some_and(|used| used > layer) {
                wrong.push(format!("{place}: {module} imports from {name} ({line})"));
            }
        }
        for (hiding, hidden, field) in HIDDEN {
            let imported = names_after(&line, "crate::").any(|name| name == hidden);
            // A call, of an atomic value say, is something else.
            let reached = line.match_indices(field).any(|(at, _)| {
                let after = line[at + field.len()..].chars().next();
                after.is_none_or(|c| c != '(' && c != '_' && !c.is_alphanumeric())
            });
            if module == hiding && (imported || reached) {
                wrong.push(format!("{place}: {module} reaches into {hidden} ({line})"));
            }
        }
        for (what, allowed) in OUTSIDE {
            if line.contains(what) && !allowed.contains(&module) {
                wrong.push(format!("{place}: {module} must not use {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn layers_of_the_vault_import_only_from_those_below_them() {
    for (at, (module, imports)) in VAULT.iter().enumerate() {
        let below = |name: &&str| VAULT[..at].iter().any(|(below, _)| below == name);
        assert!(imports.iter().all(below), "{module} is below what it imports");
    }
    let lines = lines_of_programs(&src().join("vault"));
    assert!(lines.len() > 5_000, "the sources were found");
    let mut wrong = Vec::new();
    for (file, number, line) in lines {
        let module = module_of(&file);
        if module == "mod" {
            continue;
        }
        let place = format!("{}:{number}", file.display());
        let Some((_, imports)) = VAULT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{place}: module {module} has no layer"));
            continue;
        };
        for name in names_after(&line, "crate::vault::") {
            if name != module && !imports.contains(&name) {
                wrong.push(format!("{place}: {module} imports from {name} ({line})"));
            }
        }
        // The way up from a layer's top: other layers are named by `crate::vault::`.
        let is_top =
            file.components().count() == 1 || file.ends_with(Path::new(module).join("mod.rs"));
        if is_top && line.contains("super::") {
            wrong.push(format!("{place}: {module} imports from super ({line})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
