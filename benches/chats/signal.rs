//! A Signal folder of the second kind: media named by digest in 256 folders that snapshots share,
//! and the two newest snapshots, of which nothing repeats from day to day.

use std::fs;
use std::io;

use super::date::{BACKUP_HOUR, Date, clock, unix};
use super::draw::{Draw, hex};
use super::profile::Profile;
use super::tree::Tree;

const ROOT: &str = "SignalBackups";

/// Bytes of the message archive for each of its media.
const MAIN_PER_MEDIUM: u64 = 6_000;

/// Brings the folder to `day`: new media, a new snapshot, and the oldest of three removed.
pub fn archive(tree: &mut Tree<'_>, profile: &Profile, seed: u64, day: i64) -> io::Result<()> {
    if profile.media.signal == 0 {
        return Ok(());
    }
    if day == 0 {
        for folder in 0..=255 {
            tree.folder(&format!("{ROOT}/files/{folder:02x}"))?;
        }
    }
    let total = profile.media.signal + day as u64 * profile.daily.media.signal;
    let known = if day == 0 { 0 } else { total - profile.daily.media.signal };
    for number in known..total {
        medium(tree, profile, seed, number, day)?;
    }
    snapshot(tree, profile, seed, day, total)?;
    match fs::remove_dir_all(tree.path(&snapshot_path(day - 2))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn digest(seed: u64, number: u64) -> Vec<u8> {
    Draw::new(seed, "signal digest", &[number as i64]).bytes(32)
}

fn medium(
    tree: &mut Tree<'_>,
    profile: &Profile,
    seed: u64,
    number: u64,
    day: i64,
) -> io::Result<()> {
    let name = hex(&digest(seed, number));
    let mut draw = Draw::new(seed, "signal medium", &[number as i64]);
    let size = padded(draw.lognormal(110_000, 0.9).min(8_000_000) / profile.shrink);
    let path = format!("{ROOT}/files/{}/{name}", &name[..2]);
    tree.file(&path, unix(day, BACKUP_HOUR), |out| draw.payload(size, out))?;
    Ok(())
}

/// Signal pads media to the next power of 1.05.
fn padded(size: u64) -> u64 {
    let exponent = ((size.max(541) as f64).ln() / 1.05_f64.ln()).ceil();
    1.05_f64.powf(exponent) as u64
}

fn snapshot_path(day: i64) -> String {
    let time = clock(unix(day, BACKUP_HOUR), '-');
    format!("{ROOT}/signal-backup-{}-{time}", Date::of(day).dashed())
}

/// Written under another name first, then renamed, as Signal does it.
fn snapshot(
    tree: &mut Tree<'_>,
    profile: &Profile,
    seed: u64,
    day: i64,
    media: u64,
) -> io::Result<()> {
    let path = snapshot_path(day);
    let unfinished = format!("{path}-tmp");
    let at = unix(day, BACKUP_HOUR);
    let mut draw = Draw::new(seed, "signal snapshot", &[day]);
    tree.file(&format!("{unfinished}/metadata"), at, |out| draw.payload(57, out))?;
    let main = media * MAIN_PER_MEDIUM / profile.shrink;
    tree.file(&format!("{unfinished}/main"), at, |out| draw.payload(main, out))?;
    tree.file(&format!("{unfinished}/files"), at, |out| {
        for number in 0..media {
            // A frame: its length, then field 1 of 32 bytes.
            out.write_all(&[34, 0x0a, 32])?;
            out.write_all(&digest(seed, number))?;
        }
        Ok(())
    })?;
    fs::rename(tree.path(&unfinished), tree.path(&path))
}
