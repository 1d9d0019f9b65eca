//! Questions on a real terminal: what is typed or pasted, and what is left for the shell.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::main_job::{Vault, registered, secret};
use crate::world::World;

/// A shell on a terminal that runs a command, tells its exit code, and then shows what is left
/// of the input, which a shell at its prompt would run.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    shown: Vec<u8>,
}

impl Shell {
    fn run(world: &World, arguments: &str) -> Self {
        let line = format!(
            "{} {arguments}; echo code=$?; stty -a | grep -ow -e '-*echo' -e '-*isig'; stty -echo; \
             echo LEFT; timeout --foreground 0.5 cat; echo END",
            env!("CARGO_BIN_EXE_amberfs")
        );
        let mut child = world
            .program("script", &["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) of util-linux is there");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output, shown: Vec::new() }
    }

    /// Reads what is shown, up to and with `text`.
    fn wait_for(&mut self, text: &str) -> &mut Self {
        while !self.shown.ends_with(text.as_bytes()) {
            let mut byte = [0];
            let read = self.output.read(&mut byte).unwrap();
            let shown = String::from_utf8_lossy(&self.shown);
            assert_eq!(read, 1, "waited for {text:?} in vain: {shown}");
            self.shown.push(byte[0]);
        }
        self
    }

    fn paste(&mut self, text: &str) -> &mut Self {
        self.input.write_all(text.as_bytes()).unwrap();
        self.input.flush().unwrap();
        self
    }

    /// The exit code, what was left for the shell, and all that was shown.
    fn end(mut self) -> (String, String, String) {
        self.wait_for("END");
        drop(self.input);
        self.child.wait().unwrap();
        let shown = String::from_utf8(self.shown).unwrap().replace("\r\n", "\n");
        let (before, after) = shown.split_once("code=").expect("the command ended");
        let (code, rest) = after.split_once('\n').unwrap();
        let (modes, left) = rest.split_once("LEFT\n").unwrap();
        assert_eq!(modes, "isig\necho\n", "the terminal is as it was");
        (code.to_owned(), left.trim_end_matches("END").to_owned(), before.to_owned())
    }
}

/// The rest of the key went to the shell, which ran it and kept it in its history.
#[test]
fn a_key_pasted_as_it_is_printed_is_read_to_its_end() {
    let world = World::with_repo();
    fs::write(world.path("file"), b"x").unwrap();
    world.ok(&["put", "repo", "/file", "--from", "file"]);
    let key = fs::read_to_string(world.path("key")).unwrap();
    assert_eq!(key.lines().count(), 4);
    let sheet = world.ok(&["key", "sheet", "repo"]);
    for pasted in [
        key.clone(),
        key.replace('\n', "\r"),
        key.replace('\n', "\n    "),
        key.replace('\n', " ") + "\n",
        sheet,
    ] {
        let mut shell = Shell::run(&world, "ls repo");
        shell.wait_for("64-digit key: ").paste(&pasted);
        let (code, left, shown) = shell.end();
        assert_eq!((&*code, &*left), ("0", ""), "{pasted:?}: {shown}");
        assert!(shown.contains("file") && !shown.contains(&key[..9]), "{shown}");
    }
    // Typed from paper, a line at a time.
    let mut shell = Shell::run(&world, "ls repo");
    shell.wait_for("64-digit key: ");
    for (number, line) in key.lines().enumerate() {
        shell.paste(&format!("{line}\n"));
        if number < 3 {
            shell.wait_for(&format!("{} of the 64 digits", 16 * (number + 1)));
        }
    }
    assert_eq!(shell.end().0, "0");
}

