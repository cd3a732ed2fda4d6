//! Requests to a cluster: of one member, and where it does not answer, of the next.

use std::{
    fs,
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, GetOptions, Identity, KeyValue, KvClient,
    TlsOptions, Txn, TxnResponse,
};
use tokio::time::{sleep, timeout};

use super::super::{StoreError, StoreErrorKind, document::Unreadable};
use crate::config::EtcdOptions;

/// Documents that are read at once. Most have a kilobyte, and an account's with everything 55.
const PAGE: i64 = 1000;
/// The greatest answer that is taken.
const ANSWER_BYTES: usize = 128 << 20;
/// How often a connection is tried. etcd ends those of clients that do it more often than every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The pause after no member has answered.
const PAUSE: Duration = Duration::from_millis(100);
/// The value of a key without a document.
const NOTHING: &str = "{}";

/// A cluster of etcd.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    options: EtcdOptions,
    current: usize,
    client: Option<ClientOfMember>,
}

/// The client of one member: the library's own choice among members does not leave one that is
/// silent.
#[derive(Clone)]
struct ClientOfMember(Client);

impl std::fmt::Debug for ClientOfMember {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

/// Why a transaction has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The cluster refused it: it is not stored.
    Refused(StoreError),
    /// No answer came: nobody knows whether it is stored. What happened, in words.
    Unknown(String),
}

