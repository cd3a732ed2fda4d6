//! What Prometheus reads: the families of phone numbers and accounts, and the text format.
//!
//! These series are written directly. The `prometheus` crate keys a child by a hash of its label
//! values joined without a separator, so that account `12` with number `345` and account `123` with
//! number `45` would be one series; it serves the exporter's own, closed label sets.

mod families;
mod text;

pub use families::{ACCOUNT, Family, Kind, PHONE_NUMBER, Value};
pub use text::{CONTENT_TYPE, page};
