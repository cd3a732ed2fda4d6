//! What systemd is told about the program, where it started the program with `Type=notify`.
//!
//! Elsewhere there is no `NOTIFY_SOCKET`, and nothing is sent.

use std::future;

use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::warn;

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
