//! The command line of amberfs.

#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_methods,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::dbg_macro
    )
)]

fn main() -> std::process::ExitCode {
    amberfs::cli::main()
}
