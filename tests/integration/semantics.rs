//! `docs/semantics.md`, row by row: what each says is shown on a real mount.
//!
//! Rows of tables, list items and paragraphs that promise something are known
//! by their section and how they begin. `ROWS` of the modules below and the
//! document name the same ones, so that none is without a proof and no proof is
//! of something that is not promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use crate::mounted::has_fuse;
use crate::world::World;

#[path = "semantics/content.rs"]
mod content;
#[path = "semantics/errors.rs"]
mod errors;
#[path = "semantics/impossible.rs"]
mod impossible;
#[path = "semantics/points.rs"]
mod points;
#[path = "semantics/storage.rs"]
mod storage;
#[path = "semantics/survives.rs"]
mod survives;

const DOCUMENT: &str = include_str!("../../docs/semantics.md");
const SECTIONS: [&str; 6] = [
    "What survives what",
    "Point by point",
    "Ownership",
    "Space",
    "Errors",
    "What FUSE makes impossible",
];

/// How a row is proven.
enum Proof {
    /// On the mount, in a folder of its own.
    Here(fn(&Place)),
    /// Likewise; what it returns stands in the row's last column.
    Answers(fn(&Place) -> Vec<String>),
    /// By the row of this section and beginning.
    With(&'static str, &'static str),
    /// By the tests of these names.
    Elsewhere(&'static [&'static str]),
}

/// Section, first column, proof.
type Row = (&'static str, &'static str, Proof);

fn rows() -> Vec<&'static Row> {
    [survives::ROWS, points::ROWS, content::ROWS, storage::ROWS, errors::ROWS, impossible::ROWS]
        .into_iter()
        .flatten()
        .collect()
}

/// Where a row is tried.
struct Place {
    /// Of the mount.
    world: Rc<World>,
    /// On the mount, empty, open to everybody.
    dir: PathBuf,
    row: &'static str,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, name: &str) -> fs::File {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(self.path(name)).unwrap()
    }

    /// Whether root runs this; a skip is said aloud.
    fn is_root(&self) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("SKIPPED: semantics: {}: needs root", self.row);
        }
        root
    }

    /// Makes a system call that only calls.py knows; what it prints.
    fn call(&self, name: &str, arguments: &[&str]) -> String {
        self.python("calls.py", &[&[name], arguments].concat())
    }

    /// Runs a program that lies beside calls.py; what it prints.
    fn python(&self, program: &str, arguments: &[&str]) -> String {
        let calls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/semantics");
        let output = Command::new("python3")
            .arg("-B")
            .arg(calls.join(program))
            .args(arguments)
            .current_dir(&self.dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    /// Runs a shell script as a user without rights; its exit code.
    fn as_other(&self, script: &str) -> i32 {
        Command::new("setpriv")
            .args(["--reuid=1000", "--regid=1000", "--clear-groups", "sh", "-c", script])
            .current_dir(&self.dir)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .code()
            .unwrap()
    }
}

/// The error that a call must have had.
fn error_of<T>(result: std::io::Result<T>) -> i32 {
    result.err().expect("is refused").raw_os_error().unwrap()
}

fn is_error<T>(result: std::io::Result<T>, expected: i32) {
    assert_eq!(error_of(result), expected);
}

/// One promise of the document.
#[derive(Debug)]
struct Promise {
    section: String,
    begins: String,
    /// The last column of its table.
    last: String,
}

/// All promises of the sections above. In a section with a table, what stands
/// before it introduces it.
fn promises() -> Vec<Promise> {
    let mut found = Vec::new();
    for part in DOCUMENT.split("\n## ").skip(1) {
        let (section, body) = part.split_once('\n').unwrap();
        if !SECTIONS.contains(&section) {
            continue;
        }
        let mut promise = |begins: &str, last: &str| {
            let (section, begins, last) = (section.into(), begins.into(), last.into());
            found.push(Promise { section, begins, last });
        };
        let blocks: Vec<&str> = body.split("\n\n").map(|block| block.trim_matches('\n')).collect();
        let table = blocks.iter().position(|block| block.starts_with('|')).unwrap_or(0);
        for block in &blocks[table..] {
            if block.starts_with('|') {
                for line in block.lines().skip(2) {
                    let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
                    promise(cells[0].trim(), cells.last().unwrap().trim());
                }
            } else {
                let text = format!("\n{block}").replace("\n  ", " ");
                let texts = text.split("\n- ").map(|text| text.replace('\n', " "));
                for text in texts.filter(|text| !text.trim().is_empty()) {
                    promise(beginning(text.trim()), "");
                }
            }
        }
    }
    found
}

/// The first sentence, or what stands before its colon.
fn beginning(text: &str) -> &str {
    let end = [": ", ". "].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_end_matches('.')
}

#[test]
fn every_promise_has_a_proof_and_every_proof_a_promise() {
    let found = promises();
    let named: BTreeSet<(&str, &str)> =
        found.iter().map(|promise| (&*promise.section, &*promise.begins)).collect();
    assert_eq!(named.len(), found.len(), "two begin alike");
    let proven: BTreeSet<(&str, &str)> = rows().iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(proven.len(), rows().len(), "one is proven twice");
    let unproven: Vec<_> = named.difference(&proven).collect();
    let unpromised: Vec<_> = proven.difference(&named).collect();
    assert!(unproven.is_empty() && unpromised.is_empty(), "{unproven:#?} {unpromised:#?}");
    for section in SECTIONS {
        assert!(named.iter().any(|name| name.0 == section), "{section}");
    }
}

#[test]
fn proofs_that_are_elsewhere_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (_, row, proof) in rows() {
        match proof {
            Proof::Here(_) | Proof::Answers(_) => {}
            Proof::With(section, other) => {
                let real = rows().into_iter().any(|(found, name, proof)| {
                    let real = !matches!(proof, Proof::With(..));
                    found == section && name == other && real
                });
                assert!(real, "{row}: {other}");
            }
            Proof::Elsewhere(tests) => {
                for test in *tests {
                    let (file, name) = test.split_once("::").expect("FILE::TEST");
                    let text = fs::read_to_string(root.join(file)).expect(file);
                    let at = text.find(&format!("fn {name}(")).expect(test);
                    let before = &text[..at];
                    let start = before.rfind("\n\n").unwrap_or(0);
                    assert!(before[start..].contains("#[test]"), "{test} is no test");
                }
            }
        }
    }
}

