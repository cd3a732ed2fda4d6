//! The exporter's own metrics, and its log.
//!
//! Label sets are closed and every child that is known in advance is exposed at 0, so that an
//! increase from nothing is seen. Phone numbers never get here: see [`crate::exposition`].

mod log;
mod metrics;

pub use log::{Format as LogFormat, Limiter as LogLimiter, Permit as LogPermit, init as init_log};
#[cfg(feature = "etcd")]
pub use metrics::ReplicationMetrics;
pub use metrics::{
    ChangeMetrics, ProviderMetrics, ReloadMetrics, StorageMetrics, Telemetry, TimeGauge,
};
