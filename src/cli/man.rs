//! Manual pages, made from the command line: one of the program, which lists its commands and
//! has the options that all of them take, and one of each command.

use std::io::{self, Result};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::io::Exit;

/// What the page of a program has beside what its command line says.
pub struct Closing<'a> {
    /// The section of all its pages, as man(1) numbers them.
    pub section: &'a str,
    /// Exit codes: number, name, and when a command ends with it.
    pub exit_codes: &'a [(u8, &'a str, &'a str)],
    /// Pages to read next, as `amberfs(1)`.
    pub see_also: &'a [&'a str],
}

/// The last sections of the manual pages of amberfs.
pub const AMBERFS: Closing<'_> = Closing {
    section: "1",
    exit_codes: Exit::TABLE,
    see_also: &["amberfs-vault(8)", "mount.amberfs(8)", "amberfs-format(5)"],
};

/// The last sections of the manual pages of amberfs-vault.
pub const VAULT: Closing<'_> = Closing {
    section: "8",
    exit_codes: &[
        (0, "Done", "done"),
        (1, "Other", "anything else"),
        (2, "Usage", "the command line or a secrets file is wrong"),
        (10, "NoRepository", "no vault in DIR"),
        (11, "InUse", "DIR is served already"),
        (12, "WrongSecret", "the token refused a PIN"),
        (28, "NoSpace", "standard output takes no more: no space left"),
        (141, "NoReader", "whoever read standard output has gone"),
    ],
    see_also: &["amberfs(1)"],
};

/// Writes all pages of a program into `folder`, which it makes if it is not there.
pub fn write(program: Command, closing: &Closing<'_>, folder: &Path) -> Result<()> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let place = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| place(folder, error))?;
    let mut commands = Vec::new();
    collect(&program, &mut commands);
    let pages = std::iter::once(page_of_program(&program, &commands, closing)?).chain(
        commands
            .iter()
            .map(|command| page_of_command(command, &program, closing))
            .collect::<Result<Vec<_>>>()?,
    );
    for (name, page) in pages {
        let path = folder.join(name);
        std::fs::write(&path, page).map_err(|error| place(&path, error))?;
    }
    Ok(())
}

/// All commands that do something, and not those that only hold others.
fn collect(command: &Command, found: &mut Vec<Command>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        if inner.has_subcommands() {
            collect(inner, found);
        } else {
            found.push(inner.clone());
        }
    }
}

/// The name of a command's page: `amberfs-key-show`.
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn man(command: &Command, program: &Command, section: &str) -> Man {
    let version = program.get_version().unwrap_or_default();
    Man::new(command.clone())
        .title(page_name(command).to_uppercase())
        .section(section)
        .source(format!("amberfs {version}"))
}

type Page = (String, Vec<u8>);

fn page_of_program(program: &Command, commands: &[Command], closing: &Closing<'_>) -> Result<Page> {
    let man = man(program, program, closing.section);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(program.get_name()), roman(" [OPTIONS] COMMAND ...")]);
    roff.control("SH", ["COMMANDS"]);
    for command in commands {
        roff.control("TP", []);
        roff.text([bold(page_name(command)), roman(format!("({})", closing.section))]);
        roff.text([roman(about(command))]);
    }
    roff.to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, _, when) in closing.exit_codes {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(when.trim().replace('`', ""))]);
    }
    see_also(&mut roff, closing.see_also);
    roff.to_writer(&mut page)?;
    Ok((format!("{}.{}", program.get_name(), closing.section), page))
}

fn page_of_command(command: &Command, program: &Command, closing: &Closing<'_>) -> Result<Page> {
    let name = page_name(command).to_owned();
    // The program's page has these.
    let is_shared = |argument: &clap::Arg| argument.is_global_set() || argument.get_id() == "help";
    let shared: Vec<_> = command
        .get_arguments()
        .filter(|argument| is_shared(argument))
        .map(|argument| argument.get_id().clone())
        .collect();
    let command = shared
        .into_iter()
        .fold(command.clone(), |command, id| command.mut_arg(id, |argument| argument.hide(true)));
    let man = man(&command, program, closing.section);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    let main = format!("{}({})", program.get_name(), closing.section);
    roff.control("PP", []);
    roff.text([roman(format!("Options of every command, and the exit status: {main}."))]);
    see_also(&mut roff, &[&[&*main][..], closing.see_also].concat());
    roff.to_writer(&mut page)?;
    Ok((format!("{name}.{}", closing.section), page))
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn see_also(roff: &mut Roff, pages: &[&str]) {
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(pages.join(", "))]);
}
