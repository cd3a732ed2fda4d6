use std::{fmt, io, str::FromStr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `key=value`, as Prometheus does.
    #[default]
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

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logfmt => "logfmt",
            Self::Json => "json",
        })
    }
}

/// Sends the log of this process to stderr. A second call changes nothing.
pub fn init(level: LevelFilter, format: Format) {
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Logfmt => {
            tracing_logfmt::builder().with_target(false).with_span_name(false).layer().with_writer(io::stderr).boxed()
        }
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
    let _ = tracing_subscriber::registry().with(layer).with(level).try_init();
}
