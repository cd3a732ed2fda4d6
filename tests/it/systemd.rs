//! What the program tells systemd, to a socket that stands in for it, and the unit.

use std::{fs, os::unix::net::UnixDatagram, process::Command, time::Duration};

use crate::support::{Exporter, allow_all};

/// The longest that a message is waited for: a bound for a machine that hangs, not a promise.
const PATIENCE: Duration = Duration::from_secs(60);
const UNIT: &str = "whatsapp-quality-exporter.service";

#[test]
fn systemd_hears_of_the_start_of_life_and_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut message = [0; 256];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let socket = path.display().to_string();
    let environment = [("NOTIFY_SOCKET", &*socket), ("WATCHDOG_USEC", "200000")];
    let data = folder.path().join("data");
    let mut exporter = Exporter::start_bare(&data, &[&allow_all()], &environment);
    assert_eq!(heard(), "READY=1\n");
    for _ in 0..3 {
        assert_eq!(heard(), "WATCHDOG=1\n");
    }
    exporter.signal("TERM");
    let last = loop {
        match heard() {
            alive if alive == "WATCHDOG=1\n" => {}
            other => break other,
        }
    };
    assert_eq!(last, "STOPPING=1\n");
    assert_eq!(exporter.wait().code(), Some(0), "{}", exporter.log());
}

#[test]
fn nothing_is_said_of_a_database_that_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_nonblocking(true).unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("whatsapp-quality-exporter.db"), [7; 8192]).unwrap();
    let mut command = crate::support::command();
    command
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--webhook.listen-address=127.0.0.1:0",
        ])
        .args([allow_all(), format!("--storage.path={}", data.display())])
        .env("NOTIFY_SOCKET", &path);
    let output = crate::support::finish(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        systemd.recv(&mut [0; 256]).is_err(),
        "systemd was told something"
    );
}

#[test]
fn socket_of_systemd_that_is_gone_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone").display().to_string();
    let data = folder.path().join("data");
    let mut exporter = Exporter::start_bare(&data, &[&allow_all()], &[("NOTIFY_SOCKET", &*gone)]);
    assert_eq!(exporter.post("/webhooks/8x8", "{}").status, 200);
    assert_eq!(exporter.end("TERM").code(), Some(0));
    assert!(
        exporter.log().contains("systemd was not told"),
        "{}",
        exporter.log()
    );
}

#[test]
fn unit_is_accepted_by_systemd_and_its_exposure_is_low() {
    let unit = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/systemd/whatsapp-quality-exporter.service"
    );
    let unit = fs::read_to_string(unit).unwrap();
    let installed = "ExecStart=/usr/local/bin/whatsapp-quality-exporter ";
    assert!(unit.contains(installed));
    let built = format!(
        "ExecStart={} ",
        env!("CARGO_BIN_EXE_whatsapp-quality-exporter")
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(UNIT);
    let analyze = |unit: &str, arguments: &[&str]| {
        fs::write(&file, unit).unwrap();
        let mut command = Command::new("systemd-analyze");
        let output = command.args(arguments).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let verify = ["verify", "--man=no"];
    let unit = unit.replace(installed, &built);
    let (is_accepted, said) = analyze(&unit, &verify);
    assert!(is_accepted && !said.contains(UNIT), "{said}");
    // The check above notices a key that systemd does not know.
    let (_, said) = analyze(&unit.replace("ProtectClock", "ProtectClocks"), &verify);
    assert!(said.contains("ProtectClocks"), "{said}");
    // The threshold is ten times the exposure: systemd calls 2.0 "OK".
    let threshold = ["security", "--offline=yes", "--threshold=20"];
    assert!(analyze(&unit, &threshold).0);
    assert!(!analyze(&unit.replace("CapabilityBoundingSet=\n", ""), &threshold).0);
}
