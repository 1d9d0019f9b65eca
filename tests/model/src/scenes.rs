//! Short stories, each with what must be shown in the end: for rules whose breach the random histories do not judge,
//! because nothing is lost by it, or that they meet too seldom. Without its rule a scene must end otherwise.

use crate::map::*;
use crate::ops::{Maker, Op, Place};
use crate::repair::{Plain, view};
use crate::rules::{Off, Rule};
use std::rc::Rc;

#[derive(Default)]
struct Device {
    state: State,
    count: u32,
}

struct Stage {
    off: Off,
    all: Vec<Device>,
    next_id: u32,
    now: i64,
    inos: u64,
}

impl Stage {
    fn plain(&self, d: usize) -> Plain {
        Plain::read(&view(&self.all[d].state, self.off), self.off)
    }

    fn place(&self, d: usize, path: &str) -> Place {
        let plain = self.plain(d);
        let (up, name) = path.rsplit_once('/').unwrap_or(("", path));
        let step = |at: Ino, n: &str| plain.entries[&(at, Rc::from(n))];
        (up.split('/').filter(|n| !n.is_empty()).fold(ROOT, step), Rc::from(name))
    }

    fn op(&mut self, d: usize, op: &Op) {
        self.all[d].count += 1;
        self.now += 1;
        let writer = (d as Writer + 1) << 12;
        let inos = &mut self.inos;
        let mut new_ino = || {
            *inos += 1;
            u64::from(writer) << 20 | *inos
        };
        let mut maker = Maker {
            state: self.all[d].state.clone(),
            dot: Dot { writer, count: self.all[d].count },
            edits: Vec::new(),
            effect: Default::default(),
            off: self.off,
            now: self.now,
            next_id: &mut self.next_id,
            new_ino: &mut new_ino,
        };
        assert!(maker.run(op), "{op:?}");
        self.all[d].state = maker.state;
    }

    fn create(&mut self, d: usize, path: &str, chunk: Ref) {
        let (dir, name) = self.place(d, path);
        self.op(d, &Op::Create { dir, name, chunks: vec![chunk] });
    }

    fn mkdir(&mut self, d: usize, path: &str) {
        let (dir, name) = self.place(d, path);
        self.op(d, &Op::Mkdir { dir, name });
    }

    fn write(&mut self, d: usize, path: &str, chunk: Ref) {
        let at = self.place(d, path);
        self.op(d, &Op::Write { at, chunks: vec![chunk] });
    }

    fn chmod(&mut self, d: usize, path: &str, mode: u32) {
        let at = self.place(d, path);
        self.op(d, &Op::Chmod { at, mode });
    }

    fn unlink(&mut self, d: usize, path: &str) {
        let at = self.place(d, path);
        self.op(d, &Op::Unlink { at });
    }

    fn rmdir(&mut self, d: usize, path: &str) {
        let at = self.place(d, path);
        self.op(d, &Op::Rmdir { at });
    }

    fn rename(&mut self, d: usize, from: &str, to: &str) {
        let (from, (dir, name)) = (self.place(d, from), self.place(d, to));
        self.op(d, &Op::Rename { from, dir, name });
    }

    fn link(&mut self, d: usize, from: &str, to: &str) {
        let (at, (dir, name)) = (self.place(d, from), self.place(d, to));
        self.op(d, &Op::Link { at, dir, name });
    }

    fn hear(&mut self, d: usize, other: usize) {
        self.all[d].state = join(&self.all[d].state, &self.all[other].state);
    }

    /// Everybody hears everybody; all paths, files with their content.
    fn end(&mut self) -> Vec<String> {
        for d in 1..self.all.len() {
            self.hear(0, d);
        }
        let plain = self.plain(0);
        let path = |at: &Place| {
            let (mut out, mut dir) = (at.1.to_string(), at.0);
            while dir != ROOT {
                let (up, name) = &plain.backs[&dir][0];
                out = format!("{name}/{out}");
                dir = *up;
            }
            out
        };
        let line = |(at, ino): (&Place, &Ino)| {
            let rec = &plain.recs[ino];
            if rec.dir {
                format!("{}/", path(at))
            } else {
                format!("{}={:?}", path(at), rec.chunks)
            }
        };
        let mut out: Vec<String> = plain.entries.iter().map(line).collect();
        out.sort();
        out
    }
}

type Scene = (Rule, fn(&mut Stage), &'static [&'static str]);

const SCENES: &[Scene] = &[
    // A saves by rename; an indexer on B touches the old file.
    (
        Rule::rename_version,
        |s| {
            s.create(0, "f", 1);
            s.hear(1, 0);
            s.create(0, "t", 2);
            s.rename(0, "t", "f");
            s.chmod(1, "f", 4);
        },
        &["f=[2]"],
    ),
    // A makes a file deep in a tree that B removes.
    (
        Rule::stamp_up,
        |s| {
            s.mkdir(0, "P");
            s.mkdir(0, "P/D");
            s.hear(1, 0);
            s.create(0, "P/D/new", 1);
            s.rmdir(1, "P/D");
            s.rmdir(1, "P");
        },
        &["P/", "P/D/", "P/D/new=[1]"],
    ),
    // A removes a file in a directory that B removes whole.
    (
        Rule::empty_nameless,
        |s| {
            s.mkdir(0, "D");
            s.create(0, "D/x", 1);
            s.hear(1, 0);
            s.unlink(0, "D/x");
            s.unlink(1, "D/x");
            s.rmdir(1, "D");
        },
        &[],
    ),
    // A renames a file that B edits.
    (
        Rule::nameless_only,
        |s| {
            s.create(0, "f", 1);
            s.hear(1, 0);
            s.rename(0, "f", "g");
            s.write(1, "f", 2);
        },
        &["g=[2]"],
    ),
    // A and B make the same file. B sees both as one, and goes on with another name of its own. C, who knows A's
    // only, deletes that.
    (
        Rule::stamp_heir,
        |s| {
            s.create(0, "f", 1);
            s.hear(2, 0);
            s.create(1, "f", 1);
            s.link(1, "f", "g");
            s.hear(1, 0);
            s.write(1, "g", 2);
            s.unlink(2, "f");
        },
        &["f=[1]", "g=[2]"],
    ),
    // B makes a log beside the database that A changes.
    (
        Rule::pairs,
        |s| {
            s.create(0, "db", 1);
            s.hear(1, 0);
            s.create(1, "db-wal", 2);
            s.write(0, "db", 3);
        },
        &["db (from 8192 c328)-wal=[2]", "db (from 8192 c328)=[1]", "db=[3]"],
    ),
];

fn play(scene: &Scene, off: Off) -> Vec<String> {
    let all = (0..3).map(|_| Device::default()).collect();
    let mut stage = Stage { off, all, next_id: 0, now: 100, inos: 0 };
    scene.1(&mut stage);
    stage.end()
}

/// What is wrong: a scene that ends otherwise than it should, or that ends as it should without its rule.
pub fn faults() -> Vec<String> {
    let mut out = Vec::new();
    for scene in SCENES {
        let got = play(scene, Off::default());
        if got != scene.2 {
            out.push(format!("{:?}: {got:?} instead of {:?}", scene.0, scene.2));
        }
        if play(scene, Off::default().without(scene.0)) == scene.2 {
            out.push(format!("{:?}: the same without the rule", scene.0));
        }
    }
    out
}

/// Whether a rule has a scene.
pub fn has(rule: Rule) -> bool {
    SCENES.iter().any(|s| s.0 == rule)
}
