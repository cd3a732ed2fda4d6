//! What `docs/deployment.md` says of an exporter that runs.

use std::{fs, path::Path, process::Command};

use crate::{
    readme::{blocks, section},
    support::{Answer, Exporter, command, fixture, request, sign, wait_for},
};

const OLD: &str = "0123456789abcdef0123456789abcdef";
/// The one of the page.
const NEW: &str = "fedcba9876543210fedcba9876543210";

#[test]
fn secret_is_changed_in_five_steps_and_no_webhook_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let page = fixture("../docs/deployment.md");
    let steps = blocks(section(&page, "Changing a secret"), "sh");
    let [start, write, reload, look, take_away] = &steps[..] else {
        panic!("{} commands", steps.len());
    };
    let run = |commands: &str| shell(folder.path(), commands);
    run(&format!(
        "printf %s {OLD} >meta.secret; cp meta.secret meta-old.secret"
    ));
    let (_, flags) = start.trim().split_once(' ').unwrap();
    let path = folder.path().display().to_string();
    let flags = flags.replace("file=", &format!("file={path}/"));
    let arguments: Vec<_> = flags.split(' ').collect();
    let exporter = Exporter::start_bare(&folder.path().join("data"), &arguments, &[]);
    let web = exporter.web.to_string();
    let of_this = |commands: &str| {
        let process = exporter.id().to_string();
        commands
            .replace("\"$(pidof whatsapp-quality-exporter)\"", &process)
            .replace("127.0.0.1:10877", &web)
    };
    let reloads = || exporter.log().matches("configurations read again").count();
    let is_accepted = |secret| signed(&exporter, secret).status == 200;
    assert!(is_accepted(OLD) && !is_accepted(NEW));

    run(write);
    run(&of_this(reload));
    wait_for("the first reload", || reloads() == 1);
    assert!(is_accepted(OLD) && is_accepted(NEW));
    let used = run(&of_this(look));
    for secret in ["1", "2"] {
        let sample = format!(r#"{{provider="meta",secret="{secret}"}}"#);
        assert!(used.contains(&sample), "{used}");
    }

    run(&of_this(take_away));
    wait_for("the second reload", || reloads() == 2);
    assert!(!is_accepted(OLD) && is_accepted(NEW));
}

#[test]
fn table_to_plan_with_agrees_with_the_unit_and_the_flags() {
    let page = fixture("../docs/deployment.md");
    let table = section(&page, "What to plan with");
    let unit = fixture("../deploy/systemd/whatsapp-quality-exporter.service");
    let help = fixture("fixtures/help.txt");
    for (said, place) in [
        ("`127.0.0.1:10877`", "[default: 127.0.0.1:10877]"),
        ("`127.0.0.1:10878`", "[default: 127.0.0.1:10878]"),
    ] {
        assert!(table.contains(said) && help.contains(place), "{said}");
    }
    for (said, place) in [
        (
            "`whatsapp-quality-exporter` in the",
            "\nUser=whatsapp-quality-exporter\n",
        ),
        ("give 30 s (`TimeoutStopSec`", "\nTimeoutStopSec=30\n"),
    ] {
        assert!(table.contains(said) && unit.contains(place), "{said}");
    }
}

#[test]
fn kubernetes_manifests_hold_the_shipped_rules_and_dashboards() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut generate = Command::new(root.join("deploy/kubernetes/generate"));
    let status = generate.arg(folder.path()).status().unwrap();
    assert!(status.success());
    for name in ["prometheusrule.yaml", "dashboards.yaml"] {
        let generated = fs::read_to_string(folder.path().join(name)).unwrap();
        let committed = fixture(&format!("../deploy/kubernetes/{name}"));
        assert!(
            generated == committed,
            "{name}: run deploy/kubernetes/generate"
        );
    }
    let manifest = fixture("../deploy/kubernetes/prometheusrule.yaml");
    let rules = manifest.split_once("\nspec:\n").unwrap().1;
    let rules: Vec<_> = rules
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    let shipped = fixture("../alerts/whatsapp.rules.yml");
    assert_eq!(rules, shipped.lines().collect::<Vec<_>>());
}

#[test]
fn flags_of_the_kubernetes_manifest_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = fixture("../deploy/kubernetes/statefulset.yaml");
    let flags = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- --"));
    let own = folder.path().display().to_string();
    let flags: Vec<_> = flags
        .map(|flag| format!("--{flag}").replace("=/", &format!("={own}/")))
        .map(|flag| {
            flag.replace(":10877", "127.0.0.1:0")
                .replace(":10878", "127.0.0.1:0")
        })
        .collect();
    assert_eq!(flags.len(), 4);
    let secrets = folder.path().join("etc/whatsapp-quality-exporter");
    fs::create_dir_all(&secrets).unwrap();
    fs::write(secrets.join("meta-app-secret"), OLD).unwrap();
    let output = command().arg("check").args(flags).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn signed(exporter: &Exporter, secret: &str) -> Answer {
    let body = r#"{"entry":[]}"#;
    let signature = sign(secret, body.as_bytes());
    let headers = [("X-Hub-Signature-256", signature.as_str())];
    let path = "/webhooks/meta";
    request(exporter.webhook, "POST", path, &headers, body.as_bytes()).unwrap()
}

/// Runs commands in a folder, and gives what they print.
fn shell(folder: &Path, commands: &str) -> String {
    let mut shell = Command::new("sh");
    let output = shell
        .args(["-ec", commands])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{commands}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