/// What pjdfstest leaves out, and why: the list that its runner compares with, and
/// the table. It fails nowhere, so the list of failures is empty.
#[test]
fn what_pjdfstest_leaves_out_is_in_the_document() {
    let list = include_str!("../posix/expected-skips");
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (_, why) = line.split_once(" # ").expect(line);
        *listed.entry(why).or_default() += 1;
    }
    let section = DOCUMENT.split("\n## What pjdfstest leaves out\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let told: BTreeMap<&str, usize> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0], cells[1].parse().expect("a number"))
        })
        .collect();
    assert_eq!(told, listed);
    let failures = include_str!("../posix/expected-failures");
    assert!(failures.lines().all(|line| line.starts_with('#')), "{failures}");
}

#[test]
fn each_row_holds_on_a_mount() {
    if !has_fuse("semantics") {
        return;
    }
    let world = Rc::new(World::with_repo());
    let root = rustix::process::geteuid().is_root();
    let options: &[&str] = if root { &["-o", "allow_other"] } else { &[] };
    let mount = world.mount("repo", "mnt", &[&["--key-file", "key"], options].concat());
    for folder in ["", "mnt"] {
        fs::set_permissions(world.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let documented = promises();
    let only = std::env::var("AMBERFS_TEST_ROW").ok();
    let (mut failed, mut tried) = (Vec::new(), 0);
    for (number, (section, row, proof)) in rows().into_iter().enumerate() {
        if only.as_ref().is_some_and(|only| !row.contains(only.as_str())) {
            continue;
        }
        let dir = world.path("mnt").join(number.to_string());
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let place = Place { world: Rc::clone(&world), dir, row };
        let started = std::time::Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| match proof {
            Proof::Here(check) => check(&place),
            Proof::Answers(ask) => {
                let row = documented.iter().find(|p| p.section == *section && p.begins == *row);
                let promised = &row.expect("is in the document").last;
                for answer in ask(&place) {
                    assert!(promised.contains(&answer), "{answer}, not {promised}");
                }
            }
            Proof::With(..) | Proof::Elsewhere(_) => {}
        }));
        if matches!(proof, Proof::Here(_) | Proof::Answers(_)) {
            tried += 1;
            println!("{section}: {row}: {:?}", started.elapsed());
        }
        if result.is_err() {
            println!("{}", world.log());
            failed.push(format!("{section}: {row}"));
        }
    }
    mount.unmount(&world);
    assert!(failed.is_empty(), "{} of {tried} do not hold:\n{}", failed.len(), failed.join("\n"));
    assert!(only.is_some() || tried > 50, "only {tried} were tried");
    println!("semantics: {tried} rows hold");
    world.ok(&["check", "repo", "--read-data"]);
}
