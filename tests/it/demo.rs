//! `make demo`, without its `make`: what it says to type makes the notification that it prints.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::support::wait_for;

/// How long a line may take on a machine that is busy with everything else.
const PATIENCE: Duration = Duration::from_secs(150);

/// The demo, which ends the programs that it started when it is told to end.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let process = self.0.id().to_string();
        if let Ok(None) = self.0.try_wait() {
            let _ = Command::new("kill").arg(process).status();
            let _ = self.0.wait();
        }
    }
}

#[test]
fn demo_prints_the_notification_of_the_line_that_it_says_to_type_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let demo = Command::new(root.join("deploy/demo"))
        .env("TMPDIR", temporary.path())
        .env("EXPORTER", env!("CARGO_BIN_EXE_whatsapp-quality-exporter"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut demo = Demo(demo);
    let (sender, lines) = mpsc::channel();
    let output = BufReader::new(demo.0.stdout.take().unwrap());
    // It ends with the output.
    thread::spawn(move || {
        output
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let line_with = |text: &str| {
        loop {
            let line = lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no {text:?} (make setup)"));
            if line.contains(text) {
                return line;
            }
        }
    };
    let addresses = line_with("Status page");
    let send = line_with(" send meta downgrade");
    let sent = Command::new("sh").args(["-c", &send]).output().unwrap();
    assert!(sent.status.success(), "{send}: {sent:?}");
    let notification = line_with("NOTIFICATION");
    println!("{notification}");
    let said = "(firing) WhatsAppPhoneNumberDowngraded: The messaging limit of 15550783881";
    assert!(notification.contains(said), "{notification}");
    // One and only one ctrl-c.
    let process = demo.0.id().to_string();
    let signal = Command::new("kill")
        .args(["-s", "INT", &process])
        .status()
        .unwrap();
    assert!(signal.success());
    line_with("ended");
    assert!(demo.0.wait().unwrap().success());
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
    for address in addresses.split("http://").skip(1) {
        let address = address.split(['/', ' ']).next().unwrap();
        wait_for("nobody to listen any more", || {
            TcpStream::connect(address).is_err()
        });
    }
}
