//! What systemd passes to the program and is told about it.
//!
//! It is told nothing where it did not start the program with `Type=notify`: then there is no
//! `NOTIFY_SOCKET`.

use std::{env, future, io, net::TcpListener};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::warn;

use super::Listeners;
use crate::config::Role;

/// The `FileDescriptorName` of the private sockets.
const WEB: &str = Role::Web.as_str();
/// The `FileDescriptorName` of the public sockets.
const WEBHOOK: &str = Role::Webhook.as_str();

/// Why the sockets that systemd passes cannot be used; the operator is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The program was not started by way of a socket unit.
    #[error(
        "--web.systemd-socket is set, but systemd passed no socket to this process; start the \
         socket units before the service, or leave the flag out to listen on \
         --web.listen-address and --webhook.listen-address"
    )]
    None,
    /// A socket is of no role.
    #[error(
        "systemd passed a socket with the name {0:?}, which is no listener of this program; write \
         FileDescriptorName={WEB} (private) or FileDescriptorName={WEBHOOK} (public) in its unit"
    )]
    Name(String),
    /// A role has no socket.
    #[error(
        "systemd passed no socket with the name {0:?}; start a socket unit with \
         FileDescriptorName={0}, too"
    )]
    Missing(&'static str),
    /// A socket is not one that TCP connections are accepted on.
    #[error(
        "the socket with the name {name:?} cannot be used: {source}; write an address of TCP in \
         its unit, such as ListenStream=127.0.0.1:10877"
    )]
    Kind {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
}

/// The sockets that systemd passes, by their names: the protocol of `sd_listen_fds_with_names(3)`.
///
/// # Errors
///
/// Where there are none, where one has another name or is not of TCP, and where a role has none.
pub(super) fn listeners() -> Result<Listeners, SocketError> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return Err(SocketError::None);
    }
    let (mut web, mut webhook) = (Vec::new(), Vec::new());
    for index in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        let of_role: &mut Vec<TcpListener> = match name {
            WEB => &mut web,
            WEBHOOK => &mut webhook,
            _ => return Err(SocketError::Name(name.to_owned())),
        };
        let taken = passed.take_tcp_listener(index);
        of_role.extend(taken.map_err(|source| SocketError::Kind {
            name: name.to_owned(),
            source,
        })?);
    }
    for (name, of_role) in [(WEB, &web), (WEBHOOK, &webhook)] {
        if of_role.is_empty() {
            return Err(SocketError::Missing(name));
        }
    }
    Ok(Listeners { web, webhook })
}

/// Tells systemd that the stored state is loaded and webhooks are received.
pub(super) fn ready() {
    notify(NotifyState::Ready);
}

/// Tells systemd that the program is about to end.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

/// Shows systemd that the event loop of webhooks turns, at twice the pace that the unit's
/// `WatchdogSec` asks for; it never resolves.
pub(super) async fn keep_alive() {
    let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())
    else {
        return future::pending().await;
    };
    let mut turns = interval(patience / 2);
    loop {
        turns.tick().await;
        notify(NotifyState::Watchdog);
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "systemd was not told the state of the program (NOTIFY_SOCKET)");
    }
}
