//! Documents of the storage.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::document(data));
