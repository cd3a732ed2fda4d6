//! The command line and the environment: what starts, what is refused with which sentence, and how
//! it ends.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Output,
};

use crate::support::{
    Exporter, allow_all, assert_golden, command, connect, finish, parse_answer, request, sign,
    wait_for,
};

const SECRET_FLAGS: [&str; 5] = [
    "meta.app-secret",
    "meta.verify-token",
    "8x8.token",
    "innopaas.token",
    "kaleyra.token",
];
const SECRET: &str = "hunter2";
const FLAGGED: &str = r#"{"eventId":"1","eventType":"phone_number_quality_update","eventDetails":{"displayPhoneNumber":"15550783881","meta":{"event":"FLAGGED"}}}"#;

// Help and version

#[test]
fn help_is_the_golden_one() {
    let output = run(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_golden("fixtures/help.txt", &stdout(&output));
    assert_eq!(stdout(&run(&["-h"], &[])), stdout(&output));
}

#[test]
fn help_and_mistakes_never_print_a_secret() {
    let variables = SECRET_FLAGS.map(|flag| (variable(flag), SECRET));
    let secrets: Vec<_> = variables
        .iter()
        .map(|(name, secret)| (name.as_str(), *secret))
        .collect();
    for (arguments, status) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["--no-such-flag"], 2),
        (&["--log.level=loud"], 2),
        (&["--8x8.token-file=/dev/null"], 2),
    ] {
        let output = run(arguments, &secrets);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let printed = stdout(&output) + &stderr(&output);
        assert!(
            !printed.is_empty() && !printed.contains(SECRET),
            "{printed}"
        );
    }
    assert_eq!(
        stdout(&run(&["--help"], &secrets)),
        stdout(&run(&["--help"], &[]))
    );
}

#[test]
fn the_version_says_what_was_built() {
    let output = run(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let start = concat!(
        "whatsapp-quality-exporter ",
        env!("CARGO_PKG_VERSION"),
        " (revision "
    );
    let printed = stdout(&output);
    assert!(
        printed.starts_with(start) && printed.contains(", rustc 1.") && printed.ends_with(")\n"),
        "{printed}"
    );
}

// What is refused

#[test]
fn a_flag_that_is_none_is_refused() {
    for flag in [
        "--no-such-flag",
        "--8x8.token=hunter2",
        "--meta.app-secret=hunter2",
        "extra",
    ] {
        let sentence = refused(&[flag], &[]);
        let name = flag.split('=').next().unwrap();
        assert!(
            sentence.starts_with("error: ") && sentence.contains(name),
            "{sentence}"
        );
        assert!(!sentence.contains(SECRET), "{sentence}");
    }
}

#[test]
fn a_value_that_is_none_is_refused_from_the_flag_and_from_the_environment() {
    for (flag, value) in [
        ("web.listen-address", "127.0.0.1"),
        ("web.listen-address", "127.0.0.1:65536"),
        ("web.listen-address", ""),
        ("webhook.listen-address", "port 80"),
        ("webhook.listen-address", ":http"),
        ("web.telemetry-path", "metrics"),
        ("web.telemetry-path", "/"),
        ("web.telemetry-path", "/-/ready"),
        ("web.telemetry-path", "/api/v1/phone_numbers"),
        ("webhook.allow-unauthenticated", "nobody"),
        ("webhook.allow-unauthenticated", "meta,nobody"),
        ("limits.max-phone-numbers", "-1"),
        ("limits.max-phone-numbers", "many"),
        ("log.level", "loud"),
        ("log.format", "xml"),
    ] {
        for sentence in [
            refused(&[&format!("--{flag}={value}")], &[]),
            refused(&[], &[(&variable(flag), value)]),
        ] {
            assert!(
                sentence.starts_with("error: ") && sentence.contains(&format!("--{flag}")),
                "{sentence}"
            );
        }
    }
    // A switch takes a value from the environment alone.
    assert!(
        refused(&[], &[("WHATSAPP_EXPORTER_LOG_PHONE_NUMBERS", "maybe")])
            .contains("--log.phone-numbers")
    );
}

#[test]
fn an_empty_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("empty", ""),
        ("newline", "\n"),
        ("carriage-return", "\r\n"),
        ("blank", " \t\n"),
        ("mark", "\u{feff}\n"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        let file = file.to_str().unwrap();
        for flag in SECRET_FLAGS {
            let flag = format!("{flag}-file");
            for sentence in [
                refused(&[&format!("--{flag}={file}")], &[]),
                refused(&[], &[(&variable(&flag), file)]),
            ] {
                assert!(
                    sentence.contains("is empty")
                        && sentence.contains(&flag)
                        && sentence.contains(file),
                    "{sentence}"
                );
            }
        }
    }
    for flag in SECRET_FLAGS {
        let name = variable(flag);
        for blank in ["", "  "] {
            let sentence = refused(&[], &[(&name, blank)]);
            assert!(
                sentence.contains("is empty") && sentence.contains(&name),
                "{sentence}"
            );
        }
    }
}

