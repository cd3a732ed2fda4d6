//! The program: what is started, in which order, and how it ends.

mod limits;
mod reload;
mod systemd;
mod tasks;

use std::{future::Future, io, net::TcpListener, sync::Arc, thread};

use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tracing::{info, warn};

pub use self::systemd::SocketError;
use self::{
    limits::RoleLimits,
    reload::{InForce, ReloadSources, Watched},
    tasks::Tasks,
};
#[cfg(feature = "etcd")]
use crate::store::Etcd;
use crate::{
    config::{Config, Files, ListenAddress, Role},
    domain::Pseudonyms,
    http::{Connections, Endpoints, Operations, Protection, Web, WebOptions, Webhooks},
    ingest::{self, Jobs, RunningWriter, WriterQueue},
    readiness::Readiness,
    state::{Fold, Table},
    store::{Sqlite, Store, StoreError},
    telemetry::Telemetry,
};

/// Connections that may wait to be accepted. Where this queue is full, the system drops the first
/// packet of a new connection, and its peer repeats it only after a second. Linux may allow fewer
/// (`net.core.somaxconn`).
#[cfg(unix)]
const BACKLOG: i32 = 4096;

/// Sockets that are bound already, so that the caller decides where.
#[derive(Debug)]
pub struct Listeners {
    /// Private.
    pub web: Vec<TcpListener>,
    /// Public.
    pub webhook: Vec<TcpListener>,
}

/// What the operator's signals ask for, a message each time.
#[derive(Debug)]
pub struct Signals {
    /// To stop: after `--web.drain-delay`, which a second message ends.
    pub stops: mpsc::Receiver<()>,
    /// To read the files again.
    pub hangups: mpsc::Receiver<()>,
}