impl Cluster {
    /// # Errors
    ///
    /// Where a file cannot be used.
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let cluster = Self {
            options,
            current: 0,
            client: None,
        };
        cluster.connect_options()?;
        Ok(cluster)
    }

    /// The files are read for each connection, so that a certificate can be renewed.
    fn connect_options(&self) -> Result<ConnectOptions, StoreError> {
        let options = &self.options;
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.request_timeout)
            .with_keep_alive(KEEP_ALIVE, options.request_timeout)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if options.is_encrypted() {
            let mut tls = TlsOptions::new();
            tls = match &options.ca_file {
                Some(path) => tls.ca_certificate(Certificate::from_pem(read_pem(path)?)),
                None => tls.with_native_roots(),
            };
            if let Some((certificate, key)) =
                options.cert_file.as_ref().zip(options.key_file.as_ref())
            {
                tls = tls.identity(Identity::from_pem(read_pem(certificate)?, read_pem(key)?));
            }
            connect = connect.with_tls(tls);
        }
        if let Some((name, password)) = options
            .username_file
            .as_ref()
            .zip(options.password_file.as_ref())
        {
            let [name, password] = [read(name)?, read(password)?];
            connect = connect
                .with_user(name.trim(), password.trim_end_matches(['\r', '\n']))
                .with_auto_token_refresh(true);
        }
        Ok(connect)
    }

    /// The endpoint of the member that is asked, as the operator gave it.
    pub(super) fn endpoint(&self) -> &str {
        let endpoints = &self.options.endpoints;
        endpoints.get(self.current).map_or("", String::as_str)
    }

    /// Asks the next member from now on, by a new connection.
    pub(super) fn rotate(&mut self) {
        self.client = None;
        self.current = (self.current + 1) % self.options.endpoints.len().max(1);
    }

    /// Gives up a request after the timeout, and the member with it.
    async fn ask<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        let limit = self.options.request_timeout;
        let asked = async {
            let client = match &self.client {
                Some(ClientOfMember(client)) => client.clone(),
                None => {
                    let options = self.connect_options().map_err(Failure::Refused)?;
                    let client = Client::connect([self.endpoint()], Some(options)).await;
                    let client = client.map_err(|error| self.failure(&error))?;
                    self.client = Some(ClientOfMember(client.clone()));
                    client
                }
            };
            request(client).await.map_err(|error| self.failure(&error))
        };
        let result = match timeout(limit, asked).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Unknown(format!("no answer within {limit:?}"))),
        };
        match result {
            Err(Failure::Unknown(_)) => self.rotate(),
            // A token may be refused that a new connection would not have.
            Err(Failure::Refused(_)) => self.client = None,
            Ok(_) => {}
        }
        result
    }

    /// Asks each member until one answers, again and again for the time that one has, because there is
    /// none for a moment when the cluster chooses a leader. The request may happen more than once.
    async fn ask_any<T, F: Future<Output = Result<T, Error>>>(
        &mut self,
        mut request: impl FnMut(Client) -> F,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.options.request_timeout;
        loop {
            let mut what = String::new();
            for _ in 0..self.options.endpoints.len() {
                match self.ask(&mut request).await {
                    Ok(answer) => return Ok(answer),
                    Err(Failure::Refused(error)) => return Err(error),
                    Err(Failure::Unknown(error)) => what = error,
                }
            }
            if Instant::now() > deadline {
                return Err(StoreError::etcd_unavailable(&what));
            }
            sleep(PAUSE).await;
        }
    }

    /// Commits a transaction, once.
    pub(super) async fn commit(&mut self, transaction: Txn) -> Result<TxnResponse, Failure> {
        self.ask(|client| async move { kv(&client).txn(transaction).await })
            .await
    }

    /// Does a transaction that only reads.
    pub(super) async fn read(&mut self, transaction: &Txn) -> Result<TxnResponse, StoreError> {
        self.ask_any(|client| {
            let transaction = transaction.clone();
            async move { kv(&client).txn(transaction).await }
        })
        .await
    }

    /// Puts a key without a document, and returns the revision.
    pub(super) async fn put(&mut self, key: Vec<u8>) -> Result<i64, StoreError> {
        let response = self.ask_any(|client| {
            let key = key.clone();
            async move { kv(&client).put(key, NOTHING, None).await }
        });
        let response = response.await?;
        Ok(response.header().map_or(0, |header| header.revision()))
    }

    /// A page of the documents from a key on, at a revision or, where that is 0, now. With it the
    /// revision, and whether there are more.
    pub(super) async fn page(
        &mut self,
        from: Vec<u8>,
        end: Vec<u8>,
        revision: i64,
    ) -> Result<(Vec<KeyValue>, i64, bool), StoreError> {
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(PAGE)
            .with_revision(revision);
        let response = self.ask_any(|client| {
            let (from, options) = (from.clone(), options.clone());
            async move { kv(&client).get(from, Some(options)).await }
        });
        let mut response = response.await?;
        let revision = match revision {
            0 => response.header().map_or(0, |header| header.revision()),
            given => given,
        };
        Ok((response.take_kvs(), revision, response.more()))
    }

    /// All documents with a prefix, as they are at one moment.
    pub(super) async fn list(&mut self, prefix: Vec<u8>) -> Result<Vec<KeyValue>, StoreError> {
        let end = end_of(&prefix);
        let mut all = Vec::new();
        let (mut from, mut revision) = (prefix, 0);
        loop {
            let (page, at, has_more) = self.page(from, end.clone(), revision).await?;
            revision = at;
            from = page.last().map(after).unwrap_or_default();
            all.extend(page);
            if !has_more || from.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Whether there is no key with a prefix.
    pub(super) async fn is_empty(&mut self, prefix: &[u8]) -> Result<bool, StoreError> {
        let page = self.page(prefix.to_vec(), end_of(prefix), 0).await?;
        Ok(page.0.is_empty())
    }

    /// The size of the database of the member that is asked, in bytes.
    pub(super) async fn size(&mut self) -> Result<u64, StoreError> {
        let status =
            self.ask_any(|client| async move { client.maintenance_client().status().await });
        Ok(u64::try_from(status.await?.db_size()).unwrap_or(0))
    }

    /// A client for a watch.
    pub(super) async fn client(&mut self) -> Result<Client, StoreError> {
        self.ask_any(|client| async move { Ok(client) }).await
    }

    fn failure(&self, error: &Error) -> Failure {
        let Error::GRpcStatus(status) = error else {
            return Failure::Unknown(error.to_string());
        };
        let what = status.message();
        match status.code() as i32 {
            RESOURCE_EXHAUSTED if what.contains("space exceeded") => {
                Failure::Refused(StoreError::etcd_full(what))
            }
            INVALID_ARGUMENT | PERMISSION_DENIED | FAILED_PRECONDITION => {
                Failure::Refused(StoreError::etcd_refused(self.endpoint(), what))
            }
            _ => Failure::Unknown(format!("{}: {}", self.endpoint(), status.message())),
        }
    }
}

// Codes of gRPC.
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES)
}