#[test]
fn what_is_wrong_is_dropped_and_not_left_for_the_shell() {
    let world = World::with_repo();
    let key = fs::read_to_string(world.path("key")).unwrap();
    let wrong = key.replacen(|digit: char| digit.is_ascii_digit(), "x", 1);
    for pasted in [wrong.clone(), wrong.repeat(3), "touch left\ntouch left\ntouch lef".into()] {
        let mut shell = Shell::run(&world, "ls repo");
        shell.wait_for("64-digit key: ").paste(&pasted);
        let (code, left, shown) = shell.end();
        assert_eq!((&*code, &*left), ("12", ""), "{pasted:?}: {shown}");
        assert!(!shown.contains(&key[5..9]), "{shown}");
    }
    // Given up, also in the middle of a line.
    for pasted in ["\u{3}", "1234\u{3}", "1234 5678\n\u{3}", "1234\u{3}touch left\n"] {
        let mut shell = Shell::run(&world, "ls repo");
        shell.wait_for("64-digit key: ").paste(pasted);
        let (code, left, _) = shell.end();
        assert_eq!((&*code, &*left), ("130", ""), "{pasted:?}");
    }
}

#[test]
fn at_a_vault_keys_of_several_lines_and_passwords_of_digits_both_open() {
    let password = "1f3a 9c2e 7b4d 08a6";
    let (world, _vault) = registered(password);
    let key = fs::read_to_string(world.path("key")).unwrap();
    let tries = || world.ok(&["vault", "show", "repo", "--json"]);
    let before = tries();

    let ask = "Password or 64-digit key: ";
    let mut shell = Shell::run(&world, "ls repo");
    shell.wait_for(ask).paste(&key);
    let (code, left, shown) = shell.end();
    assert_eq!((&*code, &*left), ("0", ""), "{shown}");
    // A key with a mistake, or a part of one, is no password.
    let wrong = key.replacen(|digit: char| digit.is_ascii_digit(), "o", 1);
    let part = key.lines().take(2).collect::<Vec<_>>().join("\n");
    for (pasted, then) in [(wrong, ""), (format!("{part}\nhello\n"), ""), (part + "\n", "\n")] {
        let mut shell = Shell::run(&world, "ls repo");
        shell.wait_for(ask).paste(&pasted);
        if !then.is_empty() {
            shell.wait_for("an empty line ends it.").paste(then);
        }
        let (code, left, shown) = shell.end();
        assert_eq!((&*code, &*left), ("12", ""), "{pasted:?}: {shown}");
        assert!(!shown.contains("tries left"), "{shown}");
    }
    // Whether a key is right is no question for a password.
    let mut shell = Shell::run(&world, "key verify repo");
    shell.wait_for("64-digit key: ").paste("seven small boats\n");
    let (code, _, shown) = shell.end();
    assert!(code == "12" && !shown.contains("Password"), "{shown}");
    assert_eq!(tries(), before, "no try was spent");
    let mut shell = Shell::run(&world, "ls repo");
    shell.wait_for(ask).paste(&format!("{password}\n"));
    shell.wait_for("takes this as the password.").paste("\n");
    let (code, left, shown) = shell.end();
    assert_eq!((&*code, &*left), ("0", ""), "{shown}");
}

/// It came after the second prompt, and the warning of the vault after the choice.
#[test]
fn a_weak_password_is_refused_before_it_is_typed_twice() {
    let world = World::new();
    let vault = Vault::start(&world);
    let line = format!("init repo --vault {} --key-out key", vault.address);
    let mut shell = Shell::run(&world, &line);
    shell.wait_for("New password: ").paste("password1\n");
    let (code, left, shown) = shell.end();
    assert_eq!((&*code, &*left), ("2", ""), "{shown}");
    assert!(!shown.contains("Again"), "{shown}");
    let warned = shown.find("keys in a file").expect("the vault's keys are in a file");
    assert!(warned < shown.find("New password").unwrap(), "{shown}");
    assert!(!world.path("key").exists() && !world.path("repo").exists());
}

