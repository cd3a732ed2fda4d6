//! What the program tells systemd, to a socket that stands in for it, the sockets that systemd
//! passes to it, and the units.

use std::{
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixListener},
    },
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::support::{Exporter, allow_all, finish_with_stdout, fixture, request, wait_for};

/// The longest that a message is waited for: a bound for a machine that hangs, not a promise.
const PATIENCE: Duration = Duration::from_secs(60);
const UNIT: &str = "whatsapp-quality-exporter.service";
/// Each socket unit, with the documented port.
const SOCKET_UNITS: [(&str, u16); 2] = [
    ("whatsapp-quality-exporter-web.socket", 10877),
    ("whatsapp-quality-exporter-webhook.socket", 10878),
];

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

/// The sockets that systemd keeps, whichever process serves them.
struct Sockets {
    web: TcpListener,
    webhook: TcpListener,
}

impl Sockets {
    fn bind() -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            web: bind(),
            webhook: bind(),
        }
    }

    /// The exporter, to which they are passed.
    fn pass(&self) -> Command {
        let [web, webhook] = [&self.web, &self.webhook].map(|socket| socket.try_clone().unwrap());
        pass(web.into(), webhook.into(), "web:webhook")
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [&self.web, &self.webhook].map(|socket| socket.local_addr().unwrap())
    }
}

/// The exporter, started as systemd starts it: with two sockets from descriptor 3 on, the number of
/// the process, and the names.
fn pass(first: OwnedFd, second: OwnedFd, names: &str) -> Command {
    let exporter = crate::support::command();
    let mut shell = Command::new("sh");
    let script = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; \
                  LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" --web.systemd-socket \"$@\"";
    shell
        .args(["-c", script])
        .arg(exporter.get_program())
        .env("LISTEN_FDNAMES", names)
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second));
    for (name, _) in exporter.get_envs() {
        shell.env_remove(name);
    }
    shell
}

/// A webhook that no other has, of a number that all have.
fn webhook(time: usize) -> String {
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"1","time":{time},"changes":[
           {{"field":"phone_number_quality_update","value":
           {{"display_phone_number":"15550783881","event":"UPGRADE","current_limit":"TIER_1K"}}}}]}}]}}"#
    )
}

#[test]
fn sockets_of_systemd_are_served_and_no_address_is_bound() {
    let sockets = Sockets::bind();
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start_under(sockets.pass(), folder.path());
    // The addresses of the flags are 127.0.0.1:0, and the log names the sockets instead.
    assert_eq!([exporter.web, exporter.webhook], sockets.addresses());
    assert_eq!(exporter.post("/webhooks/meta", &webhook(1)).status, 200);
    let events = "whatsapp_phone_number_quality_events_total";
    assert_eq!(exporter.value(events, &[("event", "UPGRADE")]), Some(1.0));
    let private = request(exporter.webhook, "GET", "/metrics", &[], b"").unwrap();
    assert_eq!(private.status, 404);
    assert_eq!(exporter.end("TERM").code(), Some(0), "{}", exporter.log());
}

