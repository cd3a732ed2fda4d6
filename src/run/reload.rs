//! Secrets: which provider proves its webhooks with which, at start and after each reload.

use std::{future, sync::Arc};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::Program;
use crate::{
    config::{ConfigError, Secrets},
    http::{Authenticator, Endpoint, Reload, Webhooks},
    providers,
};

/// What asks for a reload: a signal, or a request to the private listener.
pub(super) struct ReloadSources {
    pub(super) hangups: mpsc::Receiver<()>,
    pub(super) requests: mpsc::Receiver<Reload>,
}

/// The public listener and the secrets that it has.
pub(super) struct WebhookListener {
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) secrets: Secrets,
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

    /// Reads the secrets again whenever that is asked for; it never resolves.
    pub(super) async fn reload_always(
        &self,
        mut sources: ReloadSources,
        listener: &mut WebhookListener,
    ) {
        loop {
            tokio::select! {
                Some(()) = sources.hangups.recv() => drop(self.reload(listener)),
                Some(reply) = sources.requests.recv() => {
                    // The client may have hung up.
                    let _ = reply.send(self.reload(listener).map_err(|error| error.to_string()));
                }
                else => future::pending().await,
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
