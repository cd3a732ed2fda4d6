//! The verbs of the command line, as they are typed: what they print, and how they end.

use std::{collections::BTreeSet, fs, net::TcpListener, path::Path, process::Output};

use whatsapp_quality_exporter::{
    cli,
    domain::{BanState, MessagingLimit, PhoneNumber, TemplateQuality, WabaId},
    providers::{self, Proof, SampleKind},
};

use crate::{
    memory::{NEW_YEAR, at},
    support::{Exporter, assert_golden, command, fixture},
    tls::Certificates,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const META_SECRET: (&str, &str) = ("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET);

#[test]
fn send_changes_the_metrics_by_everything_that_a_provider_documents() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = secrets();
    let secrets: Vec<_> = secrets.iter().map(|name| (name.as_str(), SECRET)).collect();
    let exporter = Exporter::start_bare(&folder.path().join("data"), &[], &secrets);
    let url = format!("--url=http://{}", exporter.webhook);
    let all = SampleKind::all();
    let mut sent = BTreeSet::new();
    for provider in providers::ALL {
        let name = provider.name.as_str();
        for (index, (word, kind)) in all.iter().enumerate() {
            // A number and an account of its own, so that nothing but this can have changed it.
            let number = format!("15550783{index:03}");
            let waba_id = format!("1022901{index:03}");
            let number_flag = format!("--number=+{number}");
            let account_flag = format!("--waba-id={waba_id}");
            let mut arguments = vec!["send", name, word, &account_flag, &url];
            let mut subject = ("waba_id", waba_id.as_str());
            if kind.is_of_a_number() {
                arguments.push(&number_flag);
                subject = ("phone_number", &number);
            }
            if matches!(kind, SampleKind::Quality(_) | SampleKind::Capability) {
                arguments.extend(["--from=50K", "--to=2K"]);
            }
            let output = verb(folder.path(), &arguments, &secrets);
            if !documents(provider, *kind) {
                let reason = "documents no webhook of that kind";
                assert!(
                    stderr(&output).contains(reason),
                    "{name} {word}: {output:?}"
                );
                assert_eq!(output.status.code(), Some(1));
                continue;
            }
            assert_eq!(output.status.code(), Some(0), "{name} {word}: {output:?}");
            let said = stdout(&output);
            let counts =
                r#"{"applied":1,"duplicate":0,"stale":0,"ignored":0,"invalid":0,"test":0}"#;
            let expected = format!("answered 200: {counts}\n");
            assert!(said.ends_with(&expected), "{name} {word}: {said}");
            for (family, label, value) in shown(*kind) {
                let mut labels = vec![("provider", name), subject];
                labels.extend(label);
                let found = exporter.value(family, &labels);
                assert_eq!(found, Some(value), "{name} {word}: {family}");
            }
            sent.insert((name, word.as_str()));
        }
    }
    for (word, kind) in &all {
        let is_rating = matches!(kind, SampleKind::Rating(_));
        assert_ne!(sent.contains(&("meta", word)), is_rating, "{word}");
    }
    for documented in [
        ("8x8", "restricted-biz-initiated-messaging"),
        ("8x8", "template-red"),
        ("aws", "alert-critical"),
        ("gupshup", "account-violation"),
        ("gupshup", "capability"),
        ("innopaas", "template-paused"),
        ("innopaas", "template-red"),
        ("kaleyra", "flagged"),
        ("nxcloud", "disable"),
        ("nxcloud", "template-paused"),
        ("telnyx", "account-restriction"),
        ("telnyx", "rating-red"),
        ("wati", "account-deleted"),
        ("ycloud", "rating-yellow"),
        ("zernio", "disable"),
        ("zernio", "upgrade"),
    ] {
        assert!(sent.contains(&documented), "{documented:?}: {sent:?}");
    }
}

/// A sample: its family, its label where it has one of its own, and its value.
type Shown = (&'static str, Option<(&'static str, &'static str)>, f64);

/// The samples that show what happened.
fn shown(kind: SampleKind) -> Vec<Shown> {
    let counted = |family, label, name| vec![(family, Some((label, name)), 1.0)];
    match kind {
        SampleKind::Quality(event) => vec![
            (
                "whatsapp_phone_number_quality_events_total",
                Some(("event", event.as_str())),
                1.0,
            ),
            ("whatsapp_phone_number_messaging_limit", None, 2000.0),
        ],
        SampleKind::Rating(rating) => counted(
            "whatsapp_phone_number_quality_rating",
            "rating",
            rating.as_str(),
        ),
        SampleKind::Capability => {
            vec![("whatsapp_business_account_messaging_limit", None, 2000.0)]
        }
        SampleKind::Account(event) => counted(
            "whatsapp_business_account_events_total",
            "event",
            event.as_str(),
        ),
        SampleKind::Restriction(restriction) => vec![(
            "whatsapp_business_account_restriction_end_timestamp_seconds",
            Some(("restriction", restriction.as_str())),
            f64::INFINITY,
        )],
        SampleKind::BanState(state) => [
            ("whatsapp_business_account_disabled", BanState::Disable),
            (
                "whatsapp_business_account_disable_scheduled",
                BanState::ScheduleForDisable,
            ),
        ]
        .map(|(family, of)| (family, None, f64::from(u8::from(state == of))))
        .into(),
        SampleKind::Alert(severity) => counted(
            "whatsapp_business_account_alerts_total",
            "severity",
            severity.as_str(),
        ),
        SampleKind::Template(event) => counted(
            "whatsapp_business_account_template_events_total",
            "event",
            event.as_str(),
        ),
        SampleKind::TemplateQuality(quality) => {
            let label = ("quality", quality.as_str());
            let reports = "whatsapp_business_account_template_quality_events_total";
            let mut samples = vec![(reports, Some(label), 1.0)];
            if quality != TemplateQuality::Green {
                samples.push(("whatsapp_business_account_templates", Some(label), 1.0));
            }
            samples
        }
    }
}

#[test]
fn send_says_why_a_webhook_was_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let one_provider = [META_SECRET];
    let exporter = Exporter::start_bare(&folder.path().join("data"), &[], &one_provider);
    let [webhook, web] = [exporter.webhook, exporter.web].map(|at| format!("--url=http://{at}"));
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = format!("--url=http://{free}");
    fs::write(folder.path().join("wrong.secret"), "f".repeat(32)).unwrap();
    let sent = ["meta", "flagged", "--number=1555"];
    let refused = |arguments: &[&str]| {
        let output = verb(folder.path(), &[&["send"], arguments].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        stderr(&output)
    };
    let wrong = ["--meta.app-secret-file=wrong.secret", &webhook];
    for (arguments, sentence) in [
        (&wrong[..], "the secret that was given is not one of those"),
        (&[&webhook], "no secret was given, and the exporter has one"),
        (&[&web], "--url is not the address of its webhook listener"),
        (&[&nobody], "the connection was refused; start the exporter"),
        (&["--url=http://"], "--url is not an address"),
        (
            &["--token-file=wrong.secret"],
            "--token-file is not how Meta Cloud API proves",
        ),
        (
            &["--app-secret-file=missing"],
            "cannot read the secret file missing",
        ),
    ] {
        let said = refused(&[&sent, arguments].concat());
        assert!(said.contains(sentence), "{arguments:?}: {said}");
        assert!(!said.contains("ffff"), "{said}");
    }
    let off = refused(&["8x8", "flagged", "--number=1555", &webhook]);
    assert!(off.contains("no secret for it (--8x8.token-file)"), "{off}");
    assert!(refused(&["meta", "flagged", &webhook]).contains("give --number"));
    assert!(refused(&["meta", "capability", &webhook]).contains("needs --to"));
    let disable = |flag| refused(&["meta", "disable", flag, &webhook]);
    assert!(disable("--number=1555").contains("leave --number out"));
    for flag in ["--from=1K", "--to=1K"] {
        assert!(disable(flag).contains("leave --from and --to out"));
    }
    for mistake in ["--to=many", "--at=yesterday", "--number=<number>"] {
        let output = verb(folder.path(), &["send", "meta", "flagged", mistake], &[]);
        assert_eq!(output.status.code(), Some(2), "{mistake}: {output:?}");
    }
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(0.0)
    );
}

#[test]
fn check_finds_all_mistakes_at_once() {
    let certificates = Certificates::new();
    certificates.issue("old", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let tls = "tls_server_config: {cert_file: old.pem, key_file: old.key}\n";
    certificates.write("web.yml", tls);
    certificates.write(
        "webhook.yml",
        "tls_server_config:\n  sert_file: server.pem\n",
    );
    certificates.write("file", "");
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--web.listen-address={}", in_use.local_addr().unwrap());
    let output = verb(
        &certificates.path(""),
        &[
            "check",
            "--meta.app-secret-file=missing.secret",
            "--web.config.file=web.yml",
            "--webhook.config.file=webhook.yml",
            &address,
            "--webhook.listen-address=127.0.0.1:0",
            "--storage.path=file/data",
            "--log.format",
            "xml",
            "--web.no-such-flag",
        ],
        &[("WHATSAPP_EXPORTER_LIMITS_MAX_PHONE_NUMBERS", "many")],
    );
    let found = stdout(&output);
    println!("{found}");
    assert_eq!(output.status.code(), Some(1), "{found}");
    let findings = [
        "'xml' for '--log.format",
        "'many' for '--limits.max-phone-numbers",
        "unexpected argument '--web.no-such-flag' found",
        "cannot read the secret file missing.secret of --meta.app-secret-file",
        "--web.config.file: the certificate has expired (2021-01-01T00:00:00Z)",
        "--webhook.config.file (webhook.yml): tls_server_config: unknown field `sert_file`",
        "cannot listen on 127.0.0.1:",
        "cannot use the storage folder",
    ];
    for finding in findings {
        let lines = found.lines().filter(|line| line.contains(finding));
        assert_eq!(lines.count(), 1, "{finding}: {found}");
    }
    assert_eq!(found.lines().count(), findings.len(), "{found}");
    assert_eq!(
        stderr(&output),
        format!("error: {} findings\n", findings.len())
    );
}

#[test]
fn check_without_a_finding_says_until_when_certificates_are_valid_and_makes_nothing() {
    let certificates = Certificates::new();
    let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    certificates.write("web.yml", tls);
    let arguments = [
        "check",
        "--web.config.file=web.yml",
        "--web.listen-address=127.0.0.1:0",
        "--webhook.listen-address=127.0.0.1:0",
        "--storage.path=data/below",
    ];
    let output = verb(&certificates.path(""), &arguments, &[META_SECRET]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("--web.config.file: the certificate is valid until "));
    assert!(!certificates.path("data").exists());
    let output = verb(&certificates.path(""), &arguments, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("no provider is on"), "{output:?}");
    // A provider is on by a secret that is odd, which is the one finding.
    let odd = [("WHATSAPP_EXPORTER_META_APP_SECRET", "odd")];
    let output = verb(&certificates.path(""), &arguments, &odd);
    assert_eq!(stderr(&output), "error: 1 finding\n", "{output:?}");

    let storage = certificates.path("data/below");
    let exporter = Exporter::start(&storage, &[]);
    let output = verb(&certificates.path(""), &arguments, &[META_SECRET]);
    assert!(stdout(&output).contains("another process"), "{output:?}");
    drop(exporter);
    assert_eq!(
        verb(&certificates.path(""), &arguments, &[META_SECRET])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn rules_and_dashboards_are_those_that_are_shipped() {
    const URL: &str = "https://wiki.example.org/runbook.md";
    const SHIPPED: &str = "https://example.com/whatsapp-quality-exporter/docs/runbook.md";
    let folder = tempfile::tempdir().unwrap();
    for (name, files) in [
        (
            "rules",
            &["alerts/whatsapp.rules.yml", "alerts/alertmanager.yml"][..],
        ),
        (
            "dashboards",
            &[
                "dashboards/whatsapp-fleet.json",
                "dashboards/whatsapp-accounts.json",
                "dashboards/whatsapp-exporter.json",
            ],
        ),
    ] {
        let mut addresses = 0;
        for arguments in [vec![name], vec![name, "new/folder", "--runbook-url", URL]] {
            let output = verb(folder.path(), &arguments, &[]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let said = stdout(&output);
            let written: Vec<_> = said.lines().map(|path| folder.path().join(path)).collect();
            assert_eq!(written.len(), files.len());
            for (file, written) in files.iter().zip(written) {
                let shipped = fixture(&format!("../{file}"));
                let written = fs::read_to_string(written).unwrap();
                if arguments.len() == 1 {
                    assert_eq!(written, shipped, "{file}");
                } else {
                    assert_eq!(written, shipped.replace(SHIPPED, URL), "{file}");
                    addresses += written.matches(URL).count();
                }
            }
        }
        assert!(addresses > 0, "{name} has no address of the runbook");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    let output = verb(folder.path(), &["rules", "file"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: cannot write file"),
        "{output:?}"
    );
}

#[test]
fn healthcheck_fails_where_the_exporter_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::start(&folder.path().join("data"), &[]);
    let url = format!("--url=http://{}/", exporter.web);
    // A variable that serve would not take is nothing to the other verbs.
    let mistake = [("WHATSAPP_EXPORTER_LOG_LEVEL", "loud")];
    let health = || verb(folder.path(), &["healthcheck", &url], &mistake);
    assert_eq!(
        (health().status.code(), stdout(&health())),
        (Some(0), "ready\n".into())
    );
    exporter.end("TERM");
    assert_eq!(health().status.code(), Some(1));
    assert!(stderr(&health()).contains("the connection was refused"));
}

#[test]
fn serve_takes_the_flags_that_work_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = command();
    program.arg("serve");
    let exporter = Exporter::start_under(program, &folder.path().join("data"));
    assert_eq!(exporter.get("/-/healthy").status, 200);
    let refused = |arguments: &[&str]| {
        let output = verb(folder.path(), arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        stderr(&output).lines().next().map(str::to_owned)
    };
    let mistake = "--log.level=loud";
    assert_eq!(refused(&["serve", mistake]), refused(&[mistake]));
}

#[test]
fn completions_and_manual_pages_have_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    let command = cli::command();
    let verbs: Vec<_> = command
        .get_subcommands()
        .map(|verb| verb.get_name())
        .collect();
    assert!(verbs.contains(&"send") && verbs.len() >= 8, "{verbs:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&verb(folder.path(), &["completions", shell], &[]));
        assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
    }
    let script = folder.path().join("script");
    fs::write(
        &script,
        stdout(&verb(folder.path(), &["completions", "bash"], &[])),
    )
    .unwrap();
    let mut bash = std::process::Command::new("bash");
    bash.arg("-ec")
        .arg("source \"$0\"; complete -p whatsapp-quality-exporter")
        .arg(&script);
    let output = bash.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let page = stdout(&verb(folder.path(), &["man"], &[]));
    assert!(page.contains(".TH whatsapp-quality-exporter 1"), "{page}");
    for name in verbs {
        assert!(
            page.contains(&format!("whatsapp\\-quality\\-exporter\\-{name}(1)")),
            "{name}"
        );
        let of_verb = verb(folder.path(), &["man", name], &[]);
        assert!(stdout(&of_verb).contains(".SH SYNOPSIS"), "{of_verb:?}");
    }
    assert_eq!(
        verb(folder.path(), &["man", "woman"], &[]).status.code(),
        Some(1)
    );
}

#[test]
fn golden_reference_of_the_commands() {
    let mut page = String::from(
        "# Commands\n\n<!-- Generated from the command line: make golden -->\n\n\
         `whatsapp-quality-exporter` without a command serves, as `serve` does, whose flags are in the\n\
         [README](../README.md#flags).\n",
    );
    // A verb that does several things is described by them.
    let mut verbs = Vec::new();
    for verb in cli::command().get_subcommands() {
        let name = verb.get_name();
        let parts: Vec<_> = verb.get_subcommands().collect();
        for part in &parts {
            verbs.push((format!("{name} {}", part.get_name()), (*part).clone()));
        }
        if parts.is_empty() && name != "help" {
            verbs.push((name.to_owned(), verb.clone()));
        }
    }
    for (name, verb) in verbs {
        // The flags of serve stand in the README.
        let is_serves = |arg: &clap::Arg| arg.get_long().is_some_and(|flag| flag.contains('.'));
        let hidden: Vec<_> = verb
            .get_arguments()
            .filter(|arg| is_serves(arg))
            .map(|arg| arg.get_id().clone())
            .collect();
        let mut verb = verb.bin_name(format!("whatsapp-quality-exporter {name}"));
        for id in hidden {
            verb = verb.mut_arg(id, |arg| arg.hide(true));
        }
        let help = verb.render_help().to_string();
        page.push_str(&format!(
            "\n## {name}\n\n```text\n{}\n```\n",
            help.trim_end()
        ));
    }
    assert_golden("../docs/commands.md", &page);
}

/// Whether a provider documents webhooks of this kind.
pub fn documents(provider: &providers::Provider, kind: SampleKind) -> bool {
    let number = PhoneNumber::parse("1").unwrap();
    let sample = providers::Sample {
        waba_id: WabaId::parse("1").unwrap(),
        phone_number: kind.is_of_a_number().then_some(number),
        kind,
        old_limit: None,
        limit: MessagingLimit::parse("1K"),
        at: at(NEW_YEAR),
    };
    provider.write(&sample).is_some()
}

/// The variables that turn all providers on.
fn secrets() -> Vec<String> {
    let variable = |provider: &&providers::Provider| {
        let kind = match provider.proof {
            Proof::Signature(_) => "APP_SECRET",
            Proof::Token | Proof::SignatureOrToken(_) => "TOKEN",
        };
        let name = provider.name.as_str().to_uppercase();
        format!("WHATSAPP_EXPORTER_{name}_{kind}")
    };
    providers::ALL.iter().map(variable).collect()
}

/// Runs a verb in a folder until it ends.
fn verb(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = command();
    command
        .current_dir(folder)
        .args(arguments)
        .envs(environment.iter().copied());
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
