//! The README's steps from nothing to the first alert, typed as they are written.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value as Json;

use crate::{
    alerting::{descriptions, receive},
    readme::{Ports, blocks, section},
    support::{fixture, wait_for},
};

#[test]
fn first_alert_is_notified_by_the_readmes_steps() {
    let readme = fixture("../README.md");
    let steps = section(&readme, "From nothing to the first alert");
    let (receiver, notifications) = receive();
    let folder = tempfile::tempdir().unwrap();
    symlink(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts"),
        folder.path().join("alerts"),
    )
    .unwrap();
    let monitoring = folder.path().join("monitoring");
    fs::create_dir(&monitoring).unwrap();

    let ports = Ports::free();
    let _exporter = ports.make_run();
    // Only now, because make may have built the exporter for minutes.
    let ports = ports
        .with_free(9090)
        .with_free(9093)
        .with(9095, receiver.port());
    let [configuration] = blocks(steps, "yaml").try_into().unwrap();
    fs::write(
        monitoring.join("prometheus.yml"),
        ports.put_into(&configuration),
    )
    .unwrap();
    let [commands] = blocks(steps, "sh").try_into().unwrap();
    let commands = ports.put_into(&commands.replace("\\\n", ""));
    let (programs, copies): (Vec<_>, Vec<_>) =
        commands.lines().partition(|line| line.ends_with('&'));
    for command in copies {
        let output = shell(folder.path(), command).output().unwrap();
        assert!(
            output.status.success(),
            "{command}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let copy = monitoring.join("alertmanager.yml");
    let with_receiver = ports.put_into(&fs::read_to_string(&copy).unwrap());
    fs::write(&copy, with_receiver).unwrap();
    let mut programs: Vec<_> = programs
        .iter()
        .map(|line| Program::start(folder.path(), line))
        .collect();
    assert_eq!(programs.len(), 2);

    let (start, _) = readme.split_once("\n## ").unwrap();
    let curl = blocks(start, "sh")
        .into_iter()
        .find(|command| command.starts_with("curl -d"))
        .unwrap();
    let output = shell(folder.path(), &ports.put_into(&curl))
        .output()
        .unwrap();
    let answer: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["applied"], 1, "{answer}");

    let of_downgrades = || {
        let of =
            |group: &&Json| group["groupLabels"]["alertname"] == "WhatsAppPhoneNumberDowngraded";
        notifications
            .lock()
            .unwrap()
            .iter()
            .filter(of)
            .cloned()
            .collect::<Vec<_>>()
    };
    wait_for("the first alert", || {
        programs.iter_mut().for_each(Program::assert_running);
        !of_downgrades().is_empty()
    });
    let notified = of_downgrades();
    assert_eq!(notified.len(), 1, "{notified:#?}");
    let texts = descriptions(&notified[0]);
    println!("{texts:?}");
    assert_eq!(texts.len(), 1, "{texts:?}");
    let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        readme.contains(&format!("\"{}\"", texts[0])),
        "the README promises another sentence: {texts:?}"
    );
}

/// A program in the background, ended with the test.
struct Program {
    child: Child,
    line: String,
}

impl Program {
    fn start(folder: &Path, line: &str) -> Self {
        // The process is the program, and no shell that would be left without it.
        let mut command = shell(folder, &format!("exec {}", line.trim_end_matches('&')));
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            line: line.to_owned(),
        }
    }

    fn assert_running(&mut self) {
        assert!(
            self.child.try_wait().unwrap().is_none(),
            "it ended (make setup): {}",
            self.line
        );
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shell(folder: &Path, command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder);
    shell
}
