//! The times of files, which the kernel decides while it has their pages.

use super::tests::{ME, Place};
use super::*;

/// The kernel sends a write after it told the file's times, and shows its own.
#[test]
fn the_kernel_s_times_count_once_a_file_is_closed() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap().ino;
    let told = Timestamp { secs: 1_700_000_000, nanos: 5 };
    fs.open(ino, true, false).unwrap();
    let times = SetAttr { mtime: Some(TimeSet::At(told)), ctime: Some(told), ..SetAttr::default() };
    fs.setattr(ino, &times).unwrap();
    fs.write(ino, 0, b"later", false).unwrap();
    assert!(fs.getattr(ino).unwrap().mtime > told, "a crash leaves a later time, never an older");
    fs.release(ino, true);
    assert_eq!(fs.getattr(ino).unwrap().mtime, told);
    fs.open(ino, true, false).unwrap();
    fs.write(ino, 0, b"again", false).unwrap();
    fs.release(ino, true);
    assert!(fs.getattr(ino).unwrap().mtime > told);
    // A change of the mode tells a ctime and no mtime: it took back the mtime that was told.
    fs.open(ino, true, false).unwrap();
    fs.setattr(ino, &times).unwrap();
    fs.write(ino, 0, b"later", false).unwrap();
    let later = Timestamp { secs: told.secs + 1, nanos: 0 };
    let mode = SetAttr { mode: Some(0o600), ctime: Some(later), ..SetAttr::default() };
    fs.setattr(ino, &mode).unwrap();
    fs.release(ino, true);
    let attr = fs.getattr(ino).unwrap();
    assert_eq!((attr.mtime, attr.ctime), (told, later));
}

/// A file that is made and written in one tick of the kernel's clock has the times that the kernel was
/// given: it tells none, and its pages come later.
#[test]
fn pages_that_come_later_change_no_times() {
    let place = Place::new();
    let fs = place.open();
    let made = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap();
    let ino = made.ino;
    let written = |is_paged: &[bool]| {
        fs.open(ino, true, false).unwrap();
        for is_paged in is_paged {
            // Longer than a tick of the system's clock.
            std::thread::sleep(std::time::Duration::from_millis(20));
            fs.before_write(ino, *is_paged);
            fs.write(ino, 0, b"content", false).unwrap();
        }
        let before = fs.getattr(ino).unwrap().mtime;
        fs.release(ino, true);
        let after = fs.getattr(ino).unwrap();
        assert!(before >= after.mtime);
        (after.mtime, after.ctime)
    };
    assert_eq!(written(&[true, true]), (made.mtime, made.ctime));
    // The kernel keeps no time of what passes its cache by.
    let direct = written(&[false]);
    assert!(direct.0 > made.mtime);
    assert_eq!(written(&[true]), direct);
    assert!(written(&[true, false]).0 > direct.0);
}

/// The kernel shows the times from before a truncation that changed no length; a remount showed others.
#[test]
fn a_truncation_to_the_same_length_changes_no_time() {
    let place = Place::new();
    let fs = place.open();
    let ino = fs.mknod(ME, ROOT, b"file", 0o100_644, 0).unwrap().ino;
    fs.write(ino, 0, b"text", false).unwrap();
    let before = fs.getattr(ino).unwrap();
    let truncated = |size| {
        // The clock has a tick of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
        fs.getattr(ino).unwrap()
    };
    assert_eq!(truncated(4), before);
    let shorter = truncated(3);
    assert!(shorter.size == 3 && shorter.mtime > before.mtime);
    // What the kernel tells beside it counts.
    let told = Timestamp { secs: 1_700_000_000, nanos: 5 };
    let mtime = Some(TimeSet::At(told));
    fs.setattr(ino, &SetAttr { size: Some(3), mtime, ..SetAttr::default() }).unwrap();
    assert_eq!(fs.getattr(ino).unwrap().mtime, told);
}
