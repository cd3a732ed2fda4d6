//! Documentation that is generated, or that must keep up with the program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use whatsapp_quality_exporter::{
    cli,
    domain::{AccountKey, EventKind, NumberKey, QualityRating, Timestamp},
    providers::{self, Example, Proof, SampleKind},
    state::{Entity, Family, MetricKind},
    telemetry::Telemetry,
};

use crate::{
    exposition::page_of_everything,
    support::{assert_golden, fixture, samples},
    verbs::documents,
};

#[test]
fn golden_reference_of_the_metrics() {
    let mut page = String::from(
        "# Metrics\n\n<!-- Generated from the family tables: make golden -->\n\n## Phone numbers\n\n\
         Labels: `provider`, `waba_id` (empty where the provider sends none), `phone_number`.\n\n",
    );
    page.push_str(HEAD);
    NumberKey::FAMILIES
        .iter()
        .for_each(|family| page.push_str(&row(family)));
    page.push_str("\n## Accounts\n\nLabels: `provider`, `waba_id`.\n\n");
    page.push_str(HEAD);
    AccountKey::FAMILIES
        .iter()
        .for_each(|family| page.push_str(&row(family)));
    page.push_str("\n## The exporter itself\n\n");
    page.push_str(HEAD);
    let telemetry = Telemetry::new().unwrap();
    #[cfg(feature = "etcd")]
    telemetry.replication().unwrap();
    for provider in providers::ALL {
        let metrics = telemetry.provider(provider.name).unwrap();
        let time = Timestamp::from_unix_seconds(1).unwrap();
        for gauge in [
            &metrics.last_accepted,
            &metrics.last_change,
            &metrics.last_handshake,
        ] {
            gauge.set(time);
        }
        telemetry.secret_last_used(provider.name, 1).set(time);
    }
    for family in telemetry.gather() {
        let labels: Vec<String> = match family.get_metric().first() {
            Some(metric) => metric
                .get_label()
                .iter()
                .map(|label| format!("`{}`", label.name()))
                .collect(),
            None => Vec::new(),
        };
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        page.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            family.name(),
            labels.join(", "),
            family.help()
        ));
    }
    page.push_str(
        "\nThe counters of the exporter itself begin anew with each process. Those of numbers and accounts are kept in \
         the storage,\nand so are the times of `last_accepted`, `last_change` and `last_handshake`. \
         `whatsapp_exporter_storage_revision` and\n`whatsapp_exporter_storage_watch_lag_seconds` are there with \
         `--storage.etcd.endpoints` alone.\n\n## Values of \
         labels\n\n| label | of | values |\n|---|---|---|\n",
    );
    page.push_str(&values_of_labels(&telemetry));
    assert_golden("../docs/metrics.md", &page);
}

/// The values of each closed label, as the families have them: those of numbers and accounts on the
/// golden page.
fn values_of_labels(telemetry: &Telemetry) -> String {
    const OPEN: [&str; 7] = [
        "waba_id",
        "phone_number",
        "version",
        "revision",
        "rustc",
        "secret",
        "le",
    ];
    let mut values: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let mut note = |label: &str, family: &str, value: &str| {
        if !OPEN.contains(&label) {
            let of_label = values.entry(label.to_owned()).or_default();
            of_label
                .entry(family.to_owned())
                .or_default()
                .insert(value.to_owned());
        }
    };
    for sample in samples(&page_of_everything()) {
        for (label, value) in sample
            .labels
            .iter()
            .filter(|(label, _)| *label != "provider")
        {
            note(label, &sample.name, value);
        }
    }
    for family in telemetry.gather() {
        for label in family
            .get_metric()
            .iter()
            .flat_map(|metric| metric.get_label())
        {
            note(label.name(), family.name(), label.value());
        }
    }
    let mut rows = String::new();
    for (label, families) in values {
        let mut by_values: BTreeMap<BTreeSet<String>, Vec<String>> = BTreeMap::new();
        for (family, values) in families {
            by_values
                .entry(values)
                .or_default()
                .push(format!("`{family}`"));
        }
        for (values, families) in by_values {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            rows.push_str(&format!(
                "| `{label}` | {} | {} |\n",
                families.join(", "),
                values.join(", ")
            ));
        }
    }
    rows.push_str("\nThe value `none` of `provider` stands for a path that names no provider.\n");
    rows
}

const HEAD: &str = "| family | type | further labels | meaning |\n|---|---|---|---|\n";

fn row<T>(family: &Family<T>) -> String {
    let kind = match family.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    let label = family
        .label
        .map(|label| format!("`{label}`"))
        .unwrap_or_default();
    format!(
        "| `{}` | {kind} | {label} | {} |\n",
        family.name, family.help
    )
}

