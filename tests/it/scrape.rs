//! What a scraper gets: kept, encoded, in parts, and always the same page.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use flate2::read::GzDecoder;
use proptest::{collection::vec, prelude::*};
use serde_json::json;
use whatsapp_quality_exporter::{
    exposition::{Encoding, Exposition, Format, ScrapeOptions, ShardFilter},
    state::Table,
    telemetry::Telemetry,
};

use crate::{
    memory::{Memory, NEW_YEAR, at, cases, post, provider},
    support::{Answer, Exporter, Server, request, samples, wait_for},
};

#[test]
fn every_prometheus_scrapes_both_formats_without_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(&folder.path().join("data"), &[]);
    for (number, limit) in [
        ("15550000001", "TIER_10K"),
        ("15550000002", "TIER_UNLIMITED"),
        ("1\\n\"é", "TIER_1K"),
    ] {
        let value =
            json!({"display_phone_number": number, "event": "DOWNGRADE", "current_limit": limit});
        let change = json!({"field": "phone_number_quality_update", "value": value});
        let body = json!({"entry": [{"id": "1", "time": 1_748_454_394, "changes": [change]}]});
        assert_eq!(
            exporter.post("/webhooks/meta", &body.to_string()).json()["applied"],
            1
        );
    }

    // Debian's own version takes OpenMetrics where it can; later ones can be told.
    let mut versions = vec![("prometheus".to_owned(), vec!["OpenMetricsText1.0.0"])];
    for suite in ["trixie", "forky"] {
        let program = format!(
            "{}/target/tools/{suite}/usr/bin/prometheus",
            env!("CARGO_MANIFEST_DIR")
        );
        // Setup has them where it can read Debian's archive.
        if Path::new(&program).exists()
            || Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists()
        {
            versions.push((program, vec!["OpenMetricsText1.0.0", "PrometheusText0.0.4"]));
        }
    }
    for (version, (program, formats)) in versions.iter().enumerate() {
        let jobs: Vec<_> = formats
            .iter()
            .map(|format| {
                let mut job =
                    json!({"job_name": format, "static_configs": [{"targets": [exporter.web]}]});
                if version > 0 {
                    job["scrape_protocols"] = json!([format]);
                }
                job
            })
            .collect();
        let configuration = json!({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs});
        let folder = folder.path().join(version.to_string());
        fs::create_dir(&folder).unwrap();
        let prometheus = Server::prometheus(program, &folder, &configuration);
        for format in formats {
            let target = |field: &str| {
                let targets = prometheus.get("/api/v1/targets")["data"]["activeTargets"].take();
                let found = targets
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|target| target["scrapePool"] == *format)
                    .cloned();
                found
                    .map(|target| target[field].as_str().unwrap().to_owned())
                    .unwrap_or_default()
            };
            wait_for("a scrape", || {
                !["", "unknown"].contains(&target("health").as_str())
            });
            assert_eq!(
                (target("health").as_str(), target("lastError").as_str()),
                ("up", ""),
                "{program} {format}"
            );

            // A counter of OpenMetrics is described without its suffix: the format was the one that
            // was asked for.
            let name = "whatsapp_phone_number_quality_events";
            let described = if format.starts_with("Open") {
                name.to_owned()
            } else {
                format!("{name}_total")
            };
            let path = format!(
                "/api/v1/targets/metadata?match_target=%7Bjob=%22{format}%22%7D&metric={described}"
            );
            assert_eq!(
                prometheus.get(&path)["data"][0]["type"],
                "counter",
                "{program} {format}"
            );

            let value = |query: &str| {
                let path = format!("/api/v1/query?query={query}%7Bjob=%22{format}%22%7D)");
                prometheus.get(&path)["data"]["result"][0]["value"][1]
                    .as_str()
                    .map(str::to_owned)
            };
            wait_for(&format!("a limit in {program} {format}"), || {
                value("max(whatsapp_phone_number_messaging_limit").as_deref() == Some("+Inf")
            });
            assert_eq!(
                value("sum(whatsapp_phone_number_quality_events_total").as_deref(),
                Some("3"),
                "{program} {format}"
            );
            assert_eq!(
                value("count(whatsapp_phone_number_flagged").as_deref(),
                Some("3"),
                "{program} {format}"
            );
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]

    /// Whatever was kept from pages before, and whichever form was asked for between.
    #[test]
    fn a_page_is_the_same_however_it_is_made(rounds in vec((vec(webhook(), 0..6), any::<[bool; 3]>()), 1..8)) {
        let mut memory = Memory::default();
        let mut kept = Exposition::new(Arc::clone(&memory.table));
        let own = Telemetry::new().unwrap().gather();
        for (round, (webhooks, asked)) in rounds.into_iter().enumerate() {
            for webhook in webhooks {
                memory.deliver(provider("meta"), &post(webhook.as_bytes()), at(NEW_YEAR + round as i64)).unwrap();
            }
            for (asked, options) in asked.into_iter().zip(asks()) {
                if asked {
                    let made = kept.page(options, &own).concat();
                    let plain = ScrapeOptions { encoding: Encoding::Plain, ..options };
                    let fresh = Exposition::new(Arc::clone(&memory.table)).page(plain, &own).concat();
                    let made = if options.encoding == Encoding::Gzip { gunzip(&made) } else { made };
                    prop_assert_eq!(String::from_utf8(made).unwrap(), String::from_utf8(fresh).unwrap());
                }
            }
        }
    }

    #[test]
    fn parts_are_the_whole_and_nothing_twice(webhooks in vec(webhook(), 1..60), of in 1..40_usize) {
        let mut memory = Memory::default();
        for webhook in webhooks {
            memory.deliver(provider("meta"), &post(webhook.as_bytes()), at(NEW_YEAR)).unwrap();
        }
        assert_partitioned(&memory.table, of);
    }
}