#[test]
fn secret_of_two_lines_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("two").display().to_string();
    for content in ["hunter2\nhunter2\n", "hunter2\r\nhunter2", "hunter2\n\n"] {
        fs::write(&file, content).unwrap();
        for flag in SECRET_FLAGS {
            for sentence in [
                refused(&[&format!("--{flag}-file={file}")], &[]),
                refused(&[], &[(&variable(flag), content)]),
            ] {
                assert!(
                    sentence.contains("more than one line") && sentence.contains("repeatable"),
                    "{sentence}"
                );
                assert!(!sentence.contains(SECRET), "{sentence}");
            }
        }
    }
}

#[test]
fn odd_secret_is_warned_about_once_without_its_value() {
    const RIGHT: &str = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    for (name, flag, content, findings) in [
        (
            "mark",
            "8x8.token",
            format!("\u{feff}{SECRET}\n"),
            &["begins with a byte order mark"][..],
        ),
        (
            "quotes",
            "8x8.token",
            format!("\"{SECRET}\"\n"),
            &["stands in quotes"],
        ),
        (
            "blank",
            "8x8.token",
            format!("{SECRET} \n"),
            &["begins or ends with white space"],
        ),
        (
            "all",
            "8x8.token",
            format!("\u{feff} '{SECRET}'"),
            &["byte order mark", "white space", "in quotes"],
        ),
        (
            "short",
            "meta.app-secret",
            SECRET.to_owned(),
            &["is not 32 lower-case hex digits"],
        ),
        (
            "upper",
            "meta.app-secret",
            RIGHT.to_uppercase(),
            &["is not 32 lower-case hex digits"],
        ),
        ("right", "meta.app-secret", format!("{RIGHT}\r\n"), &[]),
        ("token", "meta.verify-token", format!("{SECRET}\n"), &[]),
    ] {
        let file = folder.path().join(name).display().to_string();
        fs::write(&file, &content).unwrap();
        let mut exporter = Exporter::start(
            &folder.path().join("data"),
            &[&format!("--{flag}-file={file}")],
        );
        exporter.end("TERM");
        let log = exporter.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&file)).collect();
        assert_eq!(
            lines.len(),
            usize::from(!findings.is_empty()),
            "{name}: {log}"
        );
        for finding in findings {
            assert!(
                lines[0].contains(finding) && lines[0].contains("\"WARN\""),
                "{name}: {log}"
            );
        }
        assert!(
            !log.contains(SECRET) && !log.contains(RIGHT),
            "{name}: {log}"
        );
    }
}

#[test]
fn a_secret_file_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let right = folder.path().join("right");
    fs::write(&right, SECRET).unwrap();
    let missing = folder.path().join("missing").display().to_string();
    for flag in SECRET_FLAGS {
        let sentence = refused(
            &[
                &format!("--{flag}-file={}", right.display()),
                &format!("--{flag}-file={missing}"),
            ],
            &[],
        );
        assert!(
            sentence.contains(&format!("--{flag}-file")) && sentence.contains(&missing),
            "{sentence}"
        );
        assert!(!sentence.contains(SECRET), "{sentence}");
    }
}

#[test]
fn program_without_any_provider_that_is_on_is_refused() {
    for addresses in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", ":0"] {
        // The token of the handshake lets nobody send webhooks.
        for environment in [&[][..], &[("WHATSAPP_EXPORTER_META_VERIFY_TOKEN", SECRET)]] {
            let sentence = refused(
                &[&format!("--webhook.listen-address={addresses}")],
                environment,
            );
            for flag in [
                "--webhook.allow-unauthenticated",
                "--meta.app-secret-file",
                "--8x8.token-file",
                "--innopaas.token-file",
                "--kaleyra.token-file",
            ] {
                assert!(sentence.contains(flag), "{flag} is not in: {sentence}");
            }
        }
    }
}

