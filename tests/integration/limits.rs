//! Limits that whoever starts the program has set: the size of a file, and how many
//! are open.

use std::fs;
use std::process::Output;

use crate::mounted::has_fuse;
use crate::world::{World, noise};

/// Runs in bash, where the unit of `ulimit -f` is 1024 bytes; `amberfs` is the program.
fn shell(world: &World, script: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_amberfs");
    let script = format!("program={program}; amberfs() {{ $program \"$@\"; }}\n{script}");
    world.program("bash", &["-c", &script]).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// SIGXFSZ ended the command without a word.
#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_death() {
    let world = World::with_repo();
    fs::write(world.path("large"), noise(4 << 20, 1)).unwrap();
    let put = |path: &str, blocks: u32| {
        let script =
            format!("ulimit -f {blocks}; amberfs put repo {path} --from large --key-file key");
        shell(&world, &script)
    };
    let output = put("/a", 200);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{}: {text}", output.status);
    assert!(
        text.contains("/obj/") && text.contains(".amb: File too large (os error 27)"),
        "{text}"
    );
    // Nothing of it stays in the way.
    assert!(put("/a", 100_000).status.success());
    assert!(world.run(&["cat", "repo", "/a", "--key-file", "key"]).stdout == noise(4 << 20, 1));
    // Where it is written to a file that may not grow.
    let output = shell(&world, "ulimit -f 100; amberfs extract repo out --key-file key");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{}: {text}", output.status);
    assert!(text.contains("out/a: File too large"), "{text}");
}

/// The daemon died of it, `mount` named a log, and that was empty.
#[test]
fn a_mount_says_what_may_not_grow() {
    if !has_fuse("limit of file sizes") {
        return;
    }
    let world = World::with_repo();
    fs::create_dir(world.path("mnt")).unwrap();
    // A journal that is new is small.
    let script = r#"
        (ulimit -f 200; exec "$program" mount -f repo mnt --key-file key --log-file log) &
        n=0; until mountpoint -q mnt || [ $((n+=1)) -gt 600 ]; do sleep 0.1; done
        head -c 4000000 /dev/urandom >mnt/large
        sync mnt/large
        amberfs status mnt
        amberfs sync mnt
        echo $?
        kill -9 $!
        wait
        umount -l mnt || fusermount3 -u -z mnt
        ulimit -f 200
        amberfs mount repo mnt --key-file key --log-file log
        echo $?
    "#;
    let output = shell(&world, script);
    let (shown, told) = (String::from_utf8_lossy(&output.stdout), said(&output));
    let why = "the journal stopped: journal/";
    assert!(shown.contains(&format!("local state failed ({why}")), "{shown}{told}");
    assert!(shown.contains("File too large (os error 27)"), "{shown}{told}");
    // What was there before needs more than it may have.
    assert!(shown.ends_with("\n1\n1\n"), "{shown}{told}");
    assert_eq!(told.matches(&format!("local state: {why}")).count(), 1, "{told}");
    // A log that may not grow is no reason to end.
    fs::write(world.path("log"), noise(200 << 10, 2)).unwrap();
    let script = "(ulimit -f 200; exec 2>/dev/null; amberfs mount repo mnt -vv -o ro \
                  --key-file key --log-file log) && ls mnt && amberfs umount mnt";
    let output = shell(&world, script);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::metadata(world.path("log")).unwrap().len(), 200 << 10);
}

/// The limit that shells give was all that the caches of a mount could have. What the
/// program starts itself waits for it with select(2), perhaps, and gets what it had.
#[test]
fn the_program_may_open_all_it_can_and_its_children_what_they_could() {
    let world = World::with_repo();
    let key = "ulimit -Sn >&2; sed -n \"s/^Max open files *//p\" /proc/$PPID/limits >&2; \
               bash -c \"ulimit -f 1; head -c 4096 /dev/zero >big\" 2>/dev/null; echo $? >&2; cat key";
    let script = format!("ulimit -Sn 100; ulimit -Hn 345; amberfs ls repo --key-command '{key}'");
    let output = shell(&world, &script);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [child, own, signal] = lines[..] else { panic!("{text}") };
    assert_eq!(child, "100", "{text}");
    assert_eq!(own.split_whitespace().collect::<Vec<_>>()[..2], ["345", "345"], "{text}");
    // SIGXFSZ ends what is started, as ever: 128 and its number.
    assert_eq!(signal, "153", "{text}");
}
