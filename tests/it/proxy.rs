//! Webhooks that come through a real nginx, Caddy and HAProxy, as they are shipped in `deploy`.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
    sync::Arc,
    thread,
};

use rustls::ClientConfig;
use whatsapp_quality_exporter::providers::{self, Example};

use crate::{
    support::{Answer, Exporter, fixture, https, request, sign, wait_for},
    tls::Certificates,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn nginx_as_it_comes_passes_signed_webhooks_and_makes_no_provider_public() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start_bare(
        storage.path(),
        &[],
        &[("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET)],
    );
    let nginx = Proxy::plain_nginx(&format!(
        "location /webhooks/ {{ proxy_pass http://{}; }}",
        exporter.webhook
    ));

    let body = downgrade("");
    let accepted = nginx.signed(&sign(SECRET, body.as_bytes()), &body);
    println!("signed: {} {}", accepted.status, accepted.text());
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    assert_eq!(accepted.json()["applied"], 1);
    let limit = [("provider", "meta"), ("phone_number", "15550783881")];
    assert_eq!(
        exporter.value("whatsapp_phone_number_messaging_limit", &limit),
        Some(1000.0)
    );

    // nginx takes 1 MiB as it comes.
    let large = downgrade(&"x".repeat(2 << 20));
    let refused = nginx.signed(&sign(SECRET, large.as_bytes()), &large);
    assert_eq!(refused.status, 413, "{}", refused.text());

    let forged = body
        .replace("TIER_1K", "TIER_50")
        .replace("15550783881", "15550783882");
    let refused = nginx.signed(&sign("another", forged.as_bytes()), &forged);
    println!(
        "signed with another secret: {} {}",
        refused.status,
        refused.text()
    );
    assert_eq!(refused.status, 401, "{}", refused.text());
    for provider in providers::ALL
        .iter()
        .filter(|provider| provider.name.as_str() != "meta")
    {
        let path = format!("/webhooks/{}", provider.name.as_str());
        let answer = match provider.example {
            Example::Json(body) => nginx.request("POST", &path, &[], body.as_bytes()),
            Example::Query(query) => nginx.request("GET", &format!("{path}?{query}"), &[], b""),
        };
        println!(
            "forged for {}: {} {}",
            provider.name.as_str(),
            answer.status,
            answer.text()
        );
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }

    let samples = exporter.samples();
    let others: Vec<_> = samples
        .iter()
        .filter(|sample| sample.name.starts_with("whatsapp_phone_number_"))
        .filter(|sample| {
            limit
                .iter()
                .any(|(label, value)| sample.labels[*label] != *value)
        })
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(1.0)
    );
}

#[test]
fn proxies_as_shipped_pass_webhooks_and_nothing_else_and_log_no_token() {
    const TOKEN: &str = "a-token-of-ours";
    let secrets = [
        ("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET),
        ("WHATSAPP_EXPORTER_8X8_TOKEN", TOKEN),
    ];
    for start in [Proxy::nginx, Proxy::caddy, Proxy::haproxy] {
        let storage = tempfile::tempdir().unwrap();
        let mut exporter = Exporter::start_bare(storage.path(), &[], &secrets);
        let proxy = start(&exporter);
        let name = proxy.name;
        for (filling, outcome) in [(0, "applied"), (3 << 20, "duplicate")] {
            let body = downgrade(&"x".repeat(filling));
            let signed = proxy.signed(&sign(SECRET, body.as_bytes()), &body);
            assert_eq!(signed.status, 200, "{name}: {}", signed.text());
            assert_eq!(signed.json()[outcome], 1, "{name}: {}", signed.text());
            let unsigned = proxy.request("POST", "/webhooks/meta", &[], body.as_bytes());
            assert_eq!(unsigned.status, 401, "{name}: {}", unsigned.text());
        }
        let limit = exporter.value("whatsapp_phone_number_messaging_limit", &[]);
        assert_eq!(limit, Some(1000.0), "{name}");
        for path in [
            "/metrics",
            "/-/ready",
            "/api/v1/phone_numbers",
            "/elsewhere",
        ] {
            assert_eq!(
                proxy.request("GET", path, &[], b"").status,
                404,
                "{name}: {path}"
            );
        }

        let path = format!("/webhooks/8x8/{TOKEN}");
        let send = || proxy.request("POST", &path, &[], b"{}").status;
        assert_eq!(send(), 200, "{name}");
        assert!(exporter.end("TERM").success());
        assert!(
            [502, 503].contains(&send()),
            "{name}: an exporter that is not there"
        );
        wait_for("the proxy to log", || !proxy.logs().is_empty());
        let logs = proxy.logs();
        assert!(!logs.contains(TOKEN), "{name}: {logs}");
        println!(
            "{name}: signed 200, unsigned 401, of 3 MiB 200, elsewhere 404; its logs:\n{logs}"
        );
    }
}

#[test]
fn nginx_logs_no_token_where_its_own_files_fail() {
    const TOKEN: &str = "a-token-of-ours";
    let storage = tempfile::tempdir().unwrap();
    let secrets = [("WHATSAPP_EXPORTER_8X8_TOKEN", TOKEN)];
    let exporter = Exporter::start_bare(storage.path(), &[], &secrets);
    let nginx = Proxy::nginx(&exporter);
    // A large body is kept in this folder on its way.
    fs::remove_dir_all(nginx.certificates.path("client_body")).unwrap();
    let path = format!("/webhooks/8x8/{TOKEN}");
    let large = nginx.request("POST", &path, &[], &vec![b' '; 3 << 20]);
    assert_eq!(large.status, 500, "{}", large.text());
    assert!(!nginx.logs().contains(TOKEN), "{}", nginx.logs());
}

#[test]
fn nginx_mirror_gives_another_program_the_webhook_as_it_was_signed() {
    let storage = tempfile::tempdir().unwrap();
    let secrets = [("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET)];
    let mut exporter = Exporter::start_bare(storage.path(), &[], &secrets);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = shipped("nginx-mirror.conf", &exporter);
    let location = location
        .replace("8080", &other.local_addr().unwrap().port().to_string())
        .replace("/var/log/nginx/", "");
    let nginx = Proxy::plain_nginx(&location);
    let received = thread::spawn(move || {
        let mut received = Vec::new();
        for status in ["200 OK", "500 Internal Server Error"] {
            let (stream, _) = other.accept().unwrap();
            received.push(receive(stream, status));
        }
        // From now on the other program is not there.
        received
    });
    // Longer than what nginx keeps in memory.
    let body = downgrade(&"x".repeat(100 << 10));
    let signature = sign(SECRET, body.as_bytes());
    for outcome in ["applied", "duplicate"] {
        let answer = nginx.signed(&signature, &body);
        assert_eq!(answer.json()[outcome], 1, "{}", answer.text());
    }
    for (head, copy) in received.join().unwrap() {
        assert!(head.starts_with("POST /webhook HTTP/1."), "{head}");
        let header = format!("x-hub-signature-256: {signature}\r\n");
        assert!(head.to_lowercase().contains(&header), "{head}");
        assert_eq!(copy, body.as_bytes());
    }
    assert_eq!(nginx.signed(&signature, &body).json()["duplicate"], 1);
    exporter.end("TERM");
    // Meta sends it again.
    assert_eq!(nginx.signed(&signature, &body).status, 502);
    let handshake = "/webhooks/meta?hub.mode=subscribe&hub.verify_token=a-token-of-ours";
    assert_eq!(nginx.request("GET", handshake, &[], b"").status, 502);
    assert!(
        !nginx.logs().contains("a-token-of-ours"),
        "{}",
        nginx.logs()
    );
}

/// Reads a request, and answers it with this status.
fn receive(stream: std::net::TcpStream, status: &str) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "half a request");
    }
    let lower = head.to_lowercase();
    let (_, length) = lower.split_once("content-length: ").expect("a length");
    let (length, _) = length.split_once("\r\n").unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    (head, body)
}

/// A file of `deploy`, for this exporter.
fn shipped(name: &str, exporter: &Exporter) -> String {
    fixture(&format!("../deploy/{name}")).replace("127.0.0.1:10878", &exporter.webhook.to_string())
}

/// A proxy of Debian's in a folder of its own, ended with the test.
struct Proxy {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    certificates: Certificates,
    /// Where it has TLS.
    client: Option<Arc<ClientConfig>>,
}

impl Proxy {
    /// nginx without TLS, with something in its one server.
    fn plain_nginx(inside: &str) -> Self {
        let mut nginx = Self::start_nginx(Certificates::new(), "", inside);
        nginx.client = None;
        nginx.listening()
    }

    fn nginx(exporter: &Exporter) -> Self {
        let certificates = Certificates::new();
        let inside = format!(
            "ssl_certificate server.pem;\nssl_certificate_key server.key;\n{}",
            shipped("nginx.conf", exporter).replace("/var/log/nginx/", "")
        );
        Self::start_nginx(certificates, "ssl", &inside).listening()
    }

    fn start_nginx(certificates: Certificates, ssl: &str, inside: &str) -> Self {
        let address = free();
        let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let kept: String = kept
            .iter()
            .map(|what| format!("{what}_temp_path {what};\n"))
            .collect();
        let configuration = format!(
            "daemon off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
             http {{\naccess_log access.log;\n{kept}server {{\nlisten {address} {ssl};\n{inside}\n}}\n}}\n"
        );
        certificates.write("nginx.conf", &configuration);
        let arguments = ["-p", ".", "-e", "error.log", "-c", "nginx.conf"];
        Self::start("nginx", &arguments, certificates, address)
    }

    fn caddy(exporter: &Exporter) -> Self {
        let certificates = Certificates::new();
        let address = free();
        // Without a certificate by itself, and where the test may listen.
        let site = format!(
            "https://localhost:{0}, https://{address} {{\nbind 127.0.0.1\ntls server.pem server.key",
            address.port()
        );
        let log = "admin off\nauto_https off\nlog default {\noutput file caddy.log";
        let configuration = shipped("Caddyfile", exporter)
            .replace("webhooks.example.com {", &site)
            .replace("log default {", log);
        certificates.write("Caddyfile", &configuration);
        let arguments = ["run", "--config", "Caddyfile", "--adapter", "caddyfile"];
        Self::start("caddy", &arguments, certificates, address).listening()
    }

    fn haproxy(exporter: &Exporter) -> Self {
        let certificates = Certificates::new();
        let address = free();
        let read = |name| fs::read_to_string(certificates.path(name)).unwrap();
        certificates.write("webhooks.pem", &(read("server.pem") + &read("server.key")));
        let configuration = shipped("haproxy.cfg", exporter)
            .replace("/etc/haproxy/webhooks.pem", "webhooks.pem")
            .replace("bind :443", &format!("bind {address}"))
            .replace("/dev/log", "stdout format raw");
        certificates.write("haproxy.cfg", &configuration);
        let arguments = ["-db", "-f", "haproxy.cfg"];
        Self::start("haproxy", &arguments, certificates, address).listening()
    }

    fn start(
        name: &'static str,
        arguments: &[&str],
        certificates: Certificates,
        address: SocketAddr,
    ) -> Self {
        let folder = certificates.folder.path();
        // Where the test is root, nginx gives its work to another user.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let log = fs::File::create(folder.join("output.log")).unwrap();
        let mut command = Command::new(name);
        // Libraries that are unpacked beside the programs, as make setup does it.
        let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/libraries");
        command
            .env("LD_LIBRARY_PATH", libraries)
            .env("HOME", folder);
        let child = command
            .args(arguments)
            .current_dir(folder)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}: make setup"));
        let client = Some(certificates.client());
        Self {
            name,
            child,
            address,
            certificates,
            client,
        }
    }

    fn listening(mut self) -> Self {
        wait_for("the proxy to listen", || {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "{} ended: {}",
                self.name,
                self.logs()
            );
            self.try_request("GET", "/", &[], b"").is_ok()
        });
        self
    }

    fn try_request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        match &self.client {
            Some(client) => https(self.address, client, method, target, headers, body),
            None => request(self.address, method, target, headers, body),
        }
    }

    fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, target, headers, body).unwrap()
    }

    fn signed(&self, signature: &str, body: &str) -> Answer {
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Hub-Signature-256", signature),
        ];
        self.request("POST", "/webhooks/meta", &headers, body.as_bytes())
    }

    /// All that it has logged.
    fn logs(&self) -> String {
        let files = fs::read_dir(self.certificates.folder.path()).unwrap();
        let logs = files.map(|file| file.unwrap().path());
        let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A killed nginx would leave its workers behind.
impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-s", "TERM", &self.child.id().to_string()])
            .status();
        let _ = self.child.wait();
    }
}

/// A webhook of Meta's, with spaces and escapes that its signature covers.
fn downgrade(filling: &str) -> String {
    format!(
        r#"{{ "object": "whatsapp_business_account", "filling": "\u00e9 é{filling}",
  "entry": [ {{ "id": "102290129340398", "time": 1748454394, "changes": [ {{ "field": "phone_number_quality_update",
    "value": {{ "display_phone_number": "15550783881", "event": "DOWNGRADE", "current_limit": "TIER_1K" }} }} ] }} ] }}
"#
    )
}
