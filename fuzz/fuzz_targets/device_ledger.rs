#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| amberfs::fuzzing::device_ledger(data));
