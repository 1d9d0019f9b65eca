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

/// Of each file: as it was written, with the changes in the journal only, in REPO, and
/// on a new mount.
fn blocks(_: &Place) {
    let world = World::with_repo();
    let secret = ["--key-file", "key", "-o", "checkpoint=1h,2h"];
    let mount = world.mount("repo", "mnt", &secret);
    let make = |name: &str| fs::File::create_new(world.path("mnt").join(name)).unwrap();
    let noise = |file: &fs::File, len: u64, at: u64| {
        file.write_all_at(&noise(len as usize, at), at).unwrap();
    };
    let with = |name: &str, change: &dyn Fn(&fs::File)| change(&make(name));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    with("empty", &|_| ());
    with("a byte", &|file| noise(file, 1, 0));
    with("of zeros", &|file| file.write_all_at(&[0; 100], 0).unwrap());
    with("compressed", &|file| file.write_all_at(&vec![7; 1 << 20], 0).unwrap());
    with("of one chunk", &|file| noise(file, 5000, 0));
    with("of many", &|file| noise(file, 3 << 20, 0));
    with("a short hole", &|file| file.set_len(100).unwrap());
    with("a hole", &|file| file.set_len(200 << 20).unwrap());
    with("sparse", &|file| {
        file.set_len(200 << 20).unwrap();
        noise(file, 1, 100_000_000);
    });
    with("scattered", &|file| {
        file.set_len(64 << 20).unwrap();
        (0..50).for_each(|number| noise(file, 10, number * (1 << 20) + 5000));
    });
    with("punched", &|file| {
        noise(file, 1 << 20, 0);
        file.sync_all().unwrap();
        rustix::fs::fallocate(file, punch, 5000, 500_000).unwrap();
    });
    with("cut", &|file| {
        noise(file, 1 << 20, 0);
        file.set_len(10_000).unwrap();
        file.set_len(1 << 30).unwrap();
    });
    with("allocated", &|file| {
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    });
    let expected = [
        ("empty", 0),
        ("a byte", 1),
        ("of zeros", 1),
        ("compressed", 256),
        ("of one chunk", 2),
        ("of many", 768),
        ("a short hole", 0),
        ("a hole", 0),
        ("sparse", 1),
        ("scattered", 50),
        // Of 123 pages: the first and the last have data besides.
        ("punched", 256 - 121),
        ("cut", 3),
        ("allocated", 0),
    ];
    let shown = |when: &str, changed: u64| {
        for (name, pages) in expected {
            let found = fs::metadata(world.path("mnt").join(name)).unwrap().blocks();
            let more = if name == "sparse" { changed } else { 0 };
            assert_eq!(found, 8 * (pages + more), "{when}: {name}");
        }
    };
    shown("written", 0);
    world.ok(&["sync", "mnt"]);
    shown("in REPO", 0);
    copies_keep_holes(&world);
    // What changes in a file with holes, beside its data and over it.
    let sparse = fs::File::options().write(true).open(world.path("mnt/sparse")).unwrap();
    noise(&sparse, 5, 100_000_001);
    sparse.sync_all().unwrap();
    shown("changed", 0);
    noise(&sparse, 8 * PAGE, 50 * PAGE);
    sparse.sync_all().unwrap();
    shown("more", 8);
    rustix::fs::fallocate(&sparse, punch, 51 * PAGE, PAGE).unwrap();
    shown("less", 7);
    drop(sparse);
    mount.unmount(&world);
    let mount = world.mount("repo", "mnt", &secret);
    shown("mounted anew", 7);
    mount.unmount(&world);
}

/// By programs that look at the blocks first; and a file that somebody still writes is
/// not taken for a hole.
fn copies_keep_holes(world: &World) {
    let run = |program: &str, arguments: &[&str]| {
        let status = world.program(program, arguments).status().unwrap();
        assert!(status.success(), "{program}");
    };
    let open = fs::File::create_new(world.path("mnt/open")).unwrap();
    open.set_len(10 << 20).unwrap();
    open.write_all_at(b"here", 5 << 20).unwrap();
    let name = world.path("mnt/open");
    assert_ne!(fs::metadata(name).unwrap().blocks(), 0);
    let mount = ["-C", "mnt", "sparse", "cut", "open"];
    run("tar", &[&["-S", "-cf", "holes.tar"][..], &mount].concat());
    run("mkdir", &["out", "copied"]);
    run("tar", &["-C", "out", "-xf", "holes.tar"]);
    run("cp", &["mnt/sparse", "mnt/cut", "copied"]);
    for (made, most) in [("holes.tar", 1 << 20), ("copied/sparse", 1 << 20)] {
        let room = fs::metadata(world.path(made)).unwrap().blocks() * 512;
        assert!(room < most, "{made}: {room} bytes");
    }
    for name in ["sparse", "cut", "open"] {
        run("cmp", &[&format!("mnt/{name}"), &format!("out/{name}")]);
    }
    for name in ["sparse", "cut"] {
        run("cmp", &[&format!("mnt/{name}"), &format!("copied/{name}")]);
    }
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
    drop(file);
    assert_eq!(place.python("direct.py", &["."]), "");
}

fn mapped(place: &Place) {
    fs::write(place.path("a"), [0; 8192]).unwrap();
    assert_eq!(place.call("mapped", &["a"]), "coherent");
}

fn locks(place: &Place) {
    fs::write(place.path("a"), [0; 100]).unwrap();
    assert_eq!(place.call("locked", &["a"]), "locks");
}
