//! How a provider stands: where it sends, whether it has sent, and what is missing.

use super::{super::Endpoint, Moment};
use crate::{
    domain::Timestamp,
    providers::Proof,
    telemetry::{ProviderMetrics, TimeGauge},
};

/// How a provider stands.
pub(super) struct Standing {
    pub(super) title: &'static str,
    pub(super) url: String,
    pub(super) proof: &'static str,
    pub(super) has_handshake: bool,
    pub(super) last_handshake: Option<Moment>,
    pub(super) last_accepted: Option<Moment>,
    pub(super) last_change: Option<Moment>,
    pub(super) advice: String,
}

impl Standing {
    pub(super) fn new(
        endpoint: &Endpoint,
        metrics: Option<&ProviderMetrics>,
        external_url: Option<&str>,
        now: Timestamp,
    ) -> Self {
        let Endpoint {
            provider,
            authenticator,
        } = endpoint;
        let moment = |of: fn(&ProviderMetrics) -> &TimeGauge| {
            let at = of(metrics?).get()?;
            Some(Moment::new(at, now))
        };
        let is_on = authenticator.is_on();
        let token = match authenticator.takes_token() {
            true => "/TOKEN",
            false => "",
        };
        let host = external_url.unwrap_or("https://HOST");
        let standing = Self {
            title: provider.title,
            url: format!("{host}/webhooks/{}{token}", provider.name),
            proof: match provider.proof {
                _ if !is_on => "off",
                _ if authenticator.is_open() => "nothing",
                Proof::Signature(_) => "signature",
                Proof::Token => "token",
                Proof::SignatureOrToken(_) if authenticator.takes_token() => "token",
                Proof::SignatureOrToken(_) => "signature",
            },
            has_handshake: provider.handshake,
            last_handshake: moment(|metrics| &metrics.last_handshake),
            last_accepted: moment(|metrics| &metrics.last_accepted),
            last_change: moment(|metrics| &metrics.last_change),
            advice: String::new(),
        };
        let flags: Vec<_> = provider
            .secrets()
            .map(|kind| format!("--{}", kind.flag(provider.name)))
            .collect();
        Self {
            advice: standing.advice(is_on, authenticator.is_open(), &flags),
            ..standing
        }
    }

    /// What the operator has to do next, in a sentence; nothing where nothing is missing.
    fn advice(&self, is_on: bool, is_open: bool, flags: &[String]) -> String {
        let flag = flags.first().map_or("", String::as_str);
        if !is_on {
            format!("Set its secret by {flag} if you use it.")
        } else if is_open {
            format!(
                "Anybody who reaches the listener can forge its webhooks: set its secret by {flag}."
            )
        } else if self.has_handshake
            && self.last_handshake.is_none()
            && self.last_accepted.is_none()
        {
            let flag = flags.get(1).map_or("", String::as_str);
            format!(
                "Enter the URL and the verify token ({flag}) in its console, and verify it there."
            )
        } else if self.last_accepted.is_none() {
            "Enter the URL in its console, and try it with whatsapp-quality-exporter send.".into()
        } else if self.last_change.is_none() {
            "Webhooks come, but none that changes a quality or a limit: subscribe to the fields that \
             the documentation of the providers names."
                .into()
        } else {
            "nothing".into()
        }
    }
}
