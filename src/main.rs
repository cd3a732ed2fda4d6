//! `whatsapp-quality-exporter`: arguments → configuration → [`run`] → exit status.

use std::{env, io::Write, process::ExitCode};

use tokio::{runtime, signal::unix};
use tracing::error;
use whatsapp_quality_exporter::{
    Listeners, RunError,
    config::{Config, ConfigError},
    run, telemetry,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match Config::read(env::args_os()) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    telemetry::init_log(config.log_level, config.log_format);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "ending");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<(), RunError> {
    let listeners = Listeners::bind(&config)?;
    // All connections that a batch answers have their turn before the sockets are asked again.
    runtime::Builder::new_current_thread()
        .event_interval(256)
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = unix::signal(unix::SignalKind::terminate())?;
            let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
            let shutdown = async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            run(config, listeners, shutdown).await
        })
}

/// Help and version are answers; everything else is a mistake in the usage or the configuration.
fn refuse(error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Usage(usage) => {
            // A closed terminal is no reason to fail differently.
            let _ = usage.print();
        }
        _ => drop(writeln!(std::io::stderr(), "error: {error}")),
    }
    if error.is_answer() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    }
}
