//! The example of `docs/format.md`, "Local state: journal": each value that the page shows is the
//! one that this program has.

use super::record::{CLAIM, FRAME, FileSeal, Frame, OVERHEAD};
use super::*;
use crate::crypto::{Secret, hex};
use crate::format::clock::{Dot, Writer};
use crate::format::record::{Change, decode, encode};
use crate::io::Timestamp;

const PAGE: &str = include_str!("../../docs/format.md");

#[test]
fn the_example_of_the_page_is_what_the_program_makes() {
    let epochs = vec![([0x55; 16], Secret::take(&mut [0x66; 32]))];
    let keys = JournalKeys { repo: [0x11; 16], device: [0x22; 16], epoch: [0x55; 16], epochs };
    let (header, seal) = FileSeal::create(&keys, 1, &[0x99; 32]);
    let time = Timestamp { secs: 1_764_000_000, nanos: 5 };
    let changes = [
        Change::Write { ino: 0x80_0001, offset: 0, bytes: b"HELLO"[..].into(), time },
        Change::Resize { ino: 0x80_0001, size: 5, time },
    ];
    let dot = Dot { writer: Writer::new(1).unwrap(), record: 3 };
    let (record, data) = encode(dot, &changes);
    assert!(data.is_empty());
    assert_eq!(decode(&record), Ok((dot, changes.to_vec())));
    let frame = seal.frame(Frame { sequence: 4, len: record.len() });
    let mut bytes = vec![0; OVERHEAD + record.len()];
    bytes[..FRAME].copy_from_slice(&frame);
    bytes[FRAME + CLAIM..][..record.len()].copy_from_slice(&record);
    let sealed = seal.seal(&mut bytes, 3);
    assert_eq!(seal.unseal(sealed, &bytes), Some((3, record.clone())));
    for shown in [&header[104..128], &record, &frame, &bytes[FRAME..]] {
        let row = format!(" | `{}` |", hex(shown));
        assert!(PAGE.contains(&row), "docs/format.md does not show {row}");
    }
}
