//! Webhooks of the provider that `FUZZ_PROVIDER` names.
#![no_main]

use std::{env, sync::LazyLock};

static PROVIDER: LazyLock<String> =
    LazyLock::new(|| env::var("FUZZ_PROVIDER").expect("FUZZ_PROVIDER"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::webhook(&PROVIDER, data));
