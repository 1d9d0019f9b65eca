//! What the programs say of their command lines: as it was when somebody last looked at it
//! (`tests/cli`; `SNAPSHOTS=overwrite` writes it anew), and all of it in `docs/cli.md`.
//!
//! Without variables, a terminal or a locale, so that it is the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use snapbox::{Data, assert_data_eq, file};

use crate::world::World;

const AMBERFS: &str = env!("CARGO_BIN_EXE_amberfs");
#[cfg(feature = "pkcs11")]
const VAULT: &str = env!("CARGO_BIN_EXE_amberfs-vault");

fn run(world: &World, program: &str, arguments: &[&str]) -> Output {
    world.program(program, arguments).env("COLUMNS", "100").output().unwrap()
}

/// One command of a program, as `--help` tells it.
struct Help {
    /// The command's names, none for the program itself.
    path: Vec<String>,
    /// All lines.
    text: String,
    /// The lines of each option.
    options: BTreeMap<String, String>,
    /// Whether it only holds other commands.
    is_group: bool,
}

/// The lines below a heading.
fn section<'a>(text: &'a str, heading: &str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .skip_while(move |line| *line != heading)
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with(' '))
}

/// The long name of the option that a line begins to tell of, or else the short one.
fn option_of(line: &str) -> Option<String> {
    let names = line.trim_start();
    if !names.starts_with('-') || line.len() - names.len() > 6 {
        return None;
    }
    let names: Vec<&str> = names
        .split([' ', ','])
        .take_while(|word| word.is_empty() || word.starts_with('-'))
        .filter(|word| !word.is_empty())
        .map(|word| word.trim_end_matches("..."))
        .collect();
    names.last().map(|name| (*name).to_owned())
}

/// All commands of a program, each after the one that holds it.
fn helps(world: &World, program: &str) -> Vec<Help> {
    let mut found = Vec::new();
    let mut next = vec![Vec::<String>::new()];
    while let Some(path) = next.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let output = run(world, program, &arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let inner: Vec<&str> = section(&text, "Commands:")
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .collect();
        next.extend(inner.iter().rev().map(|name| [&path[..], &[(*name).to_owned()]].concat()));
        let is_group = !inner.is_empty();
        let mut options = BTreeMap::<_, String>::new();
        let mut current = None;
        for line in section(&text, "Options:") {
            current = option_of(line).or(current);
            if let Some(option) = &current {
                let lines = options.entry(option.clone()).or_default();
                writeln!(lines, "{line}").unwrap();
            }
        }
        found.push(Help { path, text, options, is_group });
    }
    found
}

/// What people are shown of all commands; options that all commands have once only.
fn shown(name: &str, helps: &[Help]) -> String {
    let mut all = String::new();
    let (first, others) = helps.split_first().unwrap();
    writeln!(all, "$ {name} --help\n{}", first.text).unwrap();
    for help in others {
        let before = help.text.split("\nOptions:\n").next().unwrap().trim_end();
        writeln!(all, "$ {name} {} --help\n{before}", help.path.join(" ")).unwrap();
        let own = help.options.iter().filter(|(option, _)| !first.options.contains_key(*option));
        let own: Vec<&str> = own.map(|(_, lines)| lines.trim_end()).collect();
        if !own.is_empty() {
            writeln!(all, "\nOptions:\n{}", own.join("\n")).unwrap();
        }
        all.push('\n');
    }
    all
}

fn assert_is_as_before(now: &str, before: Data) {
    // Lines of an indentation alone are none that somebody sees.
    let lines: Vec<&str> = now.trim_end().lines().map(str::trim_end).collect();
    assert_data_eq!(Data::text(lines.join("\n") + "\n").raw(), before.raw());
}

