//! The program: what is started, in which order, and how it ends.

use std::{future::Future, io, net::TcpListener, sync::Arc, thread, time::Duration};

use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinSet},
    time::timeout,
};
use tracing::{error, info, warn};

use crate::{
    config::{Config, ConfigError, ListenAddress, Secrets},
    http::{self, Authenticator, Connections, Endpoint, Handler, Limits, Reload, Web, Webhooks},
    ingest::{self, RunningWriter, WriterStatus},
    providers,
    state::{Fold, Table},
    store::{Sqlite, Store, StoreError},
    telemetry::Telemetry,
};

/// For requests in flight when the program is to end.
const GRACE: Duration = Duration::from_secs(10);

/// How long a scraper's connection may wait for the next scrape.
const WEB_IDLE: Duration = Duration::from_secs(300);
/// How long a sender's connection may wait: proxies keep connections for 60 to 75 seconds.
const WEBHOOK_IDLE: Duration = Duration::from_secs(90);
/// File descriptors for the storage, the listeners, the log and the event loops.
const RESERVED_DESCRIPTORS: usize = 32;
/// More connections than these do not help, and each takes memory.
const MAX_CONNECTIONS: [usize; 2] = [256, 4096];

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
        "cannot listen on {address}: {source}; if another program uses this address, stop it; otherwise choose another address"
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
            let address = || address.to_string();
            listener.map_err(|source| RunError::Listen {
                address: address(),
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

/// Runs until `shutdown` resolves and what is in flight is finished (at most 10 s), or until it
/// cannot go on. Each message of `hangups` reads the secrets again.
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
    secrets: Secrets,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
    hangups: mpsc::Receiver<()>,
) -> Result<(), RunError> {
    let defect = |error: prometheus::Error| RunError::Defect(error.to_string());
    let telemetry = Arc::new(Telemetry::new().map_err(defect)?);
    let phone_numbers_max = i64::try_from(config.max_phone_numbers).unwrap_or(i64::MAX);
    telemetry.phone_numbers_max.set(phone_numbers_max);
    let path = config.storage_path.clone();
    let (reloads, requests) = mpsc::channel(1);
    let reloads = config.enable_lifecycle.then_some(reloads);
    let program = Program {
        config,
        telemetry,
        table: Arc::default(),
        writer_status: Arc::default(),
        stop: watch::Sender::new(false),
        descriptors: raise_descriptors(),
        reloads,
    };
    let reload = ReloadSources { hangups, requests };
    let open = move || Sqlite::open(&path);
    program
        .run(secrets, listeners, shutdown, reload, open)
        .await
}

/// What all parts of the program share.
struct Program {
    config: Config,
    telemetry: Arc<Telemetry>,
    table: Arc<Table>,
    writer_status: Arc<WriterStatus>,
    /// Turns true when the listeners are to finish.
    stop: watch::Sender<bool>,
    /// File descriptors that this process may have.
    descriptors: usize,
    /// For the private listener to ask for a reload, where that is enabled.
    reloads: Option<mpsc::Sender<Reload>>,
}

/// What asks for a reload: a signal, or a request to the private listener.
struct ReloadSources {
    hangups: mpsc::Receiver<()>,
    requests: mpsc::Receiver<Reload>,
}

/// The public listener and the secrets that it has.
struct WebhookListener {
    webhooks: Arc<Webhooks>,
    secrets: Secrets,
}

impl Program {
    async fn run<S: Store + 'static>(
        self,
        secrets: Secrets,
        listeners: Listeners,
        shutdown: impl Future<Output = ()>,
        reload: ReloadSources,
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<(), RunError> {
        let (mut tasks, web, webhooks) = self.start_listeners(&secrets, listeners)?;
        let mut listener = WebhookListener { webhooks, secrets };
        let mut shutdown = std::pin::pin!(shutdown);
        let loaded = tokio::select! {
            loaded = self.load(open) => loaded.map(Some),
            () = shutdown.as_mut() => Ok(None),
        };
        let result = match loaded {
            Ok(Some(writer)) => {
                let reloads = self.reload_always(reload, &mut listener);
                self.serve_until(shutdown, &mut tasks, writer, reloads)
                    .await
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

    /// Starts both listeners; until the stored state is loaded they answer 503.
    fn start_listeners(
        &self,
        secrets: &Secrets,
        listeners: Listeners,
    ) -> Result<(Tasks, thread::JoinHandle<()>, Arc<Webhooks>), RunError> {
        let (tell, web_ended) = oneshot::channel();
        let web = self.start_web(listeners.web, tell)?;
        let endpoints = self.endpoints(secrets);
        log_access(&endpoints);
        let (writer_status, telemetry) =
            (Arc::clone(&self.writer_status), Arc::clone(&self.telemetry));
        let webhooks = Arc::new(Webhooks::new(endpoints, writer_status, telemetry));
        let mut tasks = Tasks::default();
        let connections = Connections::new(self.webhook_limits());
        tasks.serve(
            "webhook",
            listeners.webhook,
            &webhooks,
            &connections,
            &self.stop,
        )?;
        tasks.spawn("web", async {
            // It resolves when the thread ends, whether it says so or panics.
            let _ = web_ended.await;
        });
        Ok((tasks, web, webhooks))
    }

    /// Starts the private listener on a thread of its own, which drops `tell` when it ends.
    fn start_web(
        &self,
        listeners: Vec<TcpListener>,
        tell: oneshot::Sender<()>,
    ) -> io::Result<thread::JoinHandle<()>> {
        let web = Arc::new(Web::new(
            self.config.telemetry_path.clone(),
            Arc::clone(&self.table),
            Arc::clone(&self.writer_status),
            Arc::clone(&self.telemetry),
            self.config.max_requests,
            self.reloads.clone(),
        ));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut tasks = Tasks::default();
        {
            let _entered = runtime.enter();
            let connections = Connections::new(self.web_limits());
            tasks.serve("web", listeners, &web, &connections, &self.stop)?;
        }
        let mut stopped = self.stop.subscribe();
        let serve = move || {
            let _tell = tell;
            yield_to_webhooks();
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Its sender lives as long as the program.
                    _ = stopped.wait_for(|stopped| *stopped) => tasks.drain().await,
                    // The end of this thread is the end of the program.
                    _ = tasks.ended() => {}
                }
            });
        };
        thread::Builder::new().name("web".into()).spawn(serve)
    }

    fn web_limits(&self) -> Limits {
        let [derived, _] = max_connections(self.descriptors);
        let max_connections = match self.config.max_web_connections {
            0 => derived,
            given => given,
        };
        // The private listener is for the operator's programs, each of which may come from one place.
        Limits {
            max_connections,
            max_idle: WEB_IDLE,
            trusted_proxies: Vec::new(),
        }
    }

    fn webhook_limits(&self) -> Limits {
        let [_, derived] = max_connections(self.descriptors);
        let max_connections = match self.config.max_webhook_connections {
            0 => derived,
            given => given,
        };
        let trusted_proxies = self.config.trusted_proxies.clone();
        Limits {
            max_connections,
            max_idle: WEBHOOK_IDLE,
            trusted_proxies,
        }
    }

    /// The providers, and how each proves its requests with these secrets.
    fn endpoints(&self, secrets: &Secrets) -> Vec<Endpoint> {
        for warning in &secrets.warnings {
            warn!("{warning}");
        }
        let allowed = &self.config.allow_unauthenticated;
        let endpoint = |provider: &&'static providers::Provider| {
            let authenticator = Authenticator::new(provider, secrets, allowed, &self.telemetry);
            if let Some(metrics) = self.telemetry.provider(provider.name) {
                metrics.on.set(authenticator.is_on().into());
            }
            Endpoint {
                provider,
                authenticator,
            }
        };
        providers::ALL.iter().map(endpoint).collect()
    }

    /// Reads the secrets again whenever that is asked for; it never resolves.
    async fn reload_always(&self, mut sources: ReloadSources, listener: &mut WebhookListener) {
        loop {
            tokio::select! {
                Some(()) = sources.hangups.recv() => drop(self.reload(listener)),
                Some(reply) = sources.requests.recv() => {
                    // The client may have hung up.
                    let _ = reply.send(self.reload(listener).map_err(|error| error.to_string()));
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Takes the secrets as they are now, from the next request on, or none of them.
    fn reload(&self, listener: &mut WebhookListener) -> Result<(), ConfigError> {
        let secrets = self.config.read_secrets().inspect_err(|error| {
            self.telemetry.reload.note(false);
            error!(%error, "reload failed: the secrets before it stay in use");
        })?;
        let changed = secrets.changed(&listener.secrets);
        if !changed.is_empty() {
            self.telemetry.forget_secrets();
            listener.webhooks.replace(self.endpoints(&secrets));
        }
        let names: Vec<_> = changed.iter().map(|provider| provider.as_str()).collect();
        info!(changed = names.join(","), "secrets read again");
        listener.secrets = secrets;
        self.telemetry.reload.note(true);
        Ok(())
    }

    /// Loads what is stored, and starts the writer over it.
    async fn load<S: Store + 'static>(
        &self,
        open: impl FnOnce() -> Result<S, StoreError> + Send + 'static,
    ) -> Result<RunningWriter, RunError> {
        let mut fold = Fold::new(Arc::clone(&self.table), self.config.max_phone_numbers);
        let load = move || {
            let mut store = open()?;
            store.load(&mut |record| fold.restore(record))?;
            match store.probe() {
                Ok(()) => Ok((fold, store, true)),
                Err(error) if error.is_fatal() => Err(error),
                Err(error) => {
                    error!(
                        %error,
                        "the storage takes no changes; webhooks are answered 503 until it does"
                    );
                    Ok((fold, store, false))
                }
            }
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let (fold, store, is_up) =
            loaded.map_err(|error| RunError::Defect(error.to_string()))??;
        self.show_heartbeats(&fold);
        let phone_numbers = fold.phone_numbers();
        self.telemetry
            .phone_numbers
            .set(i64::try_from(phone_numbers).unwrap_or(i64::MAX));
        self.writer_status.set_storage(is_up, &self.telemetry);
        let telemetry = Arc::clone(&self.telemetry);
        let log_phone_numbers = self.config.log_phone_numbers;
        let writer = ingest::start(
            fold,
            store,
            &self.writer_status,
            telemetry,
            log_phone_numbers,
        )?;
        if is_up {
            info!(phone_numbers, "ready");
        }
        Ok(writer)
    }

    /// Shows the signs of life that providers gave before this process began.
    fn show_heartbeats(&self, fold: &Fold) {
        for (provider, heartbeat) in fold.heartbeats() {
            let Some(metrics) = self.telemetry.provider(provider) else {
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

    /// Serves until it is told to stop, and then finishes what is in flight; or until a part of the
    /// program ends by itself, which is the end of the program.
    async fn serve_until(
        &self,
        shutdown: impl Future<Output = ()>,
        tasks: &mut Tasks,
        mut writer: RunningWriter,
        reloads: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::select! {
            result = writer.ended() => match result {
                Some(result) => Ok(result?),
                None => Err(RunError::Defect("the writer panicked".into())),
            },
            name = tasks.ended() => Err(RunError::Defect(format!("the {name} listener ended"))),
            () = reloads => Err(RunError::Defect("reloads ended".into())),
            () = shutdown => {
                info!("stopping: finishing what is in flight");
                self.stop.send_replace(true);
                tasks.drain().await;
                // Every request is answered; what may still be queued is of senders that hung up.
                writer.stop().await;
                Ok(())
            }
        }
    }
}

/// Says once which providers are off, and of which anybody may send webhooks.
fn log_access(endpoints: &[Endpoint]) {
    for Endpoint {
        provider,
        authenticator,
    } in endpoints
    {
        let provider = provider.name.as_str();
        if !authenticator.is_on() {
            info!(
                provider,
                "provider is off, and its paths are 404: it has no secret"
            );
        } else if authenticator.is_open() {
            warn!(
                provider,
                "provider is not authenticated: anybody who reaches the listener can send its \
                 webhooks"
            );
        }
    }
}

/// Tasks that run as long as the program: the end of any of them is the end of the program.
#[derive(Default)]
struct Tasks {
    running: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.push((id, name));
    }

    /// Accepts connections on each of these sockets.
    fn serve<H: Handler>(
        &mut self,
        name: &'static str,
        listeners: Vec<TcpListener>,
        handler: &Arc<H>,
        connections: &Arc<Connections>,
        stop: &watch::Sender<bool>,
    ) -> io::Result<()> {
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            info!(listener = name, address = %listener.local_addr()?, "listening");
            self.spawn(
                name,
                http::serve(
                    listener,
                    Arc::clone(handler),
                    Arc::clone(connections),
                    stop.subscribe(),
                ),
            );
        }
        Ok(())
    }

    /// Waits until one of them ends, and says which; a panic is an end.
    async fn ended(&mut self) -> &'static str {
        let id = match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        let name = self.names.iter().find(|(known, _)| *known == id);
        name.map_or("task", |(_, name)| name)
    }

    /// Waits until all have ended, which they do when they are told to stop; at most 10 s.
    async fn drain(&mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            warn!("stopping although requests are in flight: 10 seconds have passed");
            self.running.shutdown().await;
        }
    }
}

/// Connections of the web and of the webhook listeners, so that neither takes the descriptors that
/// the other or the storage needs.
fn max_connections(descriptors: usize) -> [usize; 2] {
    let free = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    let web = free / 4;
    let [most_web, most_webhook] = MAX_CONNECTIONS;
    [web.clamp(2, most_web), (free - web).clamp(2, most_webhook)]
}

/// Raises the soft limit of file descriptors to the hard one, and says what it is.
fn raise_descriptors() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        let before = limit.current;
        limit.current = limit.maximum;
        let allowed = setrlimit(Resource::Nofile, limit).map_or(before, |()| limit.maximum);
        allowed.map_or(usize::MAX, |allowed| {
            usize::try_from(allowed).unwrap_or(usize::MAX)
        })
    }
    #[cfg(not(unix))]
    1024
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn end_or_panic_of_a_task_is_noticed_by_its_name() {
        let mut tasks = Tasks::default();
        tasks.spawn("a task that goes on", std::future::pending());
        tasks.spawn("a task that ends", async {});
        assert_eq!(tasks.ended().await, "a task that ends");
        tasks.spawn("a task that panics", async { panic!("on purpose") });
        assert_eq!(tasks.ended().await, "a task that panics");
    }
}
