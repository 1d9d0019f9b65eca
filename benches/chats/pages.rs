//! How much of a database is new, as a store that keeps pages of 4 KiB once would see it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Bytes of a database page.
pub const PAGE: usize = 4096;

/// The number of pages of `new` that `old` holds nowhere.
pub fn changed_pages(old: &Path, new: &Path) -> io::Result<u64> {
    let mut known = HashSet::new();
    each_page(old, |page| {
        known.insert(page);
    })?;
    let mut changed = 0;
    each_page(new, |page| changed += u64::from(known.insert(page)))?;
    Ok(changed)
}

fn each_page(path: &Path, mut see: impl FnMut([u8; 16])) -> io::Result<()> {
    let mut file = BufReader::with_capacity(64 * PAGE, File::open(path)?);
    let mut page = [0; PAGE];
    loop {
        match file.read_exact(&mut page) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        let hash = blake3::hash(&page);
        see(hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes"));
    }
}