/// What programs answer to each of `lines`, with the exit codes.
fn answers(world: &World, program: &str, lines: &[&str]) -> String {
    let mut all = String::new();
    for line in lines {
        let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
        let output = run(world, program, &arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        let said = said.replace(&*world.path("").to_string_lossy(), "/world/");
        writeln!(all, "$ {line}\n{said}exit code {}\n", output.status.code().unwrap()).unwrap();
    }
    all
}

#[test]
fn help_of_amberfs_is_as_before() {
    let helps = helps(&World::new(), AMBERFS);
    assert_is_as_before(&shown("amberfs", &helps), file!["../cli/amberfs.txt"]);
}

#[cfg(feature = "pkcs11")]
#[test]
fn help_of_amberfs_vault_is_as_before() {
    let helps = helps(&World::new(), VAULT);
    assert_is_as_before(&shown("amberfs-vault", &helps), file!["../cli/amberfs-vault.txt"]);
}

#[test]
fn answers_to_wrong_use_are_as_before() {
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    fs::create_dir(world.path("full")).unwrap();
    fs::write(world.path("full/photo"), b"").unwrap();
    fs::write(world.path("wrong"), "0".repeat(64)).unwrap();
    fs::write(world.path("open"), "0".repeat(64)).unwrap();
    fs::set_permissions(world.path("wrong"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(world.path("open"), fs::Permissions::from_mode(0o644)).unwrap();
    let lines = [
        "amberfs",
        "amberfs surprise",
        "amberfs lss",
        "amberfs --surprise",
        "amberfs --json --surprise",
        "amberfs init",
        "amberfs init full",
        "amberfs init new --decline-key",
        "amberfs init new --json",
        "amberfs init new --key-out new.key --decline-key",
        "amberfs ls none --key-file key",
        "amberfs ls mnt --key-file key",
        "amberfs ls repo",
        "amberfs ls repo --key-file none",
        "amberfs ls repo --key-file open",
        "amberfs ls repo --key-file wrong",
        "amberfs ls repo --key-file wrong --json",
        "amberfs ls repo none --key-file key",
        "amberfs ls repo ../x --key-file key",
        "amberfs cat repo",
        "amberfs cat repo x --json",
        "amberfs cat repo / --key-file key",
        "amberfs put repo x --key-file -",
        "amberfs put repo x --from none --key-file key",
        "amberfs conflicts",
        "amberfs conflicts list",
        "amberfs conflicts list repo none --key-file key",
        "amberfs conflicts keep repo",
        "amberfs conflicts keep repo / --key-file key",
        "amberfs extract repo",
        "amberfs extract repo out none --key-file key",
        "amberfs check repo --repair --no-key",
        "amberfs mount repo",
        "amberfs mount repo mnt -o surprise --key-file key",
        "amberfs mount repo mnt -o device=x --key-file key",
        "amberfs umount",
        "amberfs umount --all mnt",
        "amberfs umount mnt",
        "amberfs sync mnt",
        "amberfs status mnt",
        "amberfs key",
        "amberfs key sheet repo --json",
        "amberfs key verify repo --key-file wrong",
        "amberfs passwd repo --key-file - --new-password-file -",
        "amberfs vault show repo",
        "amberfs vault remove repo --give-up --replaced",
        "amberfs completions surprise",
        "amberfs man",
    ];
    let wrong = answers(&world, AMBERFS, &lines);
    assert_is_as_before(&wrong, file!["../cli/amberfs-wrong.txt"]);
}

#[cfg(feature = "pkcs11")]
#[test]
fn answers_of_amberfs_vault_to_wrong_use_are_as_before() {
    let lines = [
        "amberfs-vault",
        "amberfs-vault surprise",
        "amberfs-vault init",
        "amberfs-vault serve none",
        "amberfs-vault serve none --registrations many",
        "amberfs-vault status none",
        "amberfs-vault address none",
        "amberfs-vault probe surprise",
        "amberfs-vault invite none --days some",
        "amberfs-vault root",
        "amberfs-vault relay serve none",
        "amberfs-vault status none --json",
    ];
    let wrong = answers(&World::new(), VAULT, &lines);
    assert_is_as_before(&wrong, file!["../cli/amberfs-vault-wrong.txt"]);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// `docs/cli.md` of the two programs.
fn documented() -> (String, String) {
    let page = read("docs/cli.md");
    let (amberfs, rest) = page.split_once("\n## amberfs-vault\n").unwrap();
    let vault = rest.split("\n## ").next().unwrap();
    (amberfs.to_owned(), vault.to_owned())
}

/// Whether a text names an option or a command, and not only a longer one.
fn names(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '-';
    text.match_indices(name).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + name.len()..].starts_with(is_part)
    })
}

/// Commands begin a row of a table or a part of its first cell.
fn missing(page: &str, helps: &[Help]) -> Vec<String> {
    let cells: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split(" | ").next())
        .collect();
    let mut missing = BTreeSet::new();
    for help in helps {
        let command = help.path.join(" ");
        let starts = |cell: &&str| names(cell, &command) && cell.contains(&format!("`{command}"));
        if !help.is_group && !cells.iter().any(starts) {
            missing.insert(command);
        }
        for option in help.options.keys().filter(|option| *option != "--help") {
            if !names(page, option) && option != "--version" {
                missing.insert(option.clone());
            }
        }
    }
    missing.into_iter().collect()
}

