//! How a mount is set up.

/// Who may use the mount besides whoever mounted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody, not even root.
    #[default]
    Owner,
    /// The user who mounts, and root (`allow_root`).
    OwnerAndRoot,
    /// Everybody, as permissions say (`allow_other`).
    Everybody,
}

/// Options of a mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What mount(8) shows as the source; commas are replaced.
    pub source: String,
    /// Refuse every change (`ro`).
    pub read_only: bool,
    /// Who may use it.
    pub access: Access,
    /// Event loops; by default one a core.
    pub event_loops: usize,
    /// Ignore device nodes (always for others than root).
    pub no_devices: bool,
    /// Ignore suid and sgid (always for others than root).
    pub no_suid: bool,
    /// Run no programs from it (`noexec`).
    pub no_exec: bool,
    /// Cache writes in the kernel; off only to find bugs.
    pub writeback: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "amberfs".into(),
            read_only: false,
            access: Access::Owner,
            // One may wait for REPO while it cuts chunks; the mount goes on.
            event_loops: std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            no_devices: false,
            no_suid: false,
            no_exec: false,
            writeback: true,
        }
    }
}

impl MountOptions {
    /// The source as it can be shown: a comma or backslash would end or
    /// escape an option on its way through fusermount3.
    pub(super) fn shown_source(&self) -> String {
        let clean = |c: char| if c == ',' || c == '\\' || c.is_control() { '_' } else { c };
        self.source.chars().map(clean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_source_is_no_option() {
        let options =
            MountOptions { source: "/home/a,allow_other/r\\x".into(), ..MountOptions::default() };
        assert_eq!(options.shown_source(), "/home/a_allow_other/r_x");
    }
}