/// The watch of a client.
pub(super) fn watch(client: &Client) -> etcd_client::WatchClient {
    client
        .watch_client()
        .max_decoding_message_size(ANSWER_BYTES)
}

/// The end of the range of all keys with a prefix.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        match last.checked_add(1) {
            Some(next) => {
                *last = next;
                return end;
            }
            None => {
                end.pop();
            }
        }
    }
    // All keys.
    vec![0]
}

/// The key after that of a document.
pub(super) fn after(kv: &KeyValue) -> Vec<u8> {
    [kv.key(), &[0]].concat()
}

fn read(path: &Path) -> Result<String, StoreError> {
    fs::read_to_string(path).map_err(|source| StoreError::etcd_file(path, &source.to_string()))
}

/// The library takes a file without certificates as one with none of them.
fn read_pem(path: &Path) -> Result<String, StoreError> {
    let text = read(path)?;
    match text.contains("-----BEGIN ") {
        true => Ok(text),
        false => Err(StoreError::etcd_file(
            path,
            "it holds nothing in the PEM format",
        )),
    }
}

impl StoreError {
    pub(super) fn etcd_unavailable(what: &str) -> Self {
        let sentence = format!(
            "etcd does not answer ({what}); see that most of its members run and that this process \
             reaches them (--storage.etcd.endpoints)"
        );
        Self::new(StoreErrorKind::Unavailable, sentence)
    }

    fn etcd_refused(endpoint: &str, what: &str) -> Self {
        let sentence = format!(
            "etcd at {endpoint} refuses a request: {what}; see the rights of its user, and that its \
             --max-txn-ops and --max-request-bytes are not below their defaults"
        );
        Self::new(StoreErrorKind::Unavailable, sentence)
    }

    fn etcd_full(what: &str) -> Self {
        let sentence = format!(
            "etcd has no room: {what}; compact and defragment it, or raise its \
             --quota-backend-bytes, and then disarm its alarm"
        );
        Self::new(StoreErrorKind::Full, sentence)
    }

    fn etcd_file(path: &Path, what: &str) -> Self {
        let path = path.display();
        let sentence = format!("cannot use the file {path} for etcd: {what}");
        Self::new(StoreErrorKind::Unavailable, sentence)
    }

    pub(super) fn etcd_not_empty() -> Self {
        let sentence = "there is something below the prefix in etcd; name another prefix, or remove \
                        what is there";
        Self::new(StoreErrorKind::Unavailable, sentence.into())
    }

    pub(super) fn etcd_unreadable(error: Unreadable) -> Self {
        let (kind, what) = match error {
            Unreadable::Newer(what) => (StoreErrorKind::Newer, what),
            Unreadable::Damaged(what) => (StoreErrorKind::Damaged, what.into()),
        };
        Self::new(kind, format!("a document in etcd cannot be read: {what}"))
    }

    /// What this replica knows is newer than what the cluster has.
    pub(super) fn restored() -> Self {
        let sentence = "an older state of etcd was restored; this replica reads it anew, and puts \
                        back what it knows";
        Self::new(StoreErrorKind::Unavailable, sentence.into())
    }

    /// The task that follows the cluster has ended, which it does with the program.
    pub(super) fn no_watch() -> Self {
        Self::new(StoreErrorKind::Lost, "nothing follows etcd any more".into())
    }

    pub(super) fn unwritable(error: serde_json::Error) -> Self {
        let sentence = format!("a document cannot be written: {error}");
        Self::new(StoreErrorKind::Unavailable, sentence).because(error)
    }
}
