//! Addresses to listen on, as Prometheus writes them.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    str::FromStr,
};

/// `HOST:PORT` or `:PORT`, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(Vec<SocketAddr>);

impl ListenAddress {
    /// The addresses it resolved to; the first that can be bound is used.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error: &dyn fmt::Display| format!("expected HOST:PORT or :PORT: {error}");
        let addresses: Vec<_> = match text.strip_prefix(':') {
            Some(port) => {
                let port = port.parse::<u16>().map_err(|error| wrong(&error))?;
                vec![
                    (Ipv6Addr::UNSPECIFIED, port).into(),
                    (Ipv4Addr::UNSPECIFIED, port).into(),
                ]
            }
            None => text
                .to_socket_addrs()
                .map_err(|error| wrong(&error))?
                .collect(),
        };
        if addresses.is_empty() {
            Err("the host has no address".into())
        } else {
            Ok(Self(addresses))
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some(address) => address.fmt(f),
            None => Ok(()),
        }
    }
}
