#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| amberfs::fuzzing::vault_note(data));
