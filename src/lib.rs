//! Receives WhatsApp's phone number quality and messaging limit webhooks and exposes them to
//! Prometheus.
//!
//! Data goes one way, a webhook in at the top, numbers out at the side:
//!
//! ```text
//! provider ─POST─▶ http ─▶ providers ─▶ ingest ─▶ store ─▶ state ◀─ exposition ◀─ http ◀─GET─ Prometheus
//!                 (auth)     (pure)   (one writer) (durable) (table)    (pure)
//! ```
//!
//! [`run()`] is the program; `main` only reads the arguments.

pub mod cli;
pub mod config;
pub mod domain;
pub mod exposition;
pub mod http;
pub mod ingest;
pub mod providers;
pub mod readiness;
pub mod state;
pub mod store;
pub mod telemetry;

mod run;

pub use run::{Listeners, RunError, Signals, SocketError, run};