#[test]
fn golden_reference_of_the_providers() {
    let mut page = String::from(
        "# Providers\n\n<!-- Generated from the list of providers: make golden -->\n\nA provider is on when it has a secret, or \
         is named in `--webhook.allow-unauthenticated`; otherwise its\npaths are 404. Each flag for a secret is \
         repeatable, with one secret to a file; the secret itself may stand in\nthe environment instead. A token is sent \
         in the header `Authorization`, as it is or after `Bearer `, or as the last\nsegment of the path, \
         percent-encoded.\n",
    );
    let command = cli::command();
    for provider in providers::ALL {
        let name = provider.name.as_str();
        let methods: Vec<_> = provider
            .methods
            .iter()
            .map(|method| format!("`{method}`"))
            .collect();
        page.push_str(&format!(
            "\n## {}\n\n{}\n\n",
            provider.title,
            provider.setup.trim_end()
        ));
        page.push_str(&format!(
            "- Path: `/webhooks/{name}`, by {}; label `provider=\"{name}\"`\n",
            methods.join(" or ")
        ));
        let of_provider = command.get_arguments().filter(|argument| {
            argument
                .get_long()
                .is_some_and(|flag| flag.split('.').next() == Some(name))
        });
        for argument in of_provider {
            page.push_str(&format!(
                "- `--{}`: {}\n",
                argument.get_long().unwrap(),
                argument.get_help().unwrap()
            ));
        }
        let line = match provider.example {
            Example::Query(query) => {
                format!("curl 'http://127.0.0.1:10878/webhooks/{name}?{query}'")
            }
            Example::Json(body) => {
                format!("curl -d '{body}' http://127.0.0.1:10878/webhooks/{name}")
            }
        };
        page.push_str(&format!(
            "\nA webhook as it is documented, where the provider is on without a secret:\n\n```sh\n{line}\n```\n"
        ));
        let secret = match provider.proof {
            Proof::Signature(_) => "app-secret",
            Proof::Token | Proof::SignatureOrToken(_) => "token",
        };
        let words = [
            ("flagged", SampleKind::Quality(EventKind::Flagged)),
            ("rating-red", SampleKind::Rating(QualityRating::Red)),
        ];
        let mut words = words.into_iter();
        let (word, _) = words.find(|(_, kind)| documents(provider, *kind)).unwrap();
        page.push_str(&format!(
            "\nTo try it with the secret: `whatsapp-quality-exporter send {name} {word} --number 15550783881\n\
             --{secret}-file FILE` ([send](commands.md#send)).\n"
        ));
    }
    assert_golden("../docs/providers.md", &page);
}

#[test]
fn golden_table_of_the_providers_in_the_readme() {
    const BEGIN: &str = "<!-- providers: make golden -->\n";
    const END: &str = "<!-- end of providers -->";
    let readme = fixture("../README.md");
    let (head, rest) = readme.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let mut table = String::from("| provider | webhook | secret |\n|---|---|---|\n");
    let command = cli::command();
    let link = |provider: &providers::Provider| {
        let anchor = provider.title.to_lowercase().replace(' ', "-");
        format!("[{}](docs/providers.md#{anchor})", provider.title)
    };
    let is_plain =
        |provider: &&providers::Provider| provider.proof == Proof::Token && !provider.handshake;
    for provider in providers::ALL.iter().filter(|provider| !is_plain(provider)) {
        let name = provider.name.as_str();
        let flags = command
            .get_arguments()
            .filter_map(|argument| argument.get_long());
        let of_provider = flags.filter(|flag| flag.split('.').next() == Some(name));
        let flags: Vec<_> = of_provider.map(|flag| format!("`--{flag}`")).collect();
        table.push_str(&format!(
            "| {} | `https://HOST/webhooks/{name}` | {} |\n",
            link(provider),
            flags.join(", ")
        ));
    }
    // All others differ in their name alone.
    let plain = providers::ALL.iter().filter(|provider| is_plain(provider));
    let named = |provider: &&providers::Provider| {
        format!("{} (`{}`)", link(provider), provider.name.as_str())
    };
    let plain: Vec<_> = plain.map(named).collect();
    table.push_str(&format!(
        "| {} | `https://HOST/webhooks/NAME` | `--NAME.token-file` |\n",
        plain.join(", ")
    ));
    assert_golden("../README.md", &format!("{head}{BEGIN}{table}{END}{tail}"));
}

#[test]
fn readme_and_reference_of_the_providers_have_every_flag() {
    let pages = fixture("../README.md") + &fixture("../docs/providers.md");
    for flag in cli::command()
        .get_arguments()
        .filter_map(|argument| argument.get_long())
    {
        assert!(
            pages.contains(&format!("`--{flag}`")),
            "the documentation lacks --{flag}"
        );
    }
}

#[test]
fn tests_that_promises_name_exist() {
    let modules = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap();
    let tests: BTreeSet<String> = modules
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .flat_map(|path| {
            let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| {
                let declared = line.trim_start().strip_prefix("fn ")?;
                let (name, _) = declared.split_once('(')?;
                Some(format!("{module}::{name}"))
            });
            names.collect::<Vec<_>>()
        })
        .collect();
    for page in ["../docs/durability.md", "../SECURITY.md"] {
        let page = fixture(page);
        let named: Vec<_> = page.split('`').filter(|code| code.contains("::")).collect();
        assert!(!named.is_empty());
        for name in named {
            assert!(tests.contains(name), "there is no test {name}");
        }
    }
}
