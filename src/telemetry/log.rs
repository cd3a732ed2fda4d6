//! The log of this process on stderr, and limits on how much of it is written.

use std::{
    io,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value`, as Prometheus does.
    Logfmt,
    /// A JSON object.
    Json,
}

impl Format {
    /// The names on the command line.
    pub const NAMES: [&'static str; 2] = ["logfmt", "json"];
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "logfmt" => Ok(Self::Logfmt),
            "json" => Ok(Self::Json),
            _ => Err(format!("expected one of {}", Self::NAMES.join(", "))),
        }
    }
}

/// Bounds how many lines are logged per second, so that a flood of requests, authentic or not, does
/// not fill the disk.
#[derive(Debug)]
pub struct Limiter {
    max_a_second: u32,
    window: Mutex<Window>,
}

/// A line that may be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Permit {
    /// How many were left out since the last, if any: a field of this one.
    pub suppressed: Option<u64>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Limiter {
    /// For lines about authentic webhooks, and about the storage: 1000 a second.
    pub fn for_authentic_senders() -> Self {
        Self::new(1000)
    }

    /// For lines about requests that are not authentic, which anybody can send: 10 a second. (1000
    /// a second are 13 GB a day.)
    pub fn for_strangers() -> Self {
        Self::new(10)
    }

    fn new(max_a_second: u32) -> Self {
        Self {
            max_a_second,
            window: Mutex::default(),
        }
    }

    /// Whether one more may be written at `now`.
    pub fn try_line(&self, now: Instant) -> Option<Permit> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window
            .began
            .is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1))
        {
            window.began = Some(now);
            window.written = 0;
        }
        if window.written == self.max_a_second {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        let suppressed = std::mem::take(&mut window.suppressed);
        Some(Permit {
            suppressed: (suppressed > 0).then_some(suppressed),
        })
    }
}

/// Sends the log of this process to stderr. A second call changes nothing.
pub fn init(level: LevelFilter, format: Format) {
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Logfmt => tracing_logfmt::builder()
            .with_target(false)
            .with_span_name(false)
            .layer()
            .with_writer(io::stderr)
            .boxed(),
        Format::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(io::stderr)
            .boxed(),
    };
    // It fails only where a log is set up already.
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(level)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let lines = Limiter::for_authentic_senders();
        let began = Instant::now();
        let admitted = |count: u32, at: Duration| -> Vec<Option<u64>> {
            (0..count)
                .filter_map(|_| Some(lines.try_line(began + at)?.suppressed))
                .collect()
        };
        assert_eq!(admitted(5000, Duration::ZERO), [None; 1000]);
        assert_eq!(admitted(7, Duration::from_millis(999)), []);
        assert_eq!(
            admitted(3, Duration::from_secs(1)),
            [Some(4007), None, None]
        );
        assert_eq!(admitted(1000, Duration::from_secs(1)), [None; 997]);
        assert_eq!(admitted(1, Duration::from_secs(60)), [Some(3)]);
    }
}
