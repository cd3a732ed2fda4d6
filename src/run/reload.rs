//! Files that are read again: secrets, web configurations and certificates.

use std::{future, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::Program;
use crate::{
    config::{Changes, ConfigError, Role, Secrets, WebConfig},
    http::{Authenticator, Endpoint, Endpoints, Protection, Reload},
    providers,
};

/// How often the web configurations and their certificates are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What asks for a reload: a signal, or a request to the private listener.
pub(super) struct ReloadSources {
    pub(super) hangups: mpsc::Receiver<()>,
    pub(super) requests: mpsc::Receiver<Reload>,
}

/// What the files say that are in force, and the parts of the program that follow them.
pub(super) struct InForce {
    secrets: Secrets,
    endpoints: Arc<Endpoints>,
    /// The web configurations of the private and of the public listener.
    watched: [Watched; 2],
    /// The last reload of everything failed, and a web configuration that is right does not mend
    /// that.
    has_failed: bool,
}

/// The web configuration of a listener that is in force.
pub(super) struct Watched {
    role: Role,
    config: Arc<WebConfig>,
    protection: Arc<Protection>,
    /// How its files looked at the last look, where they have changed.
    changes: Option<Changes>,
    /// Why they could not be taken, when they were last read.
    error: Option<String>,
}

impl InForce {
    pub(super) fn new(secrets: Secrets, endpoints: Arc<Endpoints>, watched: [Watched; 2]) -> Self {
        Self {
            secrets,
            endpoints,
            watched,
            has_failed: false,
        }
    }
}

impl Watched {
    pub(super) fn new(role: Role, config: Arc<WebConfig>) -> Self {
        log_warnings(role, &config);
        Self {
            role,
            protection: Arc::new(Protection::new(role, Arc::clone(&config))),
            config,
            changes: None,
            error: None,
        }
    }

    /// What protects the listener.
    pub(super) fn protection(&self) -> Arc<Protection> {
        Arc::clone(&self.protection)
    }

    /// Takes a configuration; says whether it is another one.
    fn take(&mut self, config: Arc<WebConfig>) -> bool {
        let is_other = !config.is_same(&self.config);
        if is_other {
            log_warnings(self.role, &config);
            self.protection.replace(Arc::clone(&config));
        }
        self.changes = None;
        self.error = None;
        self.config = config;
        is_other
    }

    /// Whether the files have changed and look as they did at the look before, so that nobody is
    /// writing them. Files that could not be taken are read at each look, because one that was
    /// missing may be there now.
    fn is_due(&mut self) -> bool {
        let changes = self.config.changes();
        let is_settled = changes == self.changes;
        self.changes = changes;
        self.error.is_some() || is_settled && self.changes.is_some()
    }
}

fn log_warnings(role: Role, config: &WebConfig) {
    for warning in &config.warnings {
        warn!(listener = role.as_str(), "{warning}");
    }
}

impl Program {
    /// The providers, and how each proves its requests with these secrets.
    pub(super) fn endpoints(&self, secrets: &Secrets) -> Vec<Endpoint> {
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

    /// Reads the files again whenever that is asked for, and the web configurations also when they
    /// have changed; it never resolves.
    pub(super) async fn reload_always(&self, mut sources: ReloadSources, in_force: &mut InForce) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = sources.hangups.recv() => drop(self.reload(in_force)),
                Some(reply) = sources.requests.recv() => {
                    // The client may have hung up.
                    let _ = reply.send(self.reload(in_force).map_err(|error| error.to_string()));
                }
                _ = looks.tick() => self.look(in_force),
                else => future::pending().await,
            }
        }
    }

    /// Takes the files as they are now, from the next request on, or none of them.
    fn reload(&self, in_force: &mut InForce) -> Result<(), ConfigError> {
        let [web, webhook] = in_force.watched.each_ref().map(|watched| &*watched.config);
        let files = self.config.read_files(web, webhook).inspect_err(|error| {
            in_force.has_failed = true;
            self.telemetry.reload.note(false);
            error!(%error, "reload failed: everything before it stays in use");
        })?;
        let changed = files.secrets.changed(&in_force.secrets);
        if !changed.is_empty() {
            self.telemetry.forget_secrets();
            in_force.endpoints.replace(self.endpoints(&files.secrets));
        }
        in_force.secrets = files.secrets;
        let mut changed: Vec<_> = changed.iter().map(|provider| provider.as_str()).collect();
        for (watched, config) in in_force.watched.iter_mut().zip([files.web, files.webhook]) {
            if watched.take(config) {
                changed.push(watched.role.flag());
            }
        }
        let changed = changed.join(",");
        info!(changed, "secrets and web configurations read again");
        in_force.has_failed = false;
        self.telemetry.reload.note(true);
        Ok(())
    }

    /// Takes each web configuration of which a file has changed.
    fn look(&self, in_force: &mut InForce) {
        let mut was_read = false;
        for watched in &mut in_force.watched {
            if watched.is_due() {
                was_read = true;
                self.read_again(watched);
            }
        }
        if was_read {
            let is_right = |watched: &Watched| watched.error.is_none();
            let are_right = in_force.watched.iter().all(is_right);
            self.telemetry
                .reload
                .note(are_right && !in_force.has_failed);
        }
    }

    fn read_again(&self, watched: &mut Watched) {
        match self.config.read_web_config(watched.role, &watched.config) {
            Ok(config) => {
                if watched.take(config) {
                    let changed = watched.role.flag();
                    info!(changed, "web configuration read again");
                }
            }
            Err(error) => {
                let reason = error.to_string();
                if watched.error.as_ref() != Some(&reason) {
                    error!(%error, "web configuration not taken: the one before stays in use");
                }
                watched.error = Some(reason);
            }
        }
    }
}

/// Says once which providers are off, and of which anybody may send webhooks.
pub(super) fn log_access(endpoints: &[Endpoint]) {
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
