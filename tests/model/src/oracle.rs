//! What must be visible in the end: kept apart from the rules, by what users did and what they had seen.

use crate::map::{Ino, Ref};
use crate::ops::Effect;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub type Contents = BTreeSet<Rc<[Ref]>>;

#[derive(Default, Debug)]
pub struct Oracle {
    /// Contents that were acknowledged, and whether one who saw it replaced it.
    pub tokens: BTreeMap<u32, (Rc<[Ref]>, bool)>,
    /// What took a content's place.
    pub next: BTreeMap<u32, Vec<u32>>,
    /// Stamps: each operation on a file renews its claim to live; whoever deletes it ends the claims that it saw.
    pub lives: BTreeMap<u32, (u32, bool)>,
    /// Attributes that a file had when it was stamped.
    pub xattrs: BTreeMap<u32, (Ino, Vec<u8>)>,
}

impl Oracle {
    pub fn apply(&mut self, effect: &Effect) {
        for (token, chunks) in &effect.new_tokens {
            self.tokens.insert(*token, (chunks.clone(), false));
        }
        for (life, token) in &effect.new_lives {
            self.lives.insert(*life, (*token, false));
        }
        for (token, new) in &effect.replaced_tokens {
            self.next.entry(*token).or_default().push(*new);
            if let Some(t) = self.tokens.get_mut(token) {
                t.1 = true;
            }
        }
        for life in &effect.ended_lives {
            if let Some(l) = self.lives.get_mut(life) {
                l.1 = true;
            }
        }
    }

    /// Whether `new` came, over any number of changes, in the place of `old`.
    pub fn came_after(&self, old: u32, new: u32) -> bool {
        let (mut seen, mut queue) = (BTreeSet::new(), vec![old]);
        while let Some(at) = queue.pop() {
            for n in self.next.get(&at).into_iter().flatten() {
                if *n == new {
                    return true;
                }
                if seen.insert(*n) {
                    queue.push(*n);
                }
            }
        }
        false
    }

    /// Contents that are alive and that nobody replaced.
    pub fn due(&self) -> BTreeSet<u32> {
        let lives = self.lives.values().filter(|l| !l.1).map(|l| l.0);
        lives.filter(|t| self.tokens.get(t).is_some_and(|t| !t.1)).collect()
    }

    /// Contents that must be shown, and all that may be.
    pub fn contents(&self) -> (Contents, Contents) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for (token, ended) in self.lives.values() {
            let Some((chunks, replaced)) = self.tokens.get(token) else { continue };
            if !ended {
                may.insert(chunks.clone());
                if !replaced {
                    must.insert(chunks.clone());
                }
            }
        }
        (must, may)
    }
}
