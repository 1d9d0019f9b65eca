//! What is agreed with the kernel when a mount starts.

use fuser::{InitFlags, KernelConfig};

/// Largest request: what the kernel's default page limit allows.
const MAX_WRITE: u32 = 1 << 20;
/// Of the kernel's own accord: pages written back, and read ahead. Each may wait
/// in memory here.
const BACKGROUND_REQUESTS: u16 = 16;

/// Asks for what the adapter relies on; what an older kernel lacks is left.
///
/// Not asked for: locks (the kernel's own are right for one machine),
/// `FUSE_READDIRPLUS_AUTO` (of a long directory the kernel would take attributes with
/// its first entries only, and ask for each of the others when it is looked at),
/// `FUSE_SETXATTR_EXT` and `FUSE_ALLOW_IDMAP` (fuser 0.18 cannot honour them).
pub(super) fn request(config: &mut KernelConfig, writeback: bool) {
    let mut wanted = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_POSIX_ACL;
    if writeback {
        wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    if let Err(missing) = config.add_capabilities(wanted) {
        log::info!("the kernel lacks {missing:?}");
        config.add_capabilities(wanted - missing).expect("only what it has is left");
    }
    config.set_max_write(MAX_WRITE).expect("is below fuser's limit");
    config.set_max_background(BACKGROUND_REQUESTS).expect("is not zero");
    config.set_congestion_threshold(BACKGROUND_REQUESTS / 4 * 3).expect("is not zero");
}