#[test]
fn an_address_in_use_is_a_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let storage = format!("--storage.path={}", folder.path().display());
    for (web, webhook) in [
        (address.as_str(), "127.0.0.1:0"),
        ("127.0.0.1:0", address.as_str()),
    ] {
        let arguments = [
            &format!("--web.listen-address={web}"),
            &format!("--webhook.listen-address={webhook}"),
            &storage,
            &allow_all(),
        ];
        let output = run(&arguments.map(String::as_str), &[]);
        let log = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(
            log.contains(&format!("cannot listen on {address}")),
            "{log}"
        );
    }
}

// What starts

#[test]
fn provider_that_is_off_is_named_once_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = [
        ("WHATSAPP_EXPORTER_8X8_TOKEN", SECRET),
        ("WHATSAPP_EXPORTER_META_VERIFY_TOKEN", SECRET),
    ];
    let mut exporter = Exporter::start_bare(
        folder.path(),
        &["--webhook.allow-unauthenticated=kaleyra"],
        &secrets,
    );
    exporter.end("TERM");
    let log = exporter.log();
    for (provider, message) in [
        ("meta", Some("provider is off")),
        ("8x8", None),
        ("innopaas", Some("provider is off")),
        ("kaleyra", Some("provider is not authenticated")),
    ] {
        let named = format!("\"provider\":\"{provider}\"");
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&named)).collect();
        match message {
            Some(message) => assert!(
                lines.len() == 1 && lines[0].contains(message),
                "{provider} in\n{log}"
            ),
            None => assert_eq!(lines.len(), 0, "{provider} in\n{log}"),
        }
    }
}

#[test]
fn flags_are_taken_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start_bare(
        folder.path(),
        &["--log.level=info"],
        &[
            (
                "WHATSAPP_EXPORTER_WEB_TELEMETRY_PATH",
                "/from/the/environment",
            ),
            ("WHATSAPP_EXPORTER_LIMITS_MAX_PHONE_NUMBERS", "3"),
            (
                "WHATSAPP_EXPORTER_WEBHOOK_ALLOW_UNAUTHENTICATED",
                "8x8,kaleyra",
            ),
            ("WHATSAPP_EXPORTER_LOG_PHONE_NUMBERS", "1"),
            // The flag is stronger.
            ("WHATSAPP_EXPORTER_LOG_LEVEL", "error"),
        ],
    );
    let page = exporter.get("/from/the/environment");
    assert!(
        page.text()
            .contains("\nwhatsapp_exporter_phone_numbers_max 3\n"),
        "{}",
        page.text()
    );
    assert_eq!(exporter.get("/metrics").status, 404);
    for (provider, status) in [
        ("meta", 404),
        ("8x8", 200),
        ("innopaas", 404),
        ("kaleyra", 200),
    ] {
        assert_eq!(
            exporter
                .post(&format!("/webhooks/{provider}"), FLAGGED)
                .status,
            status,
            "{provider}"
        );
    }
    exporter.end("TERM");
    assert!(
        exporter.log().contains("\"15550783881\""),
        "{}",
        exporter.log()
    );

    let below_a_file = folder.path().join("lock").join("data");
    let environment = [
        ("WHATSAPP_EXPORTER_WEB_LISTEN_ADDRESS", "127.0.0.1:0"),
        (
            "WHATSAPP_EXPORTER_WEBHOOK_LISTEN_ADDRESS",
            "127.0.0.1:0,127.0.0.1:0",
        ),
        (
            "WHATSAPP_EXPORTER_STORAGE_PATH",
            below_a_file.to_str().unwrap(),
        ),
        ("WHATSAPP_EXPORTER_8X8_TOKEN", SECRET),
        ("WHATSAPP_EXPORTER_LOG_FORMAT", "json"),
    ];
    let output = run(&[], &environment);
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(
        log.starts_with('{') && log.contains(below_a_file.to_str().unwrap()),
        "{log}"
    );
    assert_eq!(log.matches("\"listening\"").count(), 3, "{log}");
}

