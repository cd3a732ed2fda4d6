//! Tasks that run as long as the program, and how they are ended.

use std::{future::Future, io, net::TcpListener, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::timeout,
};
use tracing::warn;

use crate::http::{self, Connections, Handler};

/// For requests in flight when the program is to end.
const GRACE: Duration = Duration::from_secs(10);

/// Tasks that run as long as the program: the end of any of them is the end of the program.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.running.spawn(task).id();
        self.names.push((id, name));
    }

    /// Accepts connections on each of these sockets.
    pub(super) fn serve<H: Handler>(
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
    pub(super) async fn ended(&mut self) -> &'static str {
        let id = match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        let name = self.names.iter().find(|(known, _)| *known == id);
        name.map_or("task", |(_, name)| name)
    }

    /// Waits until all have ended, which they do when they are told to stop; at most 10 s.
    pub(super) async fn drain(&mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            warn!("stopping although requests are in flight: 10 seconds have passed");
            self.running.shutdown().await;
        }
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
