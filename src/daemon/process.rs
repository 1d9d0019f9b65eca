//! What this process keeps to itself: secrets, which must not reach a disk, and what
//! whoever started it left open.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::OnceLock;

use rustix::io::FdFlags;
use rustix::mm::mlock;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use zeroize::Zeroize as _;

/// Turns core dumps off, closes the process to debuggers of the same user, and
/// makes panics log their place and nothing else: a message could hold names
/// or content. To be called before any secret is there.
pub(crate) fn harden() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        log::error!("internal error at {place}");
    }));
    Ok(())
}

/// Descriptors that this process was started with, beside the three standard ones.
static INHERITED: OnceLock<Vec<RawFd>> = OnceLock::new();

/// Notes which descriptors this process was started with, and keeps them from every
/// program that it starts: `fusermount3`, the guard and commands for secrets get the
/// three standard ones and what is made for them. To be called before anything is opened.
pub(crate) fn note_inherited() {
    let entries = std::fs::read_dir("/proc/self/fd");
    let numbers: Vec<RawFd> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > libc::STDERR_FILENO)
        .collect();
    let kept_apart = |number: &RawFd| {
        #[expect(unsafe_code, reason = "a number has no owner to borrow from; see SAFETY")]
        // SAFETY: nothing in this process closes descriptors that it did not open. The
        // one that listed the folder is closed, and the call says so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC).is_ok()
    };
    let _ = INHERITED.set(numbers.into_iter().filter(kept_apart).collect());
}

/// Closes the noted descriptors: a daemon would keep the caller's pipes open, and its
/// locks held. To be called once, by the forked child.
pub(super) fn close_inherited() {
    for &number in INHERITED.get().into_iter().flatten() {
        #[expect(unsafe_code, reason = "a number has no owner that could be dropped; see SAFETY")]
        // SAFETY: it was open when this process started, and nothing in it owns it.
        unsafe {
            rustix::io::close(number);
        }
    }
}

/// Keeps the pages of `bytes` out of swap until the process ends (they are
/// not unlocked: other secrets may share them). Fails where the limit of
/// locked memory is too low.
pub(crate) fn lock_in_memory(bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    // The one place: rustix marks mlock unsafe because it takes a pointer.
    #[expect(unsafe_code, reason = "mlock has no safe form; see SAFETY")]
    // SAFETY: the range is that of a live slice, and locking pages changes
    // neither what they hold nor who may use them.
    unsafe {
        mlock(bytes.as_ptr().cast_mut().cast(), bytes.len())?;
    }
    Ok(())
}

/// Lets all threads share one arena of the allocator; to be called before there are
/// others. Else what one thread frees no other uses: while 16 GB were written the arenas
/// had 340 MiB, of which 80 to 210 were in use. Where it is refused, memory is all that
/// is lost.
pub(crate) fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt has no safe form; see SAFETY")]
    // SAFETY: it takes no pointer, and decides only where threads to come allocate.
    unsafe {
        let _refused = libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that was freed back to the system: the allocator keeps what a
/// burst of writing left.
pub(super) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim has no safe form; see SAFETY")]
    // SAFETY: it takes no pointer, and releases only pages that are not in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Secret bytes of any length: locked in memory, wiped on drop.
pub struct LockedBytes(Box<[u8]>);

impl LockedBytes {
    /// Room for `len` bytes; `fill` writes them in place, so that no copy is
    /// left elsewhere. Where locking is refused this is logged and goes on.
    pub(crate) fn filled(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut bytes = Self(vec![0; len].into_boxed_slice());
        if let Err(error) = lock_in_memory(&bytes.0) {
            log::warn!("a secret could not be locked in memory: {error}");
        }
        fill(&mut bytes.0)?;
        Ok(bytes)
    }

    /// The secret bytes, for whoever uses them at once.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, for a primitive that takes them over and wipes them.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find(|line| line.starts_with("VmLck:")).expect("VmLck");
        line.split_ascii_whitespace().nth(1).expect("number").parse().expect("number")
    }

    #[test]
    fn secrets_are_locked() {
        let before = locked_kib();
        let secret = LockedBytes::filled(64 << 10, |bytes| {
            bytes.fill(7);
            Ok(())
        })
        .expect("fills");
        assert_eq!(secret.expose()[100], 7);
        assert!(locked_kib() > before, "nothing was locked");
        lock_in_memory(&[]).expect("nothing to do");
    }
}
