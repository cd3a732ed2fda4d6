//! TLS, with a certificate that is made for the run.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// `Authorization` of the user of [`Tls::web_config`].
pub const PASSWORD: &str = "Authorization: Basic YmVuY2g6YmVuY2htYXJr\r\n";
/// The cost of a password's hash that the toolkit's documentation has.
const COST: u32 = 10;

/// A server's certificate in a folder, and a client that trusts it.
#[derive(Clone)]
pub struct Tls {
    folder: PathBuf,
    client: Arc<ClientConfig>,
}

/// A connection that is kept.
pub struct Connection(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Tls {
    /// Writes a certificate, its key, and a web configuration into a folder.
    pub fn new(folder: &Path) -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("to write");
        write("server.pem", &cert.pem());
        write("server.key", &signing_key.serialize_pem());
        let hash = bcrypt::hash("benchmark", COST).expect("a hash");
        let config = format!(
            "tls_server_config: {{cert_file: server.pem, key_file: server.key}}\n\
             basic_auth_users: {{bench: {hash}}}\n"
        );
        write("web.yml", &config);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("an authority");
        let client = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            folder: folder.into(),
            client: Arc::new(client),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn web_config(&self) -> PathBuf {
        self.folder.join("web.yml")
    }

    /// A connection whose handshake comes with the first request.
    pub fn connect(&self, address: SocketAddr) -> std::io::Result<Connection> {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(Arc::clone(&self.client), name).expect("a client");
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::with_capacity(
            64 << 10,
            StreamOwned::new(client, stream),
        )))
    }

    /// Whether a request is answered 200.
    pub fn is_ok(&self, address: SocketAddr, path: &str, headers: &str) -> bool {
        let connection = self.connect(address);
        connection.is_ok_and(|mut connection| connection.get(path, headers).is_ok())
    }
}

impl Connection {
    /// Makes the handshake, where it is not made yet.
    pub fn handshake(&mut self) -> std::io::Result<()> {
        let stream = self.0.get_mut();
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(())
    }

    /// The body of an answer that is 200.
    pub fn get(&mut self, path: &str, headers: &str) -> std::io::Result<Vec<u8>> {
        let stream = self.0.get_mut();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        )?;
        stream.flush()?;
        let mut length = None;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let is_ok = line.starts_with("HTTP/1.1 200");
        while line.trim_end() != "" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
            line.clear();
            self.0.read_line(&mut line)?;
        }
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        match is_ok {
            true => Ok(body),
            false => Err(std::io::Error::other("an answer other than 200")),
        }
    }
}

/// What a server of this program shows, from the folder of a [`Tls`].
pub fn server(folder: &Path) -> Arc<ServerConfig> {
    let chain = CertificateDer::from_pem_file(folder.join("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
    let server = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("a certificate and its key");
    Arc::new(server)
}
