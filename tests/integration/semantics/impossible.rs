//! "What FUSE makes impossible": each call is made, and its answer is the one
//! of the document.

use std::fs;

use super::Proof::{Answers, Elsewhere, Here, With};
use super::{Place, Row};

const SECTION: &str = "What FUSE makes impossible";

/// A file of a few pages.
static SEVENS: [u8; 40_000] = [7; 40_000];

pub const ROWS: &[Row] = &[
    (
        SECTION,
        "sync(2), syncfs(2) that wait for the disk: the kernel asks only virtiofs",
        Answers(|place| vec![place.call("syncfs", &["."])]),
    ),
    (SECTION, "reflinks: FICLONE, FICLONERANGE, FIDEDUPERANGE", Answers(reflinks)),
    (SECTION, "FIEMAP", Answers(|place| on_a_file(place, "fiemap"))),
    (
        SECTION,
        "fallocate with COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE",
        Answers(kinds_of_fallocate),
    ),
    (
        SECTION,
        "times of access: reads from the kernel's cache are not told",
        With("Point by point", "atime"),
    ),
    (SECTION, "swap files", Answers(swap)),
    (SECTION, "quotas", Answers(|place| on_a_file(place, "quotactl"))),
    (SECTION, "`mount -o remount`: is not told to amberfs", With("Point by point", "remount")),
    (
        SECTION,
        "pathconf(3) of `_PC_LINK_MAX`: glibc guesses by the kind of file system",
        Answers(|place| on_a_file(place, "link_max")),
    ),
    (
        SECTION,
        "suid, device nodes for mounts by others than root",
        Elsewhere(&[
            "tests/integration/units.rs::the_helper_mounts_as_the_owner_of_the_repository",
        ]),
    ),
    (
        SECTION,
        "Possible in FUSE, but not in the library below amberfs (fuser 0.18)",
        Here(what_the_library_has_not),
    ),
];

/// A file of a few pages, which the kernel has sent.
fn file(place: &Place, name: &str) {
    fs::write(place.path(name), SEVENS).unwrap();
}

fn on_a_file(place: &Place, call: &str) -> Vec<String> {
    file(place, "a");
    vec![place.call(call, &["a"])]
}

fn reflinks(place: &Place) -> Vec<String> {
    file(place, "from");
    file(place, "to");
    let auto = place.path("auto").display().to_string();
    let from = place.path("from").display().to_string();
    let copied = std::process::Command::new("cp").args(["--reflink=auto", &from, &auto]).status();
    assert!(copied.unwrap().success());
    assert!(fs::read(auto).unwrap() == SEVENS);
    ["ficlone", "ficlonerange", "fidedupe"]
        .into_iter()
        .map(|call| place.call(call, &["to", "from"]))
        .collect()
}

/// By the numbers of the three, in that order.
fn kinds_of_fallocate(place: &Place) -> Vec<String> {
    file(place, "a");
    let answers = ["0x08", "0x20", "0x40"]
        .into_iter()
        .map(|mode| place.call("fallocate", &["a", mode, "4096", "4096"]))
        .collect();
    assert!(fs::read(place.path("a")).unwrap() == SEVENS);
    answers
}

fn swap(place: &Place) -> Vec<String> {
    if !place.is_root() {
        return Vec::new();
    }
    file(place, "swap");
    let path = place.path("swap");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let made = std::process::Command::new("mkswap").arg(&path).output().unwrap();
    assert!(made.status.success());
    vec![place.call("swapon", &["swap"])]
}

fn what_the_library_has_not(place: &Place) {
    file(place, "a");
    assert_eq!(place.call("tmpfile", &["."]), "EOPNOTSUPP");
    assert_eq!(place.call("birth", &["a"]), "not shown");
    if place.is_root() {
        assert_eq!(place.call("idmapped", &["."]), "EINVAL");
        // Where it is possible, the same call succeeds.
        let elsewhere = place.world.path("idmapped");
        fs::create_dir(&elsewhere).unwrap();
        println!("idmapped beside it: {}", place.call("idmapped", &[elsewhere.to_str().unwrap()]));
    }
}
