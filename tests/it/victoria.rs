//! VictoriaMetrics in the place of Prometheus: vmagent scrapes, vmalert evaluates the shipped rules.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::{
    alerting::receive,
    support::{Exporter, Server, command, wait_for},
};

const NUMBER: &str = "15550783881";

#[test]
fn vmalert_fires_when_a_number_falls_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(&folder.path().join("data"), &[]);
    let storage = server(folder.path(), "victoria-metrics", "", |file| {
        // Otherwise what was scraped in the last 30 seconds is not shown.
        vec![
            "-search.latencyOffset=0s".into(),
            format!("-storageDataPath={}", file.with_extension("data").display()),
        ]
    });
    let scrapes = json!({"scrape_configs": [{"job_name": "whatsapp", "scrape_interval": "1s",
        "static_configs": [{"targets": [exporter.web]}]}]});
    let _agent = server(folder.path(), "vmagent", &scrapes.to_string(), |file| {
        vec![
            format!("-promscrape.config={}", file.display()),
            format!("-remoteWrite.url=http://{}/api/v1/write", storage.address),
            format!(
                "-remoteWrite.tmpDataPath={}",
                file.with_extension("data").display()
            ),
        ]
    });
    let (receiver, received) = receive();
    let _alert = server(folder.path(), "vmalert", "", |_| {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/whatsapp.rules.yml");
        vec![
            format!("-rule={}", rules.display()),
            format!("-datasource.url=http://{}", storage.address),
            format!("-remoteWrite.url=http://{}", storage.address),
            format!("-notifier.url=http://{receiver}"),
            "-evaluationInterval=1s".into(),
        ]
    });
    let fired = |alert: &str| {
        let received = received.lock().unwrap();
        let alerts = received.iter().flat_map(|sent| sent.as_array().unwrap());
        let of = alerts.filter(|sent| sent["labels"]["alertname"] == alert);
        of.cloned().collect::<Vec<Json>>()
    };
    let limit = || {
        let query = "/api/v1/query?query=whatsapp_phone_number_messaging_limit";
        let found = storage.get(query)["data"]["result"][0]["value"][1].clone();
        found.as_str().map(ToOwned::to_owned)
    };

    send(&exporter, "upgrade", "1K", "10K");
    wait_for("the limit to be scraped", || {
        limit().as_deref() == Some("10000")
    });
    let seen = fired("WhatsAppWatchdog").len();
    wait_for("two more evaluations", || {
        fired("WhatsAppWatchdog").len() >= seen + 2
    });
    assert_eq!(fired("WhatsAppPhoneNumberDowngraded"), [] as [Json; 0]);

    send(&exporter, "downgrade", "10K", "1K");
    wait_for("the alert", || {
        !fired("WhatsAppPhoneNumberDowngraded").is_empty()
    });
    let alert = &fired("WhatsAppPhoneNumberDowngraded")[0];
    assert_eq!(alert["labels"]["phone_number"], NUMBER, "{alert}");
    assert_eq!(
        alert["annotations"]["description"],
        "The messaging limit of 15550783881 (meta, account 102290129340398) fell from 10000 to 1000 customers in 24 hours."
    );
}

fn server(
    folder: &Path,
    program: &str,
    configuration: &str,
    arguments: impl Fn(&Path) -> Vec<String>,
) -> Server {
    Server::start(program, folder, configuration, |command, file, address| {
        command
            .args(arguments(file))
            .arg(format!("-httpListenAddr={address}"));
    })
}

/// As the documentation has a user try it.
fn send(exporter: &Exporter, event: &str, from: &str, to: &str) {
    let mut command = command();
    let url = format!("http://{}", exporter.webhook);
    command.args(["send", "meta", event, "--number", NUMBER]);
    command.args(["--from", from, "--to", to, "--url", &url]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
