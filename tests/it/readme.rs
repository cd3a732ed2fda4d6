//! The README, typed as it is written. Its first alert is in a file of its own.

use std::{
    collections::BTreeMap,
    fs,
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
    let (start, _) = readme.split_once("\n## ").unwrap();
    let commands = blocks(start, "sh");
    let (first, curls) = commands.split_first().unwrap();
    assert_eq!(
        first.lines().collect::<Vec<_>>(),
        ["make run", "make test"],
        "make test is what runs this"
    );

    let ports = Ports::free();
    let exporter = ports.make_run();
    let mut printed = Vec::new();
    for command in curls {
        let output = Command::new("sh")
            .args(["-c", &ports.put_into(command)])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        printed.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(printed.len(), 2);
    assert_eq!(printed[0].trim(), blocks(start, "json")[0].trim());
    let excerpt = &blocks(start, "text")[0];
    assert_eq!(&printed[1], excerpt);

    assert_eq!(exporter.curls.len(), providers::ALL.len());
    for line in &exporter.curls {
        let output = Command::new("sh")
            .args(["-c", &ports.put_into(line)])
            .output()
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(
            answer.contains(r#""applied":1"#) || answer.contains(r#""duplicate":1"#),
            "{line}\n{answer}"
        );
    }
}

#[test]
fn links_of_all_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages_in = |folder: &str| {
        let files = fs::read_dir(root.join(folder)).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    };
    let pages: Vec<_> = ["", "docs", "docs/decisions"]
        .into_iter()
        .flat_map(pages_in)
        .collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let links = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !heading.is_empty() {
                let target = fs::read_to_string(&target).unwrap();
                let found = headings(&target).any(|slug| slug == heading);
                assert!(found, "{}: {link} names no heading", page.display());
            }
        }
    }
}

/// The headings of a page, as links name them.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// A section of a page, without its heading.
pub fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap()
}

/// The fenced blocks of a language, without the indentation that a list gives them.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(indentation) = line.strip_suffix(&fence)
            && indentation.trim().is_empty()
        {
            let inside = lines.by_ref().take_while(|line| line.trim() != "```");
            blocks.push(
                inside
                    .map(|line| line.strip_prefix(indentation).unwrap_or(line).to_owned() + "\n")
                    .collect(),
            );
        }
    }
    blocks
}

/// Ports in place of the documented ones, which may be taken on the machine of the test.
pub struct Ports(BTreeMap<u16, u16>);

/// `make run` in a folder of its own.
pub struct Running {
    child: Child,
    curls: Vec<String>,
    _storage: tempfile::TempDir,
}

impl Ports {
    /// Of the exporter.
    pub fn free() -> Self {
        Self(BTreeMap::new()).with_free(10877).with_free(10878)
    }

    /// With one more that is free.
    pub fn with_free(self, documented: u16) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        if self.0.values().any(|taken| *taken == port) {
            self.with_free(documented)
        } else {
            self.with(documented, port)
        }
    }

    /// With one more that is in use.
    pub fn with(mut self, documented: u16, port: u16) -> Self {
        self.0.insert(documented, port);
        self
    }

    pub fn put_into(&self, text: &str) -> String {
        // In one pass, because a free port may end in the digits of a documented one.
        let pieces = text.split_inclusive(|character: char| !character.is_ascii_digit());
        let replaced = pieces.map(|piece| {
            let digits = piece.trim_end_matches(|character: char| !character.is_ascii_digit());
            let port = digits.parse().ok().and_then(|port: u16| self.0.get(&port));
            port.map_or_else(
                || piece.to_owned(),
                |port| piece.replacen(digits, &port.to_string(), 1),
            )
        });
        replaced.collect()
    }

    pub fn make_run(&self) -> Running {
        let (web, webhook) = (self.0[&10877], self.0[&10878]);
        let storage = tempfile::tempdir().unwrap();
        let mut child = Command::new("make")
            .arg("run")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // This test may itself have been started by make.
            .env_remove("MAKEFLAGS")
            .env(
                "WHATSAPP_EXPORTER_WEB_LISTEN_ADDRESS",
                format!("127.0.0.1:{web}"),
            )
            .env(
                "WHATSAPP_EXPORTER_WEBHOOK_LISTEN_ADDRESS",
                format!("127.0.0.1:{webhook}"),
            )
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
        let web = ([127, 0, 0, 1], web).into();
        wait_for("make run to be ready", || {
            request(web, "GET", "/-/ready", &[], b"").is_ok_and(|a| a.status == 200)
        });
        Running {
            child,
            curls,
            _storage: storage,
        }
    }
}

/// make hands the signal on to what it started.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-s", "TERM", &self.child.id().to_string()])
            .status();
        let _ = self.child.wait();
    }
}