#[test]
fn secrets_are_taken_from_the_environment_and_from_files_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (unix, dos) = (
        written("unix", "from a unix file\n"),
        written("dos", "from a dos file\r\n"),
    );
    let plain = written("plain", "from a plain file");
    let of_environment =
        SECRET_FLAGS.map(|flag| (variable(flag), "from the environment".to_owned()));
    // The files of Kaleyra are given in the environment, too.
    let mut environment: Vec<_> = of_environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let list = format!("{unix},{dos},{plain}");
    environment.push(("WHATSAPP_EXPORTER_KALEYRA_TOKEN_FILE", &list));
    let files = SECRET_FLAGS
        .iter()
        .filter(|flag| **flag != "kaleyra.token")
        .flat_map(|flag| {
            [
                format!("--{flag}-file={unix}"),
                format!("--{flag}-file={dos},{plain}"),
            ]
        });
    let files: Vec<String> = files.collect();
    let arguments: Vec<_> = files.iter().map(String::as_str).collect();
    let exporter = Exporter::start_with(&folder.path().join("data"), &arguments, &environment);

    let send = |method, target: &str, header: (&str, &str)| {
        request(exporter.webhook, method, target, &[header], b"{}")
            .unwrap()
            .status
    };
    let secrets = [
        "from the environment",
        "from a unix file",
        "from a dos file",
        "from a plain file",
    ];
    for (secret, right) in secrets
        .into_iter()
        .map(|secret| (secret, true))
        .chain([("from nowhere", false)])
    {
        let status = if right { 200 } else { 401 };
        for provider in ["8x8", "innopaas", "kaleyra"] {
            let path = format!("/webhooks/{provider}");
            assert_eq!(
                send("POST", &path, ("Authorization", secret)),
                status,
                "{provider}: {secret}"
            );
        }
        let signature = sign(secret, b"{}");
        assert_eq!(
            send(
                "POST",
                "/webhooks/meta",
                ("X-Hub-Signature-256", &signature)
            ),
            status,
            "{secret}"
        );
        let token = secret.replace(' ', "+");
        let handshake =
            format!("/webhooks/meta?hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}");
        let status = if right { 200 } else { 403 };
        assert_eq!(
            send("GET", &handshake, ("Accept", "*/*")),
            status,
            "{secret}"
        );
    }
}

// Reload

#[test]
fn reload_takes_secrets_as_they_are_now_or_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "old").unwrap();
    let flag = format!("--8x8.token-file={}", file.display());
    let data = folder.path().join("data");
    let mut exporter = Exporter::start_bare(&data, &[&flag, "--web.enable-lifecycle"], &[]);
    let status = |exporter: &Exporter, token: &str| {
        let headers = [("Authorization", token)];
        request(exporter.webhook, "POST", "/webhooks/8x8", &headers, b"{}")
            .unwrap()
            .status
    };
    let reload = |exporter: &Exporter| {
        request(exporter.web, "POST", "/-/reload", &[], b"")
            .unwrap()
            .status
    };
    let successful = |exporter: &Exporter| {
        exporter
            .value("whatsapp_exporter_config_last_reload_successful", &[])
            .unwrap()
    };
    assert_eq!(
        (status(&exporter, "old"), status(&exporter, "new")),
        (200, 401)
    );
    fs::write(&file, "new").unwrap();
    assert_eq!(status(&exporter, "new"), 401, "before the reload");
    assert_eq!(reload(&exporter), 200);
    assert_eq!(
        (status(&exporter, "old"), status(&exporter, "new")),
        (401, 200)
    );

    // A file that became wrong keeps the secrets before it.
    fs::write(&file, "one\ntwo\n").unwrap();
    assert_eq!(reload(&exporter), 500);
    assert_eq!(
        (successful(&exporter), status(&exporter, "new")),
        (0.0, 200)
    );
    exporter.signal("HUP");
    wait_for("the signal to be heard", || {
        exporter.log().matches("reload failed").count() == 2
    });
    assert_eq!(status(&exporter, "new"), 200);

    fs::write(&file, "third").unwrap();
    exporter.signal("HUP");
    wait_for("the new secret to count", || {
        status(&exporter, "third") == 200
    });
    assert_eq!(successful(&exporter), 1.0);
    exporter.end("TERM");
    let log = exporter.log();
    assert!(
        log.contains("\"changed\":\"8x8\"") && !log.contains("third"),
        "{log}"
    );
}

#[test]
fn reload_is_forbidden_where_it_is_not_enabled() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &[]);
    assert_eq!(
        request(exporter.web, "POST", "/-/reload", &[], b"")
            .unwrap()
            .status,
        403
    );
    let get = exporter.get("/-/reload");
    assert_eq!(
        (get.status, get.headers["allow"].as_str()),
        (405, "POST, PUT")
    );
}

