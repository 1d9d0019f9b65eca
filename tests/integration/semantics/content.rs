//! "Point by point": content of files.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};

use rustix::fs::{FallocateFlags, SeekFrom};

use super::Proof::Here;
use super::{Place, Row};
use crate::world::{World, noise};

const SECTION: &str = "Point by point";
const PAGE: u64 = 4096;

/// A file of a few pages.
static SEVENS: [u8; 40_000] = [7; 40_000];

pub const ROWS: &[Row] = &[
    (SECTION, "size of a file", Here(size)),
    (SECTION, "sparse files", Here(sparse)),
    (SECTION, "`st_blocks`", Here(blocks)),
    (SECTION, "`st_size` of a directory", Here(size_of_a_directory)),
    (SECTION, "fallocate", Here(fallocate)),
    (SECTION, "copy_file_range", Here(copy_file_range)),
    (SECTION, "reflink (FICLONE, FIDEDUPERANGE)", Here(reflink)),
    (SECTION, "O_DIRECT", Here(direct)),
    (SECTION, "mmap", Here(mapped)),
    (SECTION, "locks", Here(locks)),
];

/// On a mount of its own, and read back from REPO.
fn size(_: &Place) {
    const END: u64 = i64::MAX as u64;
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let file = fs::File::create_new(world.path("mnt/a")).unwrap();
    file.set_len(END).unwrap();
    file.write_all_at(b"end", END - 3).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let file = fs::File::open(world.path("mnt/a")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), END);
    let mut read = [1; 4];
    file.read_exact_at(&mut read, END - 4).unwrap();
    assert_eq!(&read, b"\0end");
    drop(file);
    mount.unmount(&world);
}

/// Where data begins and ends, from the start of the file on.
fn extents(file: &fs::File) -> Vec<(u64, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap();
        found.push((data, at));
    }
    found
}

/// Also once it is stored and mounted anew.
fn sparse(_: &Place) {
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let file = fs::File::create_new(world.path("mnt/a")).unwrap();
    file.set_len(1 << 40).unwrap();
    let places = [5 * PAGE, 1000 * PAGE, (1 << 30) + PAGE];
    for at in places {
        file.write_all_at(&noise(PAGE as usize, at), at).unwrap();
    }
    let expected = places.map(|at| (at, at + PAGE));
    let read = || fs::File::open(world.path("mnt/a")).unwrap();
    assert_eq!(extents(&read()), expected);
    drop(file);
    mount.unmount(&world);
    let bytes: u64 = world.files("repo").iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 1 << 20, "holes cost {bytes} bytes");
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    assert_eq!(extents(&read()), expected);
    let mut found = vec![1; PAGE as usize];
    read().read_exact_at(&mut found, 6 * PAGE).unwrap();
    assert!(found.iter().all(|&byte| byte == 0));
    mount.unmount(&world);
}

fn blocks(place: &Place) {
    let file = place.file("a");
    for (len, blocks) in [(0, 0), (1, 1), (512, 1), (513, 2), (1 << 30, 2 << 20)] {
        file.set_len(len).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), blocks, "{len}");
    }
    // Nor do they shrink by compression.
    fs::write(place.path("b"), vec![7; 1 << 20]).unwrap();
    assert_eq!(fs::metadata(place.path("b")).unwrap().blocks(), 2048);
}

fn size_of_a_directory(place: &Place) {
    let size = || fs::metadata(&place.dir).unwrap().len();
    assert_eq!(size(), 4096);
    for number in 0..300 {
        fs::write(place.path(&format!("{number:0100}")), "").unwrap();
    }
    assert_eq!(size(), 4096);
}

fn fallocate(place: &Place) {
    let file = place.file("a");
    file.write_all_at(&SEVENS, 0).unwrap();
    let with = |flags, at, len| rustix::fs::fallocate(&file, flags, at, len);
    let len = || file.metadata().unwrap().len();
    let zeros = |at: u64, len: usize| {
        let mut bytes = vec![1; len];
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes.iter().all(|&byte| byte == 0)
    };
    let keep = FallocateFlags::KEEP_SIZE;
    with(keep, 0, 100_000).unwrap();
    assert_eq!(len(), 40_000);
    with(FallocateFlags::empty(), 0, 50_000).unwrap();
    assert_eq!(len(), 50_000);
    assert!(zeros(40_000, 10_000));
    with(FallocateFlags::PUNCH_HOLE | keep, 4096, 8192).unwrap();
    assert!(zeros(4096, 8192));
    assert_eq!(extents(&file)[0], (0, 4096));
    with(FallocateFlags::ZERO_RANGE, 45_000, 10_000).unwrap();
    assert_eq!(len(), 55_000);
    with(FallocateFlags::ZERO_RANGE | keep, 20_000, 50_000).unwrap();
    assert_eq!(len(), 55_000);
    assert!(zeros(20_000, 35_000));
    let mut rest = vec![0; 7712];
    file.read_exact_at(&mut rest, 12_288).unwrap();
    assert!(rest.iter().all(|&byte| byte == 7));
    for mode in ["0x02", "0x08", "0x20", "0x40"] {
        assert_eq!(place.call("fallocate", &["a", mode, "4096", "4096"]), "EOPNOTSUPP", "{mode}");
    }
}

/// What REPO grows by is the proof that equal chunks are stored once.
fn copy_file_range(_: &Place) {
    let world = World::with_repo();
    let mount = world.mount("repo", "mnt", &["--key-file", "key"]);
    let stored = || -> u64 {
        world.ok(&["sync", "mnt"]);
        world.files("repo").iter().map(|file| fs::metadata(file).unwrap().len()).sum()
    };
    let bytes = noise(8 << 20, 1);
    fs::write(world.path("mnt/from"), &bytes).unwrap();
    let before = stored();
    assert!(before > 8 << 20);
    let from = fs::File::open(world.path("mnt/from")).unwrap();
    let to = fs::File::create(world.path("mnt/to")).unwrap();
    let (mut at, mut at_to) = (0, 0);
    while at < bytes.len() as u64 {
        let copied =
            rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut at_to), 8 << 20);
        assert_ne!(copied.unwrap(), 0);
    }
    drop(to);
    assert!(fs::read(world.path("mnt/to")).unwrap() == bytes);
    let grown = stored() - before;
    assert!(grown < 1 << 20, "{grown} bytes more");
    drop(from);
    mount.unmount(&world);
}

fn reflink(place: &Place) {
    for name in ["from", "to"] {
        fs::write(place.path(name), SEVENS).unwrap();
    }
    for call in ["ficlone", "fidedupe"] {
        assert_eq!(place.call(call, &["to", "from"]), "EOPNOTSUPP");
    }
}

/// Neither offset, nor length, nor buffer is a multiple of anything.
fn direct(place: &Place) {
    let mut options = fs::File::options();
    options.read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let file = options.open(place.path("a")).unwrap();
    let bytes = noise(70_001, 1);
    file.write_all_at(&bytes[1..], 3).unwrap();
    let mut found = vec![0; 70_000];
    file.read_exact_at(&mut found, 3).unwrap();
    assert!(found == bytes[1..]);
    // Others see it at once.
    assert!(fs::read(place.path("a")).unwrap()[3..] == bytes[1..]);
}

fn mapped(place: &Place) {
    fs::write(place.path("a"), [0; 8192]).unwrap();
    assert_eq!(place.call("mapped", &["a"]), "coherent");
}

fn locks(place: &Place) {
    fs::write(place.path("a"), [0; 100]).unwrap();
    assert_eq!(place.call("locked", &["a"]), "locks");
}
