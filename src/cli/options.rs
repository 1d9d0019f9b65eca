//! The `-o` options of `mount`.

use std::time::Duration;

use super::when::{self, Moment};
use super::{Exit, Failure, Result};
use crate::fs::When;
use crate::fuse::{Access, MountOptions};

/// What the option `-o` of `amberfs mount` sets.
#[derive(Clone, Debug)]
pub struct MountSettings {
    /// The options that go to the kernel.
    pub mount: MountOptions,
    /// When checkpoints are made.
    pub when: When,
    /// Show everything as this user.
    pub uid: Option<u32>,
    /// Show everything as this group.
    pub gid: Option<u32>,
    /// Cache of unpacked frames, bytes.
    pub cache: usize,
    /// Only this device's newest head.
    pub device: Option<String>,
    /// As it was at this time; read-only.
    pub snapshot: Option<Moment>,
    /// Mount over a folder that is not empty.
    pub nonempty: bool,
    /// Show what other devices write while it is mounted.
    pub follow: bool,
    /// Give back by itself what nobody needs.
    pub sweep: bool,
    /// Go on with local state of another place (`--adopt`).
    pub adopt: bool,
    /// What this device calls itself from now on (`--device-name`).
    pub device_name: Option<String>,
}

fn bad(option: &str) -> Failure {
    Failure::new(Exit::Usage, format!("mount option {option} is not understood"))
        .hint("amberfs mount --help lists them")
}

/// A time such as `30s`, `10m` or `2h`, as an argument.
pub fn time(text: &str) -> std::result::Result<Duration, String> {
    duration(text).ok_or_else(|| "a time is a number and s, m or h".into())
}

/// A time such as `30s`, `10m` or `2h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_secs)
}

/// A size such as `64M` or `2G`, in bytes.
fn size(text: &str) -> Option<usize> {
    let (number, factor) = match text.char_indices().last()? {
        (at, 'K' | 'k') => (&text[..at], 1 << 10),
        (at, 'M' | 'm') => (&text[..at], 1 << 20),
        (at, 'G' | 'g') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

impl MountSettings {
    /// Parses lists of options between commas, each as `-o` gives it.
    pub fn parse(lists: &[String]) -> Result<Self> {
        let mut settings = Self {
            mount: MountOptions { no_devices: true, no_suid: true, ..MountOptions::default() },
            when: When::default(),
            uid: None,
            gid: None,
            cache: 64 << 20,
            device: None,
            snapshot: None,
            nonempty: false,
            follow: true,
            sweep: false,
            adopt: false,
            device_name: None,
        };
        let mut before = "";
        for option in lists.iter().flat_map(|list| list.split(',')).filter(|o| !o.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let mount = &mut settings.mount;
            match (name, value) {
                ("ro", None) => mount.read_only = true,
                ("rw" | "noatime" | "relatime" | "async" | "defaults", None) => {}
                ("allow_other", None) => mount.access = Access::Everybody,
                ("allow_root", None) => mount.access = Access::OwnerAndRoot,
                ("nonempty", None) => settings.nonempty = true,
                ("follow" | "nofollow", None) => settings.follow = name == "follow",
                ("sweep" | "nosweep", None) => settings.sweep = name == "sweep",
                ("nodev" | "dev", None) => mount.no_devices = name == "nodev",
                ("nosuid" | "suid", None) => mount.no_suid = name == "nosuid",
                ("noexec" | "exec", None) => mount.no_exec = name == "noexec",
                ("uid", Some(value)) => {
                    settings.uid = Some(value.parse().map_err(|_| bad(option))?);
                }
                ("gid", Some(value)) => {
                    settings.gid = Some(value.parse().map_err(|_| bad(option))?);
                }
                ("cache", Some(value)) => {
                    settings.cache = size(value).ok_or_else(|| bad(option))?;
                }
                ("device", Some(value)) if !value.is_empty() => {
                    settings.device = Some(value.to_string());
                }
                ("snapshot", Some(value)) => {
                    let at = when::parse(value).map_err(|why| bad(option).hint(why))?;
                    settings.snapshot = Some(at);
                }
                ("checkpoint", Some(value)) => {
                    settings.when.quiet = duration(value).ok_or_else(|| bad(option))?;
                    settings.when.backs_off = false;
                }
                // The second half of checkpoint=30s,10m.
                (other, None) if before == "checkpoint" => {
                    settings.when.latest = duration(other).ok_or_else(|| bad(option))?;
                }
                _ => return Err(bad(option)),
            }
            before = name;
        }
        if settings.snapshot.is_some() {
            if settings.device.is_some() {
                return Err(Failure::new(Exit::Usage, "device= and snapshot= exclude each other"));
            }
            settings.mount.read_only = true;
            settings.follow = false;
        }
        if settings.device.is_some() && !settings.mount.read_only {
            return Err(Failure::new(
                Exit::Usage,
                "device= shows one device's files and is read-only: add ro",
            ));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of somebody else's making, mounted by root, could hold
    /// devices and programs that make root of anybody.
    #[test]
    fn devices_and_suid_are_for_whoever_asks() {
        let parse = |text: &str| MountSettings::parse(&[text.to_string()]).unwrap().mount;
        assert!(parse("").no_devices && parse("defaults").no_suid);
        let mount = parse("dev,suid,noexec");
        assert!(!mount.no_devices && !mount.no_suid && mount.no_exec);
        let mount = parse("suid,nosuid,dev,nodev,noexec,exec");
        assert!(mount.no_devices && mount.no_suid && !mount.no_exec, "the last one counts");
    }

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let parse = |text: &str| MountSettings::parse(&[text.to_string()]);
        let settings = parse("allow_other,checkpoint=5s,2m,cache=128M,uid=7").unwrap();
        assert_eq!(settings.when.quiet, Duration::from_secs(5));
        assert_eq!(settings.when.latest, Duration::from_secs(120));
        assert_eq!((settings.cache, settings.uid), (128 << 20, Some(7)));
        assert!(settings.follow && !parse("nofollow").unwrap().follow);
        assert!(!settings.sweep && parse("sweep").unwrap().sweep);
        assert!(!parse("sweep,nosweep").unwrap().sweep, "the last one counts");
        assert!(parse("nofollow,follow").unwrap().follow, "the last one counts");
        // mount(8) adds rw where nobody asked for ro.
        let past = parse("rw,follow,snapshot=2026-11-28 14:00").unwrap();
        assert!(past.snapshot.is_some() && past.mount.read_only && !past.follow);
        for wrong in [
            "surprise",
            "uid=x",
            "cache=1T",
            "checkpoint=5",
            "device=a",
            "ro,device=",
            "10m",
            "snapshot=",
            "ro,device=a,snapshot=yesterday",
        ] {
            assert_eq!(parse(wrong).unwrap_err().code, Exit::Usage, "{wrong}");
        }
    }
}
