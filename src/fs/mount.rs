//! [`Operations`] for [`Fs`]: the list of what a kernel interface may call, with the kernel's
//! numbers of inodes.

use super::{
    Attr, Caller, DirEntry, Fs, FsError, Operations, RenameMode, Result, Seek, SetAttr, SpaceStat,
};

impl Operations for Fs {
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.do_lookup(numbers.ino(parent), name)?))
    }
    fn forget(&self, ino: u64, count: u64) {
        self.do_forget(self.kernel_numbers().ino(ino), count);
    }
    fn getattr(&self, ino: u64) -> Result<Attr> {
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.do_getattr(numbers.ino(ino))?))
    }
    fn setattr(&self, ino: u64, change: &SetAttr) -> Result<Attr> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.do_setattr(numbers.ino(ino), change)?))
    }
    fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(&self.lock(), self.kernel_numbers().ino(ino))?;
        if inode.kind() == 0o120_000 { Ok(inode.inline) } else { Err(FsError::Invalid) }
    }
    fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.make(
            caller,
            numbers.ino(parent),
            name,
            mode,
            u64::from(rdev),
            &[],
        )?))
    }
    fn mkdir(&self, caller: Caller, parent: u64, name: &[u8], mode: u32) -> Result<Attr> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.make(
            caller,
            numbers.ino(parent),
            name,
            0o040_000 | mode & 0o7777,
            0,
            &[],
        )?))
    }
    fn symlink(&self, caller: Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Attr> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.do_symlink(caller, numbers.ino(parent), name, target)?))
    }
    fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        Ok(numbers.attr(self.do_link(numbers.ino(ino), numbers.ino(parent), name)?))
    }
    fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.make_room(false);
        self.remove(self.kernel_numbers().ino(parent), name, false)
    }
    fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.make_room(false);
        self.remove(self.kernel_numbers().ino(parent), name, true)
    }
    fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Result<()> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        self.do_rename((numbers.ino(from.0), from.1), (numbers.ino(to.0), to.1), mode)
    }
    fn open(&self, ino: u64, write: bool, truncate: bool) -> Result<()> {
        if truncate {
            self.make_room(false);
        }
        self.do_open(self.kernel_numbers().ino(ino), write, truncate)
    }
    fn release(&self, ino: u64, _write: bool) {
        self.do_release(self.kernel_numbers().ino(ino));
    }
    fn read_into(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.do_read(self.kernel_numbers().ino(ino), offset, out)
    }
    fn write(&self, ino: u64, offset: u64, bytes: &[u8], kill_privileges: bool) -> Result<()> {
        self.make_room(true);
        self.do_write(self.kernel_numbers().ino(ino), offset, bytes, kill_privileges)
    }
    fn before_write(&self, ino: u64, is_paged: bool) {
        self.note_kernel_times(self.kernel_numbers().ino(ino), is_paged);
    }
    fn closed_uncached(&self, ino: u64) {
        self.forget_names(self.kernel_numbers().ino(ino));
    }
    fn is_congested(&self) -> bool {
        self.is_congested()
    }
    fn fsync(&self, _ino: u64) -> Result<()> {
        self.do_fsync()
    }
    fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        attributes: bool,
        fill: &mut dyn FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let numbers = self.kernel_numbers();
        // Who fills calls again: readers never wait for each other, as nobody waits to write.
        self.do_readdir(numbers.ino(ino), cookie, attributes, &mut |entry| {
            fill(&numbers.entry(entry))
        })
    }
    fn remember(&self, ino: u64) {
        let numbers = self.kernel_numbers();
        *self.lock().lookups.entry(numbers.ino(ino)).or_default() += 1;
    }
    fn statfs(&self) -> Result<SpaceStat> {
        self.do_statfs()
    }
    fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        self.make_room(false);
        self.do_setxattr(self.kernel_numbers().ino(ino), name, value, flags)
    }
    fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.do_getxattr(self.kernel_numbers().ino(ino), name)
    }
    fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        self.do_listxattr(self.kernel_numbers().ino(ino))
    }
    fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.make_room(false);
        self.do_removexattr(self.kernel_numbers().ino(ino), name)
    }
    fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        self.make_room(false);
        self.do_fallocate(self.kernel_numbers().ino(ino), offset, len, mode)
    }
    fn seek(&self, ino: u64, offset: u64, what: Seek) -> Result<u64> {
        self.do_seek(self.kernel_numbers().ino(ino), offset, what)
    }
    fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64> {
        self.make_room(false);
        let numbers = self.kernel_numbers();
        self.do_copy((numbers.ino(from.0), from.1), (numbers.ino(to.0), to.1), len)
    }
}
