//! The README, typed as it is written.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use whatsapp_quality_exporter::providers;

use crate::support::{fixture, request, wait_for};

#[test]
fn its_commands_print_what_it_says() {
    let readme = fixture("../README.md");
    let commands = blocks(&readme, "sh");
    let (first, curls) = commands.split_first().unwrap();
    assert_eq!(first.lines().collect::<Vec<_>>(), ["make run", "make test"], "make test is what runs this");

    let ports = Ports::free();
    let exporter = ports.make_run();
    let mut printed = Vec::new();
    for command in curls {
        let output = Command::new("sh").args(["-c", &ports.put_into(command)]).output().unwrap();
        assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
        printed.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(printed.len(), 2);
    assert_eq!(printed[0].trim(), blocks(&readme, "json")[0].trim());
    let excerpt = blocks(&readme, "text")[0];
    assert_eq!(printed[1], excerpt);

    assert_eq!(exporter.curls.len(), providers::ALL.len());
    for line in &exporter.curls {
        let output = Command::new("sh").args(["-c", &ports.put_into(line)]).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(answer.contains(r#""applied":1"#) || answer.contains(r#""duplicate":1"#), "{line}\n{answer}");
    }
}

#[test]
fn its_links_lead_somewhere() {
    for page in ["README.md", "CONTRIBUTING.md"] {
        let text = fixture(&format!("../{page}"));
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(link.starts_with("https://") || path.exists(), "{page}: {link} leads nowhere");
        }
    }
}

/// The fenced blocks of a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Ports in place of the documented ones, which may be taken on the machine of the test.
struct Ports {
    web: u16,
    webhook: u16,
}

/// `make run` in a folder of its own.
struct Running {
    child: Child,
    curls: Vec<String>,
    _storage: tempfile::TempDir,
}

impl Ports {
    fn free() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [web, webhook] = listeners.map(|listener| listener.local_addr().unwrap().port());
        Self { web, webhook }
    }

    fn put_into(&self, command: &str) -> String {
        command.replace("10877", &self.web.to_string()).replace("10878", &self.webhook.to_string())
    }

    fn make_run(&self) -> Running {
        let storage = tempfile::tempdir().unwrap();
        let mut child = Command::new("make")
            .arg("run")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // This test may itself have been started by make.
            .env_remove("MAKEFLAGS")
            .env("WHATSAPP_EXPORTER_WEB_LISTEN_ADDRESS", format!("127.0.0.1:{}", self.web))
            .env("WHATSAPP_EXPORTER_WEBHOOK_LISTEN_ADDRESS", format!("127.0.0.1:{}", self.webhook))
            .env("WHATSAPP_EXPORTER_STORAGE_PATH", storage.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let curls = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.starts_with("curl "))
            .take(providers::ALL.len())
            .collect();
        let web = ([127, 0, 0, 1], self.web).into();
        wait_for("make run to be ready", || request(web, "GET", "/-/ready", &[], b"").is_ok_and(|a| a.status == 200));
        Running { child, curls, _storage: storage }
    }
}

/// make hands the signal on to what it started.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