// How it ends

#[test]
fn signal_to_end_is_a_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    for signal in ["TERM", "INT"] {
        let mut exporter = Exporter::start(folder.path(), &[]);
        assert_eq!(exporter.post("/webhooks/8x8", FLAGGED).status, 200);
        assert_eq!(exporter.end(signal).code(), Some(0), "{signal}");
        assert!(exporter.log().contains("stopping"), "{}", exporter.log());
    }
}

#[test]
fn end_waits_for_whole_requests_and_not_for_half_a_body() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &[]);
    // A page that its client does not read keeps one request in work.
    let batch: Vec<_> = (0..4000)
        .map(|number| {
            serde_json::json!({"field": "phone_number_quality_update", "value": {
                "display_phone_number": format!("1555{number:07}"), "event": "FLAGGED"}})
        })
        .collect();
    let body = serde_json::json!({"entry": [{"id": "1", "time": 1, "changes": batch}]});
    assert_eq!(
        exporter.post("/webhooks/meta", &body.to_string()).status,
        200
    );
    let mut whole = connect(exporter.web).unwrap();
    whole
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut begun = [0; 12];
    whole.read_exact(&mut begun).unwrap();
    let mut half = connect(exporter.webhook).unwrap();
    write!(
        half,
        "POST /webhooks/8x8 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"
    )
    .unwrap();

    exporter.signal("TERM");
    // The half is closed although the program is still at the whole one.
    let mut answer = Vec::new();
    let _ = half.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    let mut rest = begun.to_vec();
    whole.read_to_end(&mut rest).unwrap();
    assert_eq!(parse_answer(&rest).unwrap().status, 200);
    let page = String::from_utf8(rest).unwrap();
    assert!(page.ends_with('\n') && page.contains("whatsapp_exporter_storage_up 1\n"));
    assert_eq!(exporter.wait().code(), Some(0), "{}", exporter.log());
}

#[test]
fn draining_process_is_not_ready_and_answers_until_its_time_or_a_second_signal() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &["--web.drain-delay=24h"]);
    assert_eq!(exporter.get("/-/ready").status, 200);
    exporter.signal("TERM");
    wait_for("the exporter to drain", || {
        exporter.get("/-/ready").status == 503
    });
    assert!(exporter.get("/-/ready").text().contains("stopping"));
    assert_eq!(exporter.get("/-/healthy").status, 200);
    assert_eq!(exporter.post("/webhooks/8x8", FLAGGED).status, 200);
    let flagged = exporter.value("whatsapp_phone_number_flagged", &[("provider", "8x8")]);
    assert_eq!(flagged, Some(1.0));
    assert_eq!(exporter.end("INT").code(), Some(0), "{}", exporter.log());

    let mut exporter = Exporter::start(folder.path(), &["--web.drain-delay=20ms"]);
    assert_eq!(exporter.end("TERM").code(), Some(0), "{}", exporter.log());
}

#[test]
fn drain_delay_needs_a_unit_and_is_not_negative() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(folder.path(), &["--web.drain-delay=0"]);
    assert_eq!(exporter.end("TERM").code(), Some(0), "{}", exporter.log());
    for delay in ["15", "-1s", "soon", ""] {
        let sentence = refused(&[&format!("--web.drain-delay={delay}")], &[]);
        assert!(sentence.contains("such as 15s"), "{delay}: {sentence}");
    }
}

// What these tests share

/// Runs the binary until it ends. Should it start after all, it is in nobody's way.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command();
    command.current_dir(folder.path());
    for variable in [
        "WHATSAPP_EXPORTER_WEB_LISTEN_ADDRESS",
        "WHATSAPP_EXPORTER_WEBHOOK_LISTEN_ADDRESS",
    ] {
        command.env(variable, "127.0.0.1:0");
    }
    command.args(arguments).envs(environment.iter().copied());
    finish(command)
}

/// The sentence with which the usage or the configuration was refused.
#[track_caller]
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = run(arguments, environment);
    let sentence = stderr(&output);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{arguments:?} {environment:?}: {sentence}"
    );
    assert_eq!(stdout(&output), "");
    sentence
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The variable of a flag.
fn variable(flag: &str) -> String {
    format!(
        "WHATSAPP_EXPORTER_{}",
        flag.replace(['.', '-'], "_").to_uppercase()
    )
}
