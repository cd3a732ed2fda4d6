//! How many connections each role may have, by the configuration and the file descriptors.

use std::time::Duration;

use crate::{config::Config, http::Limits};

/// How long a scraper's connection may wait for the next scrape.
const WEB_IDLE: Duration = Duration::from_secs(300);
/// How long a sender's connection may wait: proxies keep connections for 60 to 75 seconds.
const WEBHOOK_IDLE: Duration = Duration::from_secs(90);
/// File descriptors for the storage, the listeners, the log and the event loops.
const RESERVED_DESCRIPTORS: usize = 32;
/// More connections than these do not help, and each takes memory.
const MAX_CONNECTIONS: [usize; 2] = [256, 4096];

/// The limits of both roles.
pub(super) struct RoleLimits {
    pub(super) web: Limits,
    pub(super) webhook: Limits,
}

impl RoleLimits {
    /// The limits where the process may have so many file descriptors.
    pub(super) fn new(config: &Config, descriptors: usize) -> Self {
        let [web, webhook] = max_connections(descriptors);
        let given_or = |given: usize, derived| if given == 0 { derived } else { given };
        Self {
            web: Limits {
                max_connections: given_or(config.max_web_connections, web),
                max_idle: WEB_IDLE,
                trusted_proxies: Vec::new(),
            },
            webhook: Limits {
                max_connections: given_or(config.max_webhook_connections, webhook),
                max_idle: WEBHOOK_IDLE,
                trusted_proxies: config.trusted_proxies.clone(),
            },
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
pub(super) fn raise_descriptors() -> usize {
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