#[test]
fn parts_of_a_large_fleet_are_the_whole_and_of_one_size() {
    let mut memory = Memory::default();
    for number in 0..4000 {
        memory
            .deliver(
                provider("meta"),
                &post(flagged(number).as_bytes()),
                at(NEW_YEAR),
            )
            .unwrap();
    }
    for of in [1, 2, 3, 8, 100, 256, 300] {
        assert_partitioned(&memory.table, of);
    }
    for index in 0..8 {
        let mut kept = Exposition::new(Arc::clone(&memory.table));
        let numbers = flags(&mut kept, &format!("{index}/8")).len();
        assert!(
            (400..600).contains(&numbers),
            "part {index} of 8 has {numbers} of 4000"
        );
    }
}

#[test]
fn page_that_is_not_asked_for_is_given_up_and_made_again() {
    let mut memory = Memory::default();
    memory
        .deliver(provider("meta"), &post(flagged(1).as_bytes()), at(NEW_YEAR))
        .unwrap();
    let mut kept = Exposition::new(Arc::clone(&memory.table));
    let gzip = ScrapeOptions {
        encoding: Encoding::Gzip,
        ..ScrapeOptions::default()
    };
    let first = kept.page(ScrapeOptions::default(), &[]).concat();
    for _ in 0..100 {
        assert_eq!(gunzip(&kept.page(gzip, &[]).concat()), first);
    }
    assert_eq!(kept.page(ScrapeOptions::default(), &[]).concat(), first);
}

#[test]
fn a_change_that_keeps_length_and_crc_is_seen() {
    // "1742570190" and "1759395325" have one CRC-32, and so has every text that differs in them
    // alone.
    let webhook = |time: u64| {
        json!({"entry": [{"id": "1", "time": time, "changes": [change(1)]}]}).to_string()
    };
    for options in asks() {
        let mut memory = Memory::default();
        let mut kept = Exposition::new(Arc::clone(&memory.table));
        let mut last_event = |time: u64| {
            memory
                .deliver(
                    provider("meta"),
                    &post(webhook(time).as_bytes()),
                    at(NEW_YEAR),
                )
                .unwrap();
            let page = kept.page(options, &[]).concat();
            let page = String::from_utf8(if options.encoding == Encoding::Gzip {
                gunzip(&page)
            } else {
                page
            })
            .unwrap();
            let line = page
                .lines()
                .find(|line| line.starts_with("whatsapp_phone_number_last_event"))
                .unwrap();
            line.rsplit_once(' ').unwrap().1.to_owned()
        };
        assert_eq!(last_event(1_742_570_190), "1742570190");
        assert_eq!(last_event(1_759_395_325), "1759395325");
    }
}

