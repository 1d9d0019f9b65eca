//! Names of the files that belong to an `SQLite` database (`docs/merging.md`, section 6).

/// What `SQLite` adds to the name of a database for the files beside it ("Temporary Files Used
/// By `SQLite`" in its documentation).
pub const SIDE_SUFFIXES: [&[u8]; 3] = [b"-journal", b"-shm", b"-wal"];

/// What a name ends with, if it is that of a side file.
pub fn without_suffix(name: &[u8]) -> Option<&[u8]> {
    SIDE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(*suffix))
}

/// The name of the database to which a file of this name would be a side file.
pub fn main_name(name: &[u8]) -> Option<&[u8]> {
    without_suffix(name).filter(|main| !main.is_empty() && without_suffix(main).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_file_has_the_name_of_its_database_and_a_suffix() {
        assert_eq!(main_name(b"chat.db-wal"), Some(&b"chat.db"[..]));
        assert_eq!(main_name(b"chat.db-journal"), Some(&b"chat.db"[..]));
        for name in [&b"chat.db"[..], b"-wal", b"chat.db-wal-shm", b"chat.db-wall"] {
            assert_eq!(main_name(name), None);
        }
    }
}
