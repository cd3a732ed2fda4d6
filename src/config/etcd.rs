//! How a cluster of etcd is reached.

use std::{path::PathBuf, time::Duration};

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members, such as `https://etcd-1:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// The certificates of authorities that vouch for the members; without them, the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate of this client.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The name of etcd's user.
    pub username_file: Option<PathBuf>,
    /// Its password.
    pub password_file: Option<PathBuf>,
    /// How long one member may take to answer.
    pub request_timeout: Duration,
}

impl EtcdOptions {
    /// The prefix where none is given.
    pub const PREFIX: &str = "/whatsapp-quality-exporter/";

    /// Whether any member is asked by TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.endpoints
            .iter()
            .any(|endpoint| endpoint.starts_with("https://"))
    }
}
