//! The command line of amberfs.

fn main() -> std::process::ExitCode {
    amberfs::cli::main()
}
