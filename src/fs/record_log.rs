//! The log as the file system sees it.
//!
//! Invariant: sequence numbers ascend in the order in which records are taken, and a record is
//! durable only if all before it are.

/// The local log of what is acknowledged and not in a head yet.
pub trait Log: Send + Sync {
    /// Takes a record, in pieces; returns its sequence number. Fails, before anything is
    /// acknowledged, if there is no room. Records that make room may use the
    /// `reserve` that others leave.
    fn append(&self, record: &[&[u8]], reserve: bool) -> std::io::Result<u64>;
    /// Reserves room for a record of at most `len` bytes that is appended later by
    /// [`Log::append_reserved`]. Returns how many bytes that takes. With `use_reserve` it
    /// may use the space that other records leave free.
    fn reserve_room(&self, len: usize, use_reserve: bool) -> std::io::Result<u64>;
    /// Cancels the reservation of this many bytes.
    fn cancel_reservation(&self, reserved: u64);
    /// Appends a record for which `reserved` bytes were reserved. Returns its sequence
    /// number.
    fn append_reserved(&self, record: &[&[u8]], reserved: u64) -> std::io::Result<u64>;
    /// Hands what was taken to the operating system.
    fn write_out(&self) -> std::io::Result<()>;
    /// Returns once records up to `sequence` are durable.
    fn sync(&self, sequence: u64) -> std::io::Result<()>;
    /// Later records go to a new file; returns the last sequence before.
    fn rotate(&self) -> std::io::Result<u64>;
    /// The sequence number of the last record taken, also once the log failed.
    fn last(&self) -> u64;
    /// Records up to `sequence` are in a head.
    fn release(&self, sequence: u64) -> std::io::Result<()>;
    /// Bytes that records not released yet take.
    fn bytes(&self) -> u64;
}

/// No log: what is not in a checkpoint yet is lost with the process. For
/// commands that end with a checkpoint.
pub struct NoLog;

impl Log for NoLog {
    fn append(&self, _: &[&[u8]], _: bool) -> std::io::Result<u64> {
        Ok(0)
    }
    fn reserve_room(&self, _: usize, _: bool) -> std::io::Result<u64> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn cancel_reservation(&self, _: u64) {}
    fn append_reserved(&self, _: &[&[u8]], _: u64) -> std::io::Result<u64> {
        Ok(0)
    }
    fn write_out(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn sync(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn rotate(&self) -> std::io::Result<u64> {
        Ok(0)
    }
    fn last(&self) -> u64 {
        0
    }
    fn release(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
    fn bytes(&self) -> u64 {
        0
    }
}
