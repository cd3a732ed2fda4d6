//! Webhooks that come through a real nginx.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    process::{Child, Command},
};

use tempfile::TempDir;
use whatsapp_quality_exporter::providers::{self, Example};

use crate::support::{Answer, Exporter, fixture, request, sign, wait_for};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn nginx_as_it_comes_passes_signed_webhooks_and_makes_no_provider_public() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start_bare(
        storage.path(),
        &[],
        &[("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET)],
    );
    let nginx = Nginx::start(&format!(
        "location /webhooks/ {{ proxy_pass http://127.0.0.1:{}; }}",
        exporter.webhook.port()
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
fn nginx_as_shipped_passes_large_webhooks_and_logs_no_token() {
    let storage = tempfile::tempdir().unwrap();
    let secrets = [
        ("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET),
        ("WHATSAPP_EXPORTER_8X8_TOKEN", "a-token-of-ours"),
    ];
    let mut exporter = Exporter::start_bare(storage.path(), &[], &secrets);
    let location =
        fixture("../deploy/nginx.conf").replace("10878", &exporter.webhook.port().to_string());
    let nginx = Nginx::start(&location.replace("/var/log/nginx/", ""));

    let body = downgrade(&"x".repeat(3 * 1024 * 1024));
    let large = nginx.signed(&sign(SECRET, body.as_bytes()), &body);
    assert_eq!(large.status, 200, "{}", large.text());
    assert_eq!(large.json()["applied"], 1);

    let send = || {
        nginx
            .request("POST", "/webhooks/8x8/a-token-of-ours", &[], b"{}")
            .status
    };
    assert_eq!(send(), 200);
    exporter.end("TERM");
    assert_eq!(send(), 502);
    nginx.request("GET", "/elsewhere", &[], b"");
    let (accesses, errors) = (nginx.file("access.log"), nginx.file("error.log"));
    println!("{accesses}{errors}");
    assert!(
        accesses.contains("/elsewhere"),
        "nothing is logged: {accesses}"
    );
    assert!(
        !accesses.contains("a-token-of-ours") && !errors.contains("a-token-of-ours"),
        "{accesses}{errors}"
    );
}

/// Debian's nginx in a folder of its own, ended with the test.
struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts it with something in its one server.
    fn start(inside: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Where the test is root, nginx gives its work to another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let kept: String = kept
            .iter()
            .map(|what| format!("{what}_temp_path {what};\n"))
            .collect();
        let configuration = format!(
            "daemon off;\npid nginx.pid;\nerror_log error.log;\nevents {{}}\n\
             http {{\naccess_log access.log;\n{kept}server {{\nlisten {address};\n{inside}\n}}\n}}\n"
        );
        fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .args(["-e", "error.log", "-c", "nginx.conf"])
            .spawn()
            .unwrap_or_else(|error| panic!("nginx: {error}: make setup"));
        let mut nginx = Self {
            child,
            address,
            folder,
        };
        wait_for("nginx to listen", || {
            assert!(
                nginx.child.try_wait().unwrap().is_none(),
                "nginx ended: {}",
                nginx.file("error.log")
            );
            request(address, "GET", "/", &[], b"").is_ok()
        });
        nginx
    }

    fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        request(self.address, method, target, headers, body).unwrap()
    }

    fn signed(&self, signature: &str, body: &str) -> Answer {
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Hub-Signature-256", signature),
        ];
        self.request("POST", "/webhooks/meta", &headers, body.as_bytes())
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

/// A killed nginx would leave its workers behind.
impl Drop for Nginx {
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