#[test]
fn the_answer_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = hostile(folder.path());
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, encoding, content_type, content_encoding) in [
        ("*/*", "", "text/plain; version=0.0.4; charset=utf-8", None),
        (
            "*/*",
            "gzip",
            "text/plain; version=0.0.4; charset=utf-8",
            Some("gzip"),
        ),
        (
            prometheus,
            "gzip",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Some("gzip"),
        ),
        (
            prometheus,
            "gzip;q=0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            None,
        ),
    ] {
        let headers = [("Accept", accept), ("Accept-Encoding", encoding)];
        let answer = request(exporter.web, "GET", "/metrics", &headers, b"").unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], content_type);
        assert_eq!(
            answer.headers.get("content-encoding").map(String::as_str),
            content_encoding
        );
        assert_eq!(answer.headers["vary"], "Accept, Accept-Encoding");
        assert_eq!(
            answer.headers["content-length"],
            answer.body.len().to_string()
        );
        let page = if content_encoding.is_some() {
            gunzip(&answer.body)
        } else {
            answer.body
        };
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.ends_with("# EOF\n"), accept == prometheus);
        assert_eq!(
            page.contains("# TYPE whatsapp_phone_number_quality_events counter"),
            accept == prometheus
        );
        assert_eq!(
            page.contains("# TYPE whatsapp_phone_number_quality_events_total counter"),
            accept != prometheus
        );
        assert_eq!(page.contains("le=\"1.0\""), accept == prometheus);
        assert!(page.contains("\nwhatsapp_phone_number_quality_events_total{"));

        let head = request(exporter.web, "HEAD", "/metrics", &headers, b"").unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.headers["content-type"], content_type);
        assert!(head.headers["content-length"].parse::<u64>().unwrap() > 1000);
    }
}

#[test]
fn a_part_is_asked_for_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = hostile(folder.path());
    let whole = samples(exporter.get("/metrics").text());
    let fleet = |answer: &Answer| {
        samples(answer.text())
            .into_iter()
            .filter(|sample| sample.name.starts_with("whatsapp_phone_number_"))
            .count()
    };
    let mut found = 0;
    for index in 0..3 {
        let part = exporter.get(&format!("/metrics?shard={index}/3"));
        assert_eq!(
            part.text().contains("whatsapp_business_account_"),
            index == 0
        );
        assert_eq!(
            part.text().contains("whatsapp_exporter_build_info"),
            index == 0
        );
        found += fleet(&part);
    }
    assert_eq!(
        found,
        whole
            .iter()
            .filter(|sample| sample.name.starts_with("whatsapp_phone_number_"))
            .count()
    );
    for bad in [
        "3/3",
        "-1/3",
        "1/0",
        "0/0",
        "a/3",
        "1",
        "",
        "+1/3",
        "1/3/3",
        "1/99999999999999999999999",
    ] {
        assert_eq!(
            exporter.get(&format!("/metrics?shard={bad}")).status,
            400,
            "{bad}"
        );
    }
    assert_eq!(exporter.get("/metrics?collect[]=x").status, 200);
}

#[test]
fn every_decoder_reads_the_one_gzip_member() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = hostile(folder.path());
    let url = format!("http://{}/metrics?shard=1/2", exporter.web);
    let plain = exporter.get("/metrics?shard=1/2").body;
    assert!(plain.len() > 5000, "too little to tell");
    let headers = [("Accept-Encoding", "gzip")];
    let packed = request(exporter.web, "GET", "/metrics?shard=1/2", &headers, b"")
        .unwrap()
        .body;

    let curl = Command::new("curl")
        .args(["--silent", "--fail", "--compressed", &url])
        .output()
        .unwrap();
    assert_eq!(curl.stdout, plain, "curl");
    assert_eq!(through("gunzip", &[], &packed), plain, "gunzip");
    let python =
        "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    assert_eq!(
        through("python3", &["-c", python], &packed),
        plain,
        "Python"
    );
    // One member and nothing after it, as browsers want.
    let python = "import zlib,sys; d = zlib.decompressobj(31); sys.stdout.buffer.write(d.decompress(sys.stdin.buffer.read())); assert d.eof and not d.unused_data";
    assert_eq!(through("python3", &["-c", python], &packed), plain, "zlib");
}

