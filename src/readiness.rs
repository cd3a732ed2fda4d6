//! What `/-/ready` tells: whether webhooks can be sent to this process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::telemetry::Telemetry;

/// Whether webhooks can be sent to this process, and if not, why.
#[derive(Debug, Default)]
pub struct Readiness {
    is_loaded: AtomicBool,
    storage_is_up: AtomicBool,
    is_draining: AtomicBool,
}

impl Readiness {
    /// Whether the stored state is loaded.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Relaxed)
    }

    /// Notes that the stored state is loaded.
    pub fn set_loaded(&self) {
        self.is_loaded.store(true, Ordering::Relaxed);
    }

    /// Whether the storage took the last commit, or its probe since.
    pub fn storage_is_up(&self) -> bool {
        self.storage_is_up.load(Ordering::Relaxed)
    }

    /// Notes whether the storage takes commits; the gauge follows.
    pub fn set_storage(&self, is_up: bool, telemetry: &Telemetry) {
        self.storage_is_up.store(is_up, Ordering::Relaxed);
        telemetry.storage.up.set(is_up.into());
    }

    /// Whether the process is about to stop, and still answers.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Notes that the process is about to stop.
    pub fn set_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }
}
