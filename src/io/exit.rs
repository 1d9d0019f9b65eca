//! Exit codes: what programs promise to scripts.
//!
//! Invariant: the table in `docs/cli.md` has these, in these words.

/// Makes the enum out of the rows of the table.
macro_rules! exits {
    ($($(#[doc = $when:literal])+ $name:ident = $number:literal,)+) => {
        /// How a program ends, as `docs/cli.md` promises it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Exit {
            $($(#[doc = $when])+ $name = $number,)+
        }

        impl Exit {
            /// The one with this number, if there is one.
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }
        }

        impl Exit {
            /// Number, name and meaning of each.
            pub const TABLE: &[(u8, &str, &str)] =
                &[$(($number, stringify!($name), concat!($($when),+))),+];
        }
    };
}

exits! {
    /// done
    Done = 0,
    /// anything else, the file system's own errors among it, and a standard output that was closed
    Other = 1,
    /// the command line, a secrets file or the log file is wrong; neither `HOME` nor
    /// `XDG_STATE_HOME` is set and no `--state` was given
    Usage = 2,
    /// done, but something was left out, and named (`extract`, `put`); all that is here was done or
    /// given, and newer states are known (`ls`, `cat`, `extract`, `put`, `conflicts`, `devices`);
    /// something could not be read, and so not checked (`check`); a dead mount was cleared away, and
    /// what it had may not be in REPO (`umount`)
    Partial = 3,
    /// no repository there, or one of a newer version
    NoRepository = 10,
    /// another amberfs uses the local state; the mountpoint is mounted already; `umount` of a mount
    /// that somebody has, here or elsewhere
    InUse = 11,
    /// wrong password or key, or none given; a malformed key
    WrongSecret = 12,
    /// the vault's record is closed, over, frozen, or not there
    RecordDead = 13,
    /// the vault says to wait: after failures in a row, with `tries_left`, or because it is busy
    /// with something other than an attempt. No try was spent
    TryLater = 14,
    /// the vault cannot be reached
    VaultUnreachable = 15,
    /// it is another vault than the trusted one, or one that answers under a key its manifest does
    /// not name
    NotThePinnedVault = 16,
    /// mountpoint, REPO or local state cannot be used: its place, or that it belongs to another
    /// machine or folder, or to another history of this device; REPO not empty at `init`; not
    /// mounted (`umount`, `sync`, `status`)
    Unusable = 17,
    /// this machine has too little free memory to stretch the password. The memory is claimed
    /// before anything is sent, so no try was spent unless the message says so
    NoMemory = 18,
    /// the vault did not answer an attempt, or not as the protocol says: it may have counted a try
    Unanswered = 19,
    /// something is not here yet
    NotAllHere = 20,
    /// something is damaged
    Damage = 26,
    /// the folder is older than what this device saw
    Rollback = 27,
    /// no space left; also where standard output leads
    NoSpace = 28,
    /// an internal error: please report it
    Internal = 101,
    /// interrupted (a shell's number for SIGINT)
    Interrupted = 130,
    /// whoever read standard output has gone, as in `amberfs ls REPO | head`; nothing is said (a
    /// shell's number for SIGPIPE)
    NoReader = 141,
}

impl Exit {
    /// What a program's caller gets.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_exactly_these() {
        let manual = include_str!("../../docs/cli.md");
        let (_, chapter) = manual.split_once("\n## Exit codes\n").unwrap();
        let chapter = chapter.split("\n## ").next().unwrap();
        let rows: Vec<&str> = chapter.lines().filter(|line| line.starts_with("| ")).collect();
        let promised = Exit::TABLE.iter().map(|(number, name, when)| {
            format!("| {number} | {name} | {} |", when.trim_start().replace('|', "\\|"))
        });
        let promised: Vec<String> = promised.collect();
        assert_eq!(rows[0], "| code | name | when |");
        assert_eq!(rows[1..], promised);
        for (number, ..) in Exit::TABLE {
            assert_eq!(Exit::from_number(*number).map(Exit::number), Some(*number));
        }
    }
}