#[test]
fn every_command_and_option_of_amberfs_is_documented() {
    let (page, _) = documented();
    assert_eq!(missing(&page, &helps(&World::new(), AMBERFS)), Vec::<String>::new());
    // For packagers: --help does not show it.
    assert!(names(&page, "man DIR"));
}

#[cfg(feature = "pkcs11")]
#[test]
fn every_command_and_option_of_amberfs_vault_is_documented() {
    let (_, page) = documented();
    assert_eq!(missing(&page, &helps(&World::new(), VAULT)), Vec::<String>::new());
}

/// The numbers that a manual page has under "EXIT STATUS".
fn codes_of_page(page: &str) -> BTreeSet<u8> {
    let status = page.split("EXIT STATUS").nth(1).unwrap();
    let bold = status.lines().filter_map(|line| line.strip_prefix("\\fB"));
    bold.filter_map(|line| line.strip_suffix("\\fR")?.parse().ok()).collect()
}

#[test]
fn every_exit_code_is_documented() {
    let (page, _) = documented();
    let codes: BTreeSet<u8> = page
        .split_once("\n## Exit codes\n")
        .unwrap()
        .1
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert!(codes.len() > 15, "{codes:?}");
    let world = World::new();
    assert!(run(&world, AMBERFS, &["man", "pages"]).status.success());
    let page = fs::read_to_string(world.path("pages/amberfs.1")).unwrap();
    assert_eq!(codes_of_page(&page), codes);
    #[cfg(feature = "pkcs11")]
    {
        assert!(run(&world, VAULT, &["man", "pages"]).status.success());
        let page = fs::read_to_string(world.path("pages/amberfs-vault.8")).unwrap();
        let codes = codes_of_page(&page);
        assert!(codes.len() > 6, "{codes:?}");
        let (_, vault) = documented();
        let told =
            vault.split_once("Exit\ncodes: ").or(vault.split_once("Exit codes: ")).unwrap().1;
        for code in codes {
            assert!(names(told, &code.to_string()), "{code}");
        }
    }
}

/// Each has a command line, and what man(1) and lexgrog(1) look for.
#[test]
fn every_command_has_a_manual_page() {
    let world = World::new();
    let programs = [
        ("amberfs", "1", AMBERFS),
        #[cfg(feature = "pkcs11")]
        ("amberfs-vault", "8", VAULT),
    ];
    let mut count = 0;
    for (program, section, path) in programs {
        assert!(run(&world, path, &["man", "pages"]).status.success());
        let helps = helps(&world, path);
        for help in helps.iter().filter(|help| help.path.is_empty() || !help.is_group) {
            let name = [&[program.to_owned()][..], &help.path].concat().join("-");
            let page = world.path(&format!("pages/{name}.{section}"));
            let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}"));
            let name = name.replace('-', "\\-");
            assert!(page.contains(&format!(".SH NAME\n{name} \\- ")), "{page}");
            for option in help.options.keys() {
                let is_shared = !help.path.is_empty() && helps[0].options.contains_key(option);
                let shown = page.contains(&format!("\\fB{}\\fR", option.replace('-', "\\-")));
                assert!(shown != is_shared || option == "--version", "{name}: {option}");
            }
            count += 1;
        }
    }
    assert_eq!(world.files("pages").len(), count);
    let output = run(&world, AMBERFS, &["man", "pages/amberfs.1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn the_helpers_page_has_all_mount_options() {
    let (page, _) = documented();
    let table = page.split_once("\n## Mount options").unwrap().1.split_once("\n## ").unwrap().0;
    let options: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').map(|option| option.split('=').next().unwrap()))
        .filter(|option| option.starts_with(char::is_alphabetic))
        .collect();
    assert!(options.len() > 15, "{options:?}");
    let manual = ["\\fB", "\\fI", "\\fR"]
        .iter()
        .fold(read("docs/man/mount.amberfs.8"), |text, font| text.replace(font, ""));
    for option in options {
        assert!(names(&manual, option), "{option}");
    }
}