#[test]
fn sockets_of_systemd_socket_activate_are_served() {
    let [web, webhook] = Sockets::bind().addresses();
    let folder = tempfile::tempdir().unwrap();
    let exporter = crate::support::command();
    let mut child = Command::new("systemd-socket-activate")
        .args(["--fdname=web:webhook", "-l", &web.to_string()])
        .args(["-l", &webhook.to_string()])
        .arg(exporter.get_program())
        .args(["--web.systemd-socket", &allow_all()])
        .arg(format!("--storage.path={}", folder.path().display()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first connection starts the exporter, in the process of systemd-socket-activate.
    wait_for("the exporter to be ready", || {
        assert!(child.try_wait().unwrap().is_none());
        request(web, "GET", "/-/ready", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
    let answer = request(webhook, "POST", "/webhooks/8x8", &[], b"{}").unwrap();
    assert_eq!(answer.status, 200);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn sockets_without_a_role_are_refused_in_a_sentence() {
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let unix = OwnedFd::from(UnixListener::bind(folder.path().join("socket")).unwrap());
    let mut without = crate::support::command();
    without.arg("--web.systemd-socket");
    let mut of_another_process = crate::support::command();
    of_another_process
        .arg("--web.systemd-socket")
        .envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]);
    let cases = [
        (without, "systemd passed no socket"),
        (of_another_process, "systemd passed no socket"),
        (pass(tcp(), tcp(), "web:other"), "with the name \"other\""),
        // What systemd calls a socket without FileDescriptorName.
        (
            pass(tcp(), tcp(), "a.socket:b.socket"),
            "with the name \"a.socket\"",
        ),
        (pass(tcp(), tcp(), "web"), "with the name \"\""),
        (
            pass(tcp(), tcp(), "web:web"),
            "no socket with the name \"webhook\"",
        ),
        (
            pass(tcp(), tcp(), "webhook:webhook"),
            "no socket with the name \"web\"",
        ),
        (pass(tcp(), udp(), "web:webhook"), "not a valid tcp socket"),
        (pass(unix, tcp(), "web:webhook"), "not a valid tcp socket"),
    ];
    for (mut command, sentence) in cases {
        command
            .arg(allow_all())
            .arg(format!("--storage.path={}", folder.path().display()));
        let output = finish_with_stdout(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{sentence}: {said}");
        // The log has each quotation mark escaped.
        assert!(
            said.replace('\\', "").contains(sentence),
            "{sentence}: {said}"
        );
    }
}

#[test]
fn restart_with_sockets_of_systemd_answers_every_webhook_200() {
    const RESTARTS: usize = 10;
    let sockets = Sockets::bind();
    let [_, address] = sockets.addresses();
    let folder = tempfile::tempdir().unwrap();
    let (sent, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let send_next = || {
        let time = sent.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = request(
            address,
            "POST",
            "/webhooks/meta",
            &[],
            webhook(time).as_bytes(),
        );
        assert_eq!(answer.unwrap().status, 200);
    };
    let mut exporter = Exporter::start_under(sockets.pass(), folder.path());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    send_next();
                }
            });
        }
        for _ in 0..RESTARTS {
            let before = sent.load(Ordering::Relaxed);
            wait_for("webhooks", || sent.load(Ordering::Relaxed) > before + 20);
            assert_eq!(exporter.end("TERM").code(), Some(0));
            // No process is there, and each sender waits for its answer.
            let queued = scope.spawn(send_next);
            exporter = Exporter::start_under(sockets.pass(), folder.path());
            queued.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let sent = sent.into_inner();
    println!("{RESTARTS} restarts, {sent} webhooks, each answered 200");
    let events = "whatsapp_phone_number_quality_events_total";
    let counted = exporter.value(events, &[("event", "UPGRADE")]);
    assert_eq!(counted, Some(sent as f64));
}

#[test]
fn unit_is_accepted_by_systemd_and_its_exposure_is_low() {
    let unit = fixture("../deploy/systemd/whatsapp-quality-exporter.service");
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

#[test]
fn socket_units_are_accepted_by_systemd_and_name_the_roles() {
    let folder = tempfile::tempdir().unwrap();
    let service = fixture(&format!("../deploy/systemd/{UNIT}"));
    let binary = env!("CARGO_BIN_EXE_whatsapp-quality-exporter");
    let service = service.replace("/usr/local/bin/whatsapp-quality-exporter", binary);
    fs::write(folder.path().join(UNIT), service).unwrap();
    for (name, port) in SOCKET_UNITS {
        let unit = fixture(&format!("../deploy/systemd/{name}"));
        let verify = |unit: &str| {
            let file = folder.path().join(name);
            fs::write(&file, unit).unwrap();
            let mut command = Command::new("systemd-analyze");
            let command = command.args(["verify", "--man=no"]).arg(&file);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success() && !said.contains("whatsapp-quality-exporter")
        };
        assert!(verify(&unit), "{name}");
        // The check above notices a key, a service and an address that are wrong.
        for (right, wrong) in [
            ("ListenStream=", "ListenStreams="),
            (UNIT, "another.service"),
            ("127.0.0.1", "127.0.0.256"),
        ] {
            assert!(!verify(&unit.replace(right, wrong)), "{name}: {wrong}");
        }
        let role = name
            .trim_start_matches("whatsapp-quality-exporter-")
            .trim_end_matches(".socket");
        for line in [
            format!("ListenStream=127.0.0.1:{port}"),
            format!("FileDescriptorName={role}"),
        ] {
            assert!(unit.lines().any(|found| found == line), "{name}: {line}");
        }
    }
}