/// Why the program ended; the exit status is 1, and 2 for [`RunError::Sockets`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// An address cannot be listened on; the operator is at fault, or another program has it.
    #[error(
        "cannot listen on {address}: {source}; if another program uses this address, stop it; otherwise choose another address"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The sockets of systemd cannot be used; the operator is at fault.
    #[error(transparent)]
    Sockets(#[from] SocketError),
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
    /// Binds the configured addresses, or takes the sockets that systemd has bound. Call it before
    /// any thread is started, because the variables that describe these sockets are taken away.
    ///
    /// # Errors
    ///
    /// [`RunError::Listen`] for the first that cannot be bound; [`RunError::Sockets`].
    pub fn open(config: &Config) -> Result<Self, RunError> {
        if config.systemd_socket {
            return Ok(systemd::listeners()?);
        }
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

    /// Why the configured addresses cannot be bound, a sentence each.
    pub fn findings(config: &Config) -> Vec<String> {
        if config.systemd_socket {
            return Vec::new();
        }
        let addresses = config.web_addresses.iter().chain(&config.webhook_addresses);
        // All are kept until the end, so that an address that is given twice is found.
        let (_bound, errors): (Vec<_>, Vec<_>) = addresses.map(bind).partition(Result::is_ok);
        let errors = errors.into_iter().filter_map(Result::err);
        errors.map(|error| error.to_string()).collect()
    }

    /// Says where the system takes connections.
    fn log(&self) -> io::Result<()> {
        for (role, listeners) in [("web", &self.web), ("webhook", &self.webhook)] {
            for listener in listeners {
                info!(listener = role, address = %listener.local_addr()?, "listening");
            }
        }
        Ok(())
    }
}

/// Runs until it is told to stop and what is in flight is finished (at most 10 s), or until it
/// cannot go on.
///
/// Webhooks are read, verified, parsed and answered on the caller's thread, and folded and stored
/// on another, so that no sender waits for the disk of those before. Scrapes have a thread of their
/// own.
///
/// # Errors
///
/// [`RunError`]; what was answered 200 before is stored.
pub async fn run(
    config: Config,
    files: Files,
    pseudonyms: Option<Pseudonyms>,
    listeners: Listeners,
    signals: Signals,
) -> Result<(), RunError> {
    let defect = |error: prometheus::Error| RunError::Defect(error.to_string());
    let telemetry = Arc::new(Telemetry::new().map_err(defect)?);
    let phone_numbers_max = i64::try_from(config.max_phone_numbers).unwrap_or(i64::MAX);
    telemetry.phone_numbers_max.set(phone_numbers_max);
    let (reloads, requests) = mpsc::channel(1);
    let (queue, jobs) = ingest::queue();
    let operations = Operations {
        reloads: config.enable_lifecycle.then_some(reloads),
        removals: config.enable_admin_api.then(|| queue.clone()),
    };
    let limits = RoleLimits::new(&config, limits::raise_descriptors());
    let program = Program {
        config,
        telemetry,
        table: Arc::new(Table::new(pseudonyms)),
        readiness: Arc::default(),
        stop: watch::Sender::new(false),
        limits,
        operations,
        queue,
    };
    let Signals { stops, hangups } = signals;
    let reload = ReloadSources { hangups, requests };
    #[cfg(feature = "etcd")]
    if let Some(options) = program.config.etcd.clone() {
        let metrics = program.telemetry.replication().map_err(defect)?;
        let open = move || Etcd::open(options, metrics);
        return program
            .run(files, listeners, stops, reload, jobs, open)
            .await;
    }
    let path = program.config.storage_path.clone();
    let open = move || Sqlite::open(&path);
    program
        .run(files, listeners, stops, reload, jobs, open)
        .await
}

/// What all parts of the program share.
struct Program {
    config: Config,
    telemetry: Arc<Telemetry>,
    table: Arc<Table>,
    readiness: Arc<Readiness>,
    /// Turns true when the listeners are to finish.
    stop: watch::Sender<bool>,
    limits: RoleLimits,
    /// What the operator may do by a request to the private listener.
    operations: Operations,
    queue: WriterQueue,
}

impl Program {
    async fn run<S: Store + 'static>(
        self,
        files: Files,
        listeners: Listeners,
        mut stops: mpsc::Receiver<()>,
        reload: ReloadSources,
        jobs: Jobs,
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<(), RunError> {
        listeners.log()?;
        let Files {
            secrets,
            web,
            webhook,
        } = files;
        let watched = [
            Watched::new(Role::Web, web),
            Watched::new(Role::Webhook, webhook),
        ];
        let [for_web, for_webhooks] = watched.each_ref().map(Watched::protection);
        let endpoints = self.endpoints(&secrets);
        reload::log_access(&endpoints);
        let mut tasks = Tasks::default();
        let endpoints: Arc<Endpoints> = Arc::new(endpoints.into());
        let web = self.start_web(listeners.web, &endpoints, for_web, &mut tasks)?;
        let loaded = tokio::select! {
            loaded = self.load(open, jobs) => loaded.map(Some),
            _ = stops.recv() => Ok(None),
        };
        let result = match loaded {
            Ok(Some(writer)) => {
                let telemetry = Arc::clone(&self.telemetry);
                let queue = self.queue.clone();
                let all = Arc::clone(&endpoints);
                let webhooks = Webhooks::new(all, queue, telemetry, for_webhooks);
                let webhooks = Arc::new(webhooks);
                let accepting = self.accept_webhooks(listeners.webhook, &webhooks, &mut tasks);
                let mut in_force = InForce::new(secrets, endpoints, watched);
                let reloads = self.reload_always(reload, &mut in_force);
                match accepting {
                    Ok(()) => self.serve_until(stops, &mut tasks, writer, reloads).await,
                    Err(error) => Err(error.into()),
                }
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.stop.send_replace(true);
        tasks.drain().await;
        // A panic of the thread has been reported where it happened.
        let _ = web.join();
        result
    }

    /// Accepts webhooks, now that the stored state is loaded. Until then the system queues their
    /// connections, so that a start costs a sender a moment and no 503.
    fn accept_webhooks(
        &self,
        listeners: Vec<TcpListener>,
        webhooks: &Arc<Webhooks>,
        tasks: &mut Tasks,
    ) -> io::Result<()> {
        let connections = Connections::new(self.limits.webhook.clone());
        tasks.serve("webhook", listeners, webhooks, &connections, &self.stop)
    }

    /// Starts the private listener on a thread of its own, whose end is that of one of `tasks`.
    /// Until the stored state is loaded, it answers 503.
    fn start_web(
        &self,
        listeners: Vec<TcpListener>,
        endpoints: &Arc<Endpoints>,
        protection: Arc<Protection>,
        tasks: &mut Tasks,
    ) -> io::Result<thread::JoinHandle<()>> {
        let (tell, ended) = oneshot::channel::<()>();
        tasks.spawn("web", async {
            // It resolves when the thread ends, whether it says so or panics.
            let _ = ended.await;
        });
        let web = Arc::new(Web::new(
            WebOptions {
                telemetry_path: self.config.telemetry_path.clone(),
                max_requests: self.config.max_requests,
                external_url: self.config.external_url.clone(),
            },
            Arc::clone(&self.table),
            Arc::clone(&self.readiness),
            Arc::clone(&self.telemetry),
            Arc::clone(endpoints),
            protection,
            self.operations.clone(),
        ));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut accepting = Tasks::default();
        {
            let _entered = runtime.enter();
            let connections = Connections::new(self.limits.web.clone());
            accepting.serve("web", listeners, &web, &connections, &self.stop)?;
        }
        let mut stopped = self.stop.subscribe();
        let serve = move || {
            let _tell = tell;
            yield_to_webhooks();
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Its sender lives as long as the program.
                    _ = stopped.wait_for(|stopped| *stopped) => accepting.drain().await,
                    // The end of this thread is the end of the program.
                    _ = accepting.ended() => {}
                }
            });
        };
        thread::Builder::new().name("web".into()).spawn(serve)
    }

    /// Starts the writer, and waits until it has loaded what is stored.
    async fn load<S: Store + 'static>(
        &self,
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
        jobs: Jobs,
    ) -> Result<RunningWriter, RunError> {
        let loading = ingest::start(
            jobs,
            Fold::new(Arc::clone(&self.table), self.config.max_phone_numbers),
            open,
            &self.readiness,
            Arc::clone(&self.telemetry),
            self.config.log_phone_numbers,
        )?;
        match loading.loaded().await {
            Some(loaded) => Ok(loaded?),
            None => Err(RunError::Defect("the writer panicked".into())),
        }
    }

    /// Resolves when the listeners are to finish. Until then everything is answered as before, but
    /// `/-/ready` is 503, so that a load balancer can send to others before this process closes.
    async fn drained(&self, mut stops: mpsc::Receiver<()>) {
        stops.recv().await;
        self.readiness.set_draining();
        let delay = self.config.drain_delay;
        if delay.is_zero() {
            return;
        }
        info!(
            ?delay,
            "stopping: not ready from now on, and still answering"
        );
        tokio::select! {
            () = sleep(delay) => {}
            _ = stops.recv() => {}
        }
    }

    /// Serves until it is told to stop, and then finishes what is in flight; or until a part of the
    /// program ends by itself, which is the end of the program.
    async fn serve_until(
        &self,
        stops: mpsc::Receiver<()>,
        tasks: &mut Tasks,
        mut writer: RunningWriter,
        reloads: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        systemd::ready();
        tokio::select! {
            result = writer.ended() => match result {
                Some(result) => Ok(result?),
                None => Err(RunError::Defect("the writer panicked".into())),
            },
            name = tasks.ended() => Err(RunError::Defect(format!("the {name} listener ended"))),
            () = reloads => Err(RunError::Defect("reloads ended".into())),
            () = systemd::keep_alive() => Err(RunError::Defect("the watchdog ended".into())),
            () = self.drained(stops) => {
                info!("stopping: finishing what is in flight");
                systemd::stopping();
                self.stop.send_replace(true);
                tasks.drain().await;
                // Every request is answered; what may still be queued is of senders that hung up.
                writer.stop().await;
                Ok(())
            }
        }
    }
}

fn bind(address: &ListenAddress) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address.addresses()).and_then(with_backlog);
    listener.map_err(|source| RunError::Listen {
        address: address.to_string(),
        source,
    })
}

/// The standard library lets 128 connections wait; a second call of `listen` changes that.
fn with_backlog(listener: TcpListener) -> io::Result<TcpListener> {
    #[cfg(unix)]
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Lets the other threads go first where processors are scarce: a scrape may take a moment longer,
/// and a provider that waits for its 200 may give up. On Linux the priority is the calling thread's
/// alone, and the threads on which pages are rendered inherit it, because this thread starts them.
fn yield_to_webhooks() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 5) {
        warn!(%error, "scrapes run at the priority of webhooks");
    }
}
