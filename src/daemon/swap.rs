//! Whether memory can reach a disk in the clear through swap.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{major, minor};

/// Swap areas that are not known to be encrypted. zram stays in memory;
/// device mapper says by its uuid that it encrypts.
pub(crate) fn unencrypted_swap() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    areas(&table).filter(|area| !is_safe(area, Path::new("/sys"))).collect()
}

fn areas(table: &str) -> impl Iterator<Item = String> {
    table.lines().skip(1).filter_map(|line| {
        line.split_ascii_whitespace().next().map(|name| name.replace("\\040", " "))
    })
}

fn is_safe(area: &str, sys: &Path) -> bool {
    if Path::new(area).file_name().is_some_and(|name| name.to_string_lossy().starts_with("zram")) {
        return true;
    }
    let Ok(metadata) = std::fs::metadata(area) else { return false };
    let device =
        if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    is_encrypted(&sys.join(format!("dev/block/{}:{}", major(device), minor(device))), 0)
}

/// A device encrypts if it says so, or if all below it do (LVM on LUKS).
fn is_encrypted(device: &Path, depth: u32) -> bool {
    // Deeper stacks than this do not exist; loops must not hang us.
    const MAX_DEPTH: u32 = 8;
    let uuid = std::fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if uuid.starts_with("CRYPT-") {
        return true;
    }
    let below: Vec<_> = std::fs::read_dir(device.join("slaves"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    depth < MAX_DEPTH
        && !below.is_empty()
        && below.iter().all(|device| is_encrypted(device, depth + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n\
                     /swap\\040file file 1 0 -2\n";
        assert_eq!(areas(table).collect::<Vec<_>>(), ["/dev/zram0", "/swap file"]);
        assert!(is_safe("/dev/zram0", Path::new("/none")));
        assert!(!is_safe("/dev/not-there", Path::new("/none")));
    }

    #[test]
    fn encryption_below_counts() {
        let sys = tempfile::tempdir().expect("folder");
        let volume = sys.path().join("lv");
        let crypt = volume.join("slaves/crypt/dm");
        std::fs::create_dir_all(&crypt).expect("create");
        std::fs::create_dir_all(volume.join("dm")).expect("create");
        std::fs::write(volume.join("dm/uuid"), "LVM-x\n").expect("write");
        assert!(!is_encrypted(&volume, 0));
        std::fs::write(crypt.join("uuid"), "CRYPT-LUKS2-x\n").expect("write");
        assert!(is_encrypted(&volume, 0));
        std::fs::create_dir_all(volume.join("slaves/plain")).expect("create");
        assert!(!is_encrypted(&volume, 0), "one of two is plain");
    }
}
