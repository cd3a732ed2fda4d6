//! `whatsapp-quality-exporter`: arguments → configuration → [`run`] → exit status.

use std::{env, fmt, io::Write, process::ExitCode};

use tokio::{runtime, signal::unix, sync::mpsc};
use tracing::error;
use whatsapp_quality_exporter::{
    Listeners, RunError, Signals,
    cli::{self, Invocation},
    config::{Config, Files, WebConfig},
    domain::Pseudonyms,
    run, telemetry,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status of a mistake in the usage or the configuration.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = match cli::read(env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => {
            // If this cannot be written, the exit status still tells the result.
            let _ = usage.print();
            let is_answer = cli::is_answer(&usage);
            return if is_answer {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    let config = match invocation {
        Invocation::Serve(config) => *config,
        other => return run_verb(&other),
    };
    let files = match config.read_files(&WebConfig::default(), &WebConfig::default()) {
        Ok(files) => files,
        Err(error) => return refuse(&error),
    };
    let pseudonyms = match config.read_pseudonyms() {
        Ok(pseudonyms) => pseudonyms,
        Err(error) => return refuse(&error),
    };
    telemetry::init_log(config.log_level, config.log_format);
    match serve(config, files, pseudonyms) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "ending");
            match error {
                RunError::Sockets(_) => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn serve(config: Config, files: Files, pseudonyms: Option<Pseudonyms>) -> Result<(), RunError> {
    let listeners = Listeners::open(&config)?;
    let runtime = runtime::Builder::new_current_thread()
        // All connections that a batch answers have their turn before the sockets are polled again.
        .event_interval(256)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = unix::signal(unix::SignalKind::terminate())?;
        let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
        let mut hangup = unix::signal(unix::SignalKind::hangup())?;
        let (tell_hangup, hangups) = mpsc::channel(1);
        tokio::spawn(async move {
            while hangup.recv().await.is_some() && tell_hangup.send(()).await.is_ok() {}
        });
        let (tell_stop, stops) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if tell_stop.send(()).await.is_err() {
                    break;
                }
            }
        });
        let signals = Signals { stops, hangups };
        run(config, files, pseudonyms, listeners, signals).await
    });
    // A database that is still being read when the program is to end need not be read to its end.
    runtime.shutdown_background();
    result
}

/// Runs a verb that ends by itself.
fn run_verb(invocation: &Invocation) -> ExitCode {
    let mut output = std::io::stdout().lock();
    match invocation.run(&mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If this cannot be written, the exit status still tells the result.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(error: &dyn fmt::Display) -> ExitCode {
    // If this cannot be written, the exit status still tells the result.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(USAGE)
}
