//! Bytes of one file in memory, with holes.

use std::collections::BTreeMap;

/// Unit of storage and of holes.
const BLOCK: u64 = 64 << 10;

/// A file's bytes. A block may be shorter than the unit: the rest is zeros.
#[derive(Default)]
pub struct Content {
    blocks: BTreeMap<u64, Vec<u8>>,
    size: u64,
    stored: u64,
}

impl Content {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// In units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        self.stored.div_ceil(512)
    }

    /// Returns how many bytes were read.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let end = self.size.min(offset.saturating_add(out.len() as u64));
        let mut at = offset;
        while at < end {
            let within = (at % BLOCK) as usize;
            let count = (BLOCK - at % BLOCK).min(end - at) as usize;
            let there = self.blocks.get(&(at / BLOCK)).map_or(&[][..], |block| {
                &block[within.min(block.len())..(within + count).min(block.len())]
            });
            let target = &mut out[(at - offset) as usize..][..count];
            let (data, beyond) = target.split_at_mut(there.len());
            data.copy_from_slice(there);
            beyond.fill(0);
            at += count as u64;
        }
        end.saturating_sub(offset) as usize
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let count = (BLOCK as usize - within).min(bytes.len() - done);
            let block = self.blocks.entry(at / BLOCK).or_default();
            let before = block.len();
            if before < within {
                block.resize(within, 0);
            }
            let over = (block.len() - within).min(count);
            block[within..within + over].copy_from_slice(&bytes[done..done + over]);
            block.extend_from_slice(&bytes[done + over..done + count]);
            self.stored += (block.len() - before) as u64;
            done += count;
        }
        self.size = self.size.max(offset + bytes.len() as u64);
    }

    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.punch(size, self.size - size);
        }
        self.size = size;
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let keys: Vec<u64> =
            self.blocks.range(offset / BLOCK..=end / BLOCK).map(|(&key, _)| key).collect();
        for key in keys {
            let start = key * BLOCK;
            let block = self.blocks.get_mut(&key).expect("key was just listed");
            let before = block.len() as u64;
            let from = offset.saturating_sub(start).min(before) as usize;
            let to = (end.saturating_sub(start)).min(before) as usize;
            if from >= to {
                continue;
            }
            if to as u64 == before {
                block.truncate(from);
            } else {
                block[from..to].fill(0);
            }
            self.stored -= before - block.len() as u64;
            if block.is_empty() {
                self.blocks.remove(&key);
            }
        }
    }

    /// The next stored block (or absent one) at or after `offset`.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut at = offset;
        while at < self.size {
            if self.blocks.contains_key(&(at / BLOCK)) == data {
                return Some(at);
            }
            let next = if data {
                self.blocks.range(at / BLOCK..).next().map(|(&key, _)| key * BLOCK)
            } else {
                Some((at / BLOCK + 1) * BLOCK)
            };
            at = next?;
        }
        // The end of the file is a hole.
        (!data).then_some(self.size)
    }
}
