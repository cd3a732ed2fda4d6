//! The program: what is started, in which order, and how it ends.

use std::{
    future::Future,
    io,
    net::TcpListener,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tokio::{runtime, sync::watch, task::JoinSet, time::timeout};
use tracing::{error, info, warn};

use crate::{
    config::{Config, ListenAddress},
    http::{self, Gate, Handler, Web, Webhooks},
    ingest,
    state::{Fold, Table},
    store::{Sqlite, Store, StoreError},
    telemetry::Telemetry,
};

/// For requests in flight when the program is to end.
const GRACE: Duration = Duration::from_secs(10);

/// Sockets that are bound already, so that the caller decides where.
#[derive(Debug)]
pub struct Listeners {
    /// Private.
    pub web: Vec<TcpListener>,
    /// Public.
    pub webhook: Vec<TcpListener>,
}

/// Why the program ended; the exit status is 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// An address cannot be listened on; the operator is at fault, or another program has it.
    #[error(
        "cannot listen on {address}: {source}; end the program that does, or give another address"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no thread or no event loop.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The storage cannot be used, or can promise nothing any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A defect of this program; what was answered 200 is stored.
    #[error("a part of the program failed: {0}; please report it")]
    Defect(String),
}

impl Listeners {
    /// Binds the configured addresses.
    ///
    /// # Errors
    ///
    /// [`RunError::Listen`] for the first that cannot be bound.
    pub fn bind(config: &Config) -> Result<Self, RunError> {
        let bind = |address: &ListenAddress| {
            let listener = TcpListener::bind(address.addresses());
            listener.map_err(|source| RunError::Listen {
                address: address.to_string(),
                source,
            })
        };
        Ok(Self {
            web: config
                .web_addresses
                .iter()
                .map(bind)
                .collect::<Result<_, _>>()?,
            webhook: config
                .webhook_addresses
                .iter()
                .map(bind)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Runs until `shutdown` resolves and what is in flight is finished (at most 10 s), or until it cannot go on.
///
/// Webhooks are read, verified, parsed and answered on the caller's thread, and folded and stored on another, so that
/// nobody who sends waits for the disk of those before. Scrapes have a thread of their own.
///
/// # Errors
///
/// [`RunError`]; what was answered 200 before is stored.
pub async fn run(
    config: Config,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let telemetry =
        Arc::new(Telemetry::new().map_err(|error| RunError::Defect(error.to_string()))?);
    telemetry
        .phone_numbers_max
        .set(i64::try_from(config.max_phone_numbers).unwrap_or(i64::MAX));
    let table = Arc::new(Table::default());
    let entrance = Arc::new(OnceLock::new());
    let (stop, stopped) = watch::channel(false);

    let web = Web::new(
        config.telemetry_path.clone(),
        Arc::clone(&table),
        Arc::clone(&entrance),
        Arc::clone(&telemetry),
        config.max_requests,
    );
    let web = WebThread::start(listeners.web, web, stopped.clone())?;

    for warning in &config.warnings {
        warn!("{warning}");
    }
    let gates = Gate::all(&config.providers, &telemetry);
    announce(&gates, &telemetry);
    let webhooks = Arc::new(Webhooks::new(
        gates,
        Arc::clone(&entrance),
        Arc::clone(&telemetry),
    ));
    let mut servers = start("webhook", listeners.webhook, &webhooks, &stopped)?;
    drop(webhooks);

    let mut shutdown = std::pin::pin!(shutdown);
    let loaded = tokio::select! {
        loaded = load(&config, Arc::clone(&table)) => Some(loaded),
        () = shutdown.as_mut() => None,
    };
    let result = match loaded {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok((fold, store, is_up))) => {
            show_heartbeats(&fold, &telemetry);
            telemetry
                .phone_numbers
                .set(i64::try_from(table.phone_numbers_len()).unwrap_or(i64::MAX));
            telemetry.storage.up.set(is_up.into());
            let (ingest, writer, answers) = ingest::channel(
                fold,
                store,
                Arc::clone(&telemetry),
                config.log_phone_numbers,
            );
            let mut writer = writer.start()?;
            tokio::spawn(answers.give());
            // Nobody else sets it.
            let _ = entrance.set(ingest);
            if is_up {
                info!(phone_numbers = table.phone_numbers_len(), "ready");
            }
            let failed = tokio::select! {
                result = writer.ended() => Some(result),
                () = shutdown => None,
            };
            match failed {
                Some(Some(result)) => result.map_err(RunError::from),
                Some(None) => Err(RunError::Defect("the writer panicked".into())),
                None => {
                    info!("stopping: finishing what is in flight");
                    let _ = stop.send(true);
                    drain(&mut servers).await;
                    // Every answer is given: what may still be queued is of senders that hung up.
                    writer.stop().await;
                    Ok(())
                }
            }
        }
    };
    let _ = stop.send(true);
    drain(&mut servers).await;
    web.join();
    result
}

/// Says once which providers are off, and which trust anybody.
fn announce(gates: &[Gate], telemetry: &Telemetry) {
    for gate in gates {
        let provider = gate.provider.name();
        if let Some(metrics) = telemetry.provider(provider) {
            metrics.on.set(gate.is_on().into());
        }
        if !gate.is_on() {
            info!(
                provider,
                "provider is off, and its paths are 404: it has no secret"
            );
        } else if gate.is_open() {
            warn!(
                provider,
                "provider is not authenticated: anybody who reaches the listener can send its webhooks"
            );
        }
    }
}

/// Shows the signs of life that providers gave before this process began.
fn show_heartbeats(fold: &Fold, telemetry: &Telemetry) {
    for (provider, heartbeat) in fold.heartbeats() {
        let Some(metrics) = telemetry.provider(provider) else {
            continue;
        };
        for (gauge, at) in [
            (&metrics.last_accepted, heartbeat.last_accepted),
            (&metrics.last_change, heartbeat.last_change),
            (&metrics.last_handshake, heartbeat.last_handshake),
        ] {
            if let Some(at) = at {
                gauge.set(at);
            }
        }
    }
}

/// Loads what is stored; and whether the storage takes commits.
async fn load(config: &Config, table: Arc<Table>) -> Result<(Fold, Sqlite, bool), RunError> {
    let path = config.storage_path.clone();
    let mut fold = Fold::new(table, config.max_phone_numbers);
    let load = move || {
        let mut store = Sqlite::open(&path)?;
        store.load(&mut |record| fold.restore(record))?;
        match store.probe() {
            Ok(()) => Ok((fold, store, true)),
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                error!(%error, "the storage takes no changes; webhooks are answered 503 until it does");
                Ok((fold, store, false))
            }
        }
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => Ok(loaded?),
        Err(error) => Err(RunError::Defect(error.to_string())),
    }
}

fn start<H: Handler>(
    name: &str,
    listeners: Vec<TcpListener>,
    handler: &Arc<H>,
    stopped: &watch::Receiver<bool>,
) -> io::Result<JoinSet<()>> {
    let mut servers = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        info!(listener = name, address = %listener.local_addr()?, "listening");
        servers.spawn(http::serve(listener, Arc::clone(handler), stopped.clone()));
    }
    Ok(servers)
}

async fn drain(servers: &mut JoinSet<()>) {
    let all = async { while servers.join_next().await.is_some() {} };
    if timeout(GRACE, all).await.is_err() {
        warn!("stopping although requests are in flight: 10 seconds have passed");
        servers.shutdown().await;
    }
}

/// Lets the other threads go first where processors are scarce: a scrape may take a moment longer, and a provider
/// that waits for its 200 may give up. On Linux this is the calling thread's alone.
fn yield_to_webhooks() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 5) {
        warn!(%error, "scrapes run at the priority of webhooks");
    }
}

/// The private listener's own thread.
struct WebThread(thread::JoinHandle<()>);

impl WebThread {
    fn start(
        listeners: Vec<TcpListener>,
        web: Web,
        stopped: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut servers = {
            let _entered = runtime.enter();
            start("web", listeners, &Arc::new(web), &stopped)?
        };
        let serve = move || {
            yield_to_webhooks();
            runtime.block_on(async {
                let mut stopped = stopped;
                // Its sender lives as long as the program.
                let _ = stopped.wait_for(|stopped| *stopped).await;
                drain(&mut servers).await;
            });
        };
        Ok(Self(
            thread::Builder::new().name("web".into()).spawn(serve)?,
        ))
    }

    fn join(self) {
        // A panic there has been reported where it happened.
        let _ = self.0.join();
    }
}
