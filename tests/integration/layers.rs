//! Modules are layers: each imports only from those before it. And only some
//! may touch the outside world.

use std::fs;
use std::path::{Path, PathBuf};

/// In order; `docs/architecture.md` has the picture. `crypto` needs `io` for
/// random numbers only.
const LAYERS: [&str; 15] = [
    "io", "crypto", "format", "tree", "store", "journal", "volume", "fs", "vault", "control",
    "fuse", "daemon", "cli", "fuzzing", "bin",
];

/// Who may touch the operating system directly, beside tests.
const OUTSIDE: [(&str, &[&str]); 10] = [
    ("std::fs::", &["io", "vault", "control", "fuse", "daemon", "cli", "bin"]),
    ("std::thread::spawn", &["vault", "control", "fuse", "daemon", "cli"]),
    ("SystemTime::now", &["io"]),
    ("fuser::", &["fuse"]),
    ("cryptoki::", &["vault"]),
    // `io::output` writes, filters and tells errors; these panic and filter nothing.
    ("print!(", &[]),
    ("println!(", &[]),
    ("dbg!(", &[]),
    ("io::stdout()", &["io"]),
    ("io::stderr()", &["io"]),
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

#[test]
fn modules_import_only_from_lower_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 40, "the sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(layer) = LAYERS.iter().position(|name| *name == module) else {
            wrong.push(format!("{}: module {module} has no layer", relative.display()));
            continue;
        };
        if relative.iter().any(|name| name.to_string_lossy().starts_with("tests")) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        // What follows the tests module is not part of the program.
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (number, line) in program.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for (name, rest) in line.match_indices("crate::").map(|(at, _)| {
                let rest = &line[at + "crate::".len()..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                (rest[..end.unwrap_or(rest.len())].to_string(), rest)
            }) {
                let used = LAYERS.iter().position(|layer| *layer == name);
                if used.is_some_and(|used| used > layer) {
                    wrong.push(format!(
                        "{}:{}: {module} imports from {name} ({rest})",
                        relative.display(),
                        number + 1
                    ));
                }
            }
            for (what, allowed) in OUTSIDE {
                if line.contains(what) && !allowed.contains(&module) {
                    wrong.push(format!(
                        "{}:{}: {module} must not use {what}",
                        relative.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