#[test]
fn scrapes_have_so_many_places_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(folder.path(), &["--web.max-requests=1"]);
    for _ in 0..5 {
        assert_eq!(
            exporter.get("/metrics").status,
            200,
            "a place was not given back"
        );
    }
    // A scraper that does not read keeps its place; its answer must be larger than what the system
    // buffers.
    for chunk in 0..20 {
        let batch = (0..1000).map(|number| number + chunk * 1000);
        let changes: Vec<_> = batch.map(change).collect();
        let body = json!({"entry": [{"id": "1", "time": NEW_YEAR, "changes": changes}]});
        assert_eq!(
            exporter.post("/webhooks/meta", &body.to_string()).json()["applied"],
            1000
        );
    }
    let mut idle = crate::support::connect(exporter.web).unwrap();
    idle.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut first = [0];
    idle.read_exact(&mut first).unwrap();
    let refused = exporter.get("/metrics");
    assert_eq!(refused.status, 503, "{:?}", refused.text().get(..100));
    assert_eq!(exporter.get("/-/healthy").status, 200);
    drop(idle);
    crate::support::wait_for("the place to be given back", || {
        exporter.get("/metrics").status == 200
    });
}

fn asks() -> [ScrapeOptions; 3] {
    [
        ScrapeOptions::default(),
        ScrapeOptions {
            encoding: Encoding::Gzip,
            ..ScrapeOptions::default()
        },
        ScrapeOptions {
            encoding: Encoding::Gzip,
            format: Format::OpenMetrics,
            ..ScrapeOptions::default()
        },
    ]
}

fn webhook() -> impl Strategy<Value = String> {
    let text = "[0-9]{1,3}|[a-z\"\\\\\n\0🙂{},]{1,8}";
    (
        text,
        text,
        prop_oneof![
            Just("FLAGGED"),
            Just("UPGRADE"),
            Just("DOWNGRADE"),
            Just("ONBOARDING")
        ],
        0..4_u32,
    )
        .prop_map(|(account, number, event, limit)| {
            let value = json!({"display_phone_number": number, "event": event,
                "max_daily_conversations_per_business": 10_u32.pow(limit + 2)});
            let changes = json!([{"field": "phone_number_quality_update", "value": value}]);
            json!({"entry": [{"id": account, "changes": changes}]}).to_string()
        })
}

fn change(number: u32) -> serde_json::Value {
    let value = json!({"display_phone_number": format!("1555{number:07}"), "event": "FLAGGED"});
    json!({"field": "phone_number_quality_update", "value": value})
}

fn flagged(number: u32) -> String {
    json!({"entry": [{"id": "1", "changes": [change(number)]}]}).to_string()
}

/// A few numbers with everything in them that a format could trip over.
fn hostile(folder: &std::path::Path) -> Exporter {
    let exporter = Exporter::start(folder, &[]);
    for number in 0..40 {
        let value = json!({"display_phone_number": format!("{number}\"\\\u{fe0f}🙂"), "event": "UPGRADE",
            "max_daily_conversations_per_business": -1});
        let body = json!({"entry": [{"id": format!("{}\"", number % 3),
            "changes": [{"field": "phone_number_quality_update", "value": value}]}]});
        assert_eq!(
            exporter.post("/webhooks/meta", &body.to_string()).json()["applied"],
            1
        );
    }
    exporter
}

/// The numbers in a part.
fn flags(kept: &mut Exposition, part: &str) -> BTreeSet<String> {
    let options = ScrapeOptions {
        part: ShardFilter::parse(part).unwrap(),
        ..ScrapeOptions::default()
    };
    let page = kept.page(options, &[]).concat();
    let page = String::from_utf8(page).unwrap();
    let flags = page
        .split('\n')
        .filter(|line| line.starts_with("whatsapp_phone_number_flagged{"));
    flags.map(str::to_owned).collect()
}

fn assert_partitioned(table: &Arc<Table>, of: usize) {
    let mut kept = Exposition::new(Arc::clone(table));
    let mut rest = flags(&mut kept, "0/1");
    // None where every webhook was of the test button's account.
    assert_eq!(rest.len(), table.numbers.len());
    for index in 0..of {
        for number in flags(&mut kept, &format!("{index}/{of}")) {
            assert!(
                rest.remove(&number),
                "{number} is in two parts of {of}, or in none"
            );
        }
    }
    assert!(rest.is_empty(), "in no part of {of}: {rest:?}");
}

fn gunzip(packed: &[u8]) -> Vec<u8> {
    let mut decoder = GzDecoder::new(packed);
    let mut page = Vec::new();
    decoder.read_to_end(&mut page).unwrap();
    assert!(decoder.into_inner().is_empty(), "bytes after the member");
    page
}

fn through(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}