/// A try was spent for each of them.
#[test]
fn a_mark_of_utf8_is_none_of_a_secret_and_a_key_is_no_password() {
    let password = "seven small boats drift home";
    let (world, _vault) = registered(password);
    let key = fs::read_to_string(world.path("key")).unwrap();
    let tries = || world.ok(&["vault", "show", "repo", "--json"]);
    let before = tries();
    secret(&world, "marked", &format!("\u{feff}{password}\r\n"));
    let run = |arguments: &[&str]| {
        let output = world.run(&[&["ls", "repo"], arguments].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["--password-file", "marked"]).0, Some(0));
    assert_eq!(run(&["--password-command", "cat marked"]).0, Some(0));
    let stdin = fs::File::open(world.path("marked")).unwrap();
    let mut command = world.command(&["ls", "repo", "--password-file", "-"]);
    assert!(command.stdin(stdin).status().unwrap().success());
    secret(&world, "marked-key", &format!("\u{feff}{key}"));
    assert_eq!(run(&["--key-file", "marked-key"]).0, Some(0));
    // As Windows saves it; nothing is sent.
    let wide: Vec<u8> =
        format!("\u{feff}{password}\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    secret(&world, "wide", "");
    fs::write(world.path("wide"), wide).unwrap();
    for arguments in [["--password-file", "wide"], ["--password-command", "cat wide"]] {
        let (code, said) = run(&arguments);
        assert!(code == Some(2) && said.contains("UTF-16"), "{said}");
    }
    // The page that was put away is a key file, and no password file.
    secret(&world, "sheet", &world.ok(&["key", "sheet", "repo"]));
    assert_eq!(run(&["--key-file", "sheet"]).0, Some(0));
    for file in ["sheet", "key"] {
        let (code, said) = run(&["--password-file", file]);
        assert!(code == Some(12) && said.contains("looks like a key"), "{said}");
    }
    assert_eq!(tries(), before, "no try was spent");
}

/// The groups of a fingerprint that a question asks for.
fn asked_groups(shown: &str, fingerprint: &str) -> Vec<String> {
    let (_, question) = shown.rsplit_once("these groups").expect("it asks for groups");
    let numbers = question.split(|byte: char| !byte.is_ascii_digit());
    let numbers = numbers.filter_map(|text| text.parse::<usize>().ok());
    numbers.map(|number| fingerprint[4 * number - 4..4 * number].to_owned()).collect()
}

/// "yes" was enough: people compare the first and the last digits, and somebody who tries
/// many keys has a vault whose fingerprint begins and ends the same.
#[test]
fn an_unknown_vault_is_confirmed_by_groups_out_of_the_middle() {
    let (world, vault) = registered("seven small boats drift home");
    let fingerprint = vault.address.rsplit_once('#').unwrap().1;
    let sheet = world.ok(&["key", "sheet", "repo"]);
    let groups: Vec<&str> = sheet
        .lines()
        .filter(|line| line.trim_start().starts_with("groups "))
        .flat_map(|line| line.split_whitespace().skip(2))
        .collect();
    assert_eq!(groups.concat(), fingerprint, "the page has its groups: {sheet}");
    let line = "ls repo --password-file password";
    let ask = |answer: &dyn Fn(&str) -> String| {
        // Another machine: nothing is pinned.
        let _ = fs::remove_dir_all(world.path("state"));
        let mut shell = Shell::run(&world, line);
        shell.wait_for("these groups of the fingerprint").wait_for(": ");
        let shown = String::from_utf8(shell.shown.clone()).unwrap();
        assert!(!shown.contains(&fingerprint[4..20]), "it is not there to be copied: {shown}");
        shell.paste(&format!("{}\n", answer(&shown)));
        let (code, left, shown) = shell.end();
        assert_eq!(left, "", "{shown}");
        (code, shown)
    };
    let right = |shown: &str| asked_groups(shown, fingerprint).join(" ");
    let (code, shown) = ask(&right);
    assert_eq!(code, "0", "{shown}");
    for other in [
        &(|_: &str| "yes".to_owned()) as &dyn Fn(&str) -> String,
        &|_| String::new(),
        &|shown| right(shown)[5..].to_owned(),
        &|shown| right(shown).replace(|byte: char| byte.is_ascii_hexdigit(), "0"),
        &|_| format!("{}{}", &fingerprint[..4], &fingerprint[60..]),
    ] {
        let (code, shown) = ask(other);
        assert_eq!(code, "16", "{shown}");
    }
    // As it is read aloud, and all of it.
    for all in [
        &(|shown: &str| right(shown).to_uppercase().replace(' ', "-")) as &dyn Fn(&str) -> String,
        &|_| fingerprint.to_owned(),
        &|_| vault.address.clone(),
    ] {
        let (code, shown) = ask(all);
        assert_eq!(code, "0", "{shown}");
    }
}
