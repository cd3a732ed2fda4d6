//! The status page and the pages of numbers and accounts, as they are sent. What a person reads of
//! them in a browser: `tests/browser`.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::support::{Exporter, fixture, request, sign};

const HOUR_AGO: u64 = 3600;

/// An account of Meta with these numbers, each with its event, its limit and the one before.
fn send(exporter: &Exporter, waba_id: &str, numbers: &[(&str, &str, &str, &str)]) {
    let changes: Vec<_> = numbers
        .iter()
        .map(|(number, event, limit, before)| {
            json!({"field": "phone_number_quality_update", "value": {
                "display_phone_number": number, "event": event,
                "current_limit": limit, "old_limit": before,
            }})
        })
        .collect();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let entry = json!([{"id": waba_id, "time": now - HOUR_AGO, "changes": changes}]);
    let answer = exporter.post("/webhooks/meta", &json!({"entry": entry}).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The text of each cell of the first table, a row each.
fn rows(page: &str) -> Vec<Vec<String>> {
    let body = page.split_once("<tbody>").expect("a table").1;
    let body = body.split_once("</tbody>").unwrap().0;
    let cells = |row: &str| {
        let cells = row.split("</th>").flat_map(|part| part.split("</td>"));
        let text = cells.map(|cell| {
            let outside = cell
                .split('<')
                .map(|part| part.split_once('>').map_or(part, |(_, text)| text));
            outside.collect::<String>().trim().to_owned()
        });
        text.collect::<Vec<_>>()
    };
    let rows = body.split("<tr>").skip(1);
    rows.map(cells).collect()
}

fn get(exporter: &Exporter, path: &str) -> String {
    let answer = exporter.get(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text().to_owned()
}

fn numbers(exporter: &Exporter, path: &str) -> Vec<String> {
    let page = get(exporter, path);
    match page.contains("Nothing matches") {
        true => vec![],
        false => rows(&page).into_iter().map(|row| row[0].clone()).collect(),
    }
}

#[test]
fn worst_numbers_come_first_and_limits_are_in_words() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    assert!(get(&exporter, "/").contains("No phone number is known yet"));
    send(
        &exporter,
        "1",
        &[
            ("15550000001", "UPGRADE", "TIER_UNLIMITED", "TIER_100K"),
            ("15550000002", "DOWNGRADE", "TIER_1K", "TIER_10K"),
            ("15550000003", "FLAGGED", "TIER_250", ""),
            ("15550000004", "ONBOARDING", "", ""),
            ("15550000005", "ONBOARDING", "TIER_NOT_SET", ""),
        ],
    );
    send(
        &exporter,
        "2",
        &[("15550000006", "DOWNGRADE", "1500", "TIER_2K")],
    );
    let page = get(&exporter, "/");
    let read: Vec<_> = rows(&page)
        .into_iter()
        .map(|row| row[..4].join(" "))
        .collect();
    assert_eq!(
        read,
        [
            "15550000003 flagged 250 none",
            "15550000006 lowered 1500 2K",
            "15550000002 lowered 1K 10K",
            "15550000005 limited not set none",
            "15550000004 unknown unknown none",
            "15550000001 unlimited Unlimited 100K",
        ]
    );
    assert!(
        page.contains("<strong class=\"bad\">2</strong> lowered"),
        "{page}"
    );
    assert_eq!(
        rows(&page)[0][4..8],
        ["1 hour ago", "FLAGGED 1 hour ago", "1", "meta"]
    );
    // What is lowered is so until it rises.
    send(&exporter, "2", &[("15550000006", "UPGRADE", "TIER_2K", "")]);
    assert_eq!(numbers(&exporter, "/?state=lowered"), ["15550000002"]);
}

#[test]
fn numbers_are_found_by_a_part_of_them_by_their_account_and_by_filters() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    send(
        &exporter,
        "102290129340398",
        &[
            ("15550783881", "FLAGGED", "TIER_1K", ""),
            ("15550783882", "ONBOARDING", "TIER_1K", ""),
        ],
    );
    let query = "display_phone_number=16505551111&event=FLAGGED&current_limit=TIER_10K";
    request(
        exporter.webhook,
        "GET",
        &format!("/webhooks/kaleyra?{query}"),
        &[],
        b"",
    )
    .unwrap();
    let all = ["15550783881", "15550783882", "16505551111"];
    for (path, found) in [
        ("/?q=", &all[..]),
        ("/?q=078-3882", &all[1..2]),
        ("/?q=%2B1+555", &all[..2]),
        ("/?q=29340398", &all[..2]),
        ("/?q=9999", &[]),
        ("/?q=no+number", &[]),
        ("/?provider=kaleyra", &all[2..]),
        ("/?state=flagged&provider=meta", &all[..1]),
        ("/?state=unlimited", &[]),
        ("/?utm_source=mail&page=7", &all),
    ] {
        let mut numbers = numbers(&exporter, path);
        numbers.sort();
        assert_eq!(numbers, found, "{path}");
    }
    for path in [
        "/?state=bad",
        "/?provider=nobody",
        "/?page=0",
        "/?page=-1",
        "/?page=x",
    ] {
        assert_eq!(exporter.get(path).status, 400, "{path}");
    }
}

#[test]
fn pages_have_fifty_numbers_and_none_is_left_out_or_twice() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    let all: Vec<_> = (0..120).map(|index| format!("1555{index:07}")).collect();
    let sent: Vec<_> = all
        .iter()
        .map(|number| (number.as_str(), "ONBOARDING", "TIER_1K", ""))
        .collect();
    send(&exporter, "1", &sent);
    let page = |page: usize| numbers(&exporter, &format!("/?state=limited&page={page}"));
    let pages = [page(1), page(2), page(3)];
    assert_eq!(pages.each_ref().map(Vec::len), [50, 50, 20]);
    assert_eq!(pages.concat(), all);
    assert_eq!(page(99), pages[2]);
    let second = get(&exporter, "/?q=1555&state=limited&page=2");
    for link in [
        "/?q=1555&#38;state=limited&#38;page=1",
        "/?q=1555&#38;state=limited&#38;page=3",
    ] {
        assert!(second.contains(&format!("href=\"{link}\"")), "{second}");
    }
}

#[test]
fn numbers_and_accounts_have_pages_of_their_own() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    send(
        &exporter,
        "a/b ?",
        &[("15550783881", "DOWNGRADE", "TIER_1K", "TIER_10K")],
    );
    let query = "display_phone_number=16505551111&event=FLAGGED&current_limit=TIER_10K";
    request(
        exporter.webhook,
        "GET",
        &format!("/webhooks/kaleyra?{query}"),
        &[],
        b"",
    )
    .unwrap();
    let index = get(&exporter, "/");
    let mut links: Vec<_> = index
        .split("href=\"")
        .skip(1)
        .map(|rest| rest.split_once('"').unwrap().0)
        .filter(|link| link.starts_with("/numbers/") || link.starts_with("/accounts/"))
        .collect();
    links.sort_unstable();
    links.dedup();
    assert_eq!(
        links,
        [
            "/accounts/kaleyra/-",
            "/accounts/meta/a%2Fb%20%3F",
            "/numbers/kaleyra/-/16505551111",
            "/numbers/meta/a%2Fb%20%3F/15550783881",
        ]
    );
    for link in links {
        get(&exporter, link);
    }
    let number = get(&exporter, "/numbers/meta/a%2Fb%20%3F/+1%20555-078-3881");
    for said in [
        "<dd>1K</dd>",
        "<dd>10K</dd>",
        "DOWNGRADE</th><td class=\"figure\">1</td>",
        "DOWNGRADE</th><td class=\"figure\">1K</td>",
    ] {
        assert!(number.contains(said), "{said}: {number}");
    }
    let account = get(&exporter, "/accounts/meta/a%2Fb%20%3F");
    assert_eq!(rows(&account)[0][0], "15550783881");
    for path in [
        "/numbers/meta/1/2",
        "/accounts/meta/-",
        "/accounts/nobody/1",
        "/numbers/meta/1",
        "/accounts/",
    ] {
        assert_eq!(exporter.get(path).status, 404, "{path}");
    }
}

#[test]
fn bad_news_of_accounts_comes_first_and_is_in_words() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    let deliver = |waba_id: &str, field: &str, value: serde_json::Value| {
        let changes = json!([{"field": field, "value": value}]);
        let body = json!({"entry": [{"id": waba_id, "changes": changes}]}).to_string();
        assert_eq!(exporter.post("/webhooks/meta", &body).json()["applied"], 1);
    };
    let limit = json!({"max_daily_conversations_per_business": 2000});
    deliver("1", "business_capability_update", limit);
    let restricted = |name, end| {
        let restriction = json!({"restriction_type": name, "expiration": end});
        json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": [restriction]})
    };
    let ban = |state| json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": state}});
    let invited = "RESTRICTED_BIZ_INITIATED_MESSAGING";
    deliver(
        "2",
        "account_update",
        restricted(invited, Some("2061-01-01T00:00:00Z")),
    );
    deliver(
        "2",
        "account_update",
        restricted("RESTRICTED_ADD_PHONE_NUMBER_ACTION", Some("1")),
    );
    deliver("3", "account_update", ban("SCHEDULE_FOR_DISABLE"));
    deliver("4", "account_update", ban("DISABLE"));
    deliver("4", "account_update", restricted("?", None));
    deliver("5", "account_update", ban("REINSTATE"));
    deliver("4", "account_alerts", json!({"alert_severity": "CRITICAL"}));
    let red = json!({"new_quality_score": "RED", "message_template_id": "1"});
    deliver("4", "message_template_quality_update", red);

    let index = get(&exporter, "/");
    let accounts = rows(index.split_once("<h2>Accounts</h2>").unwrap().1);
    let shown: Vec<_> = accounts
        .iter()
        .map(|row| (row[0].as_str(), row[1].as_str()))
        .collect();
    assert_eq!(
        shown[..3],
        [
            ("4", "disabled restricted"),
            ("3", "to be disabled"),
            ("2", "restricted")
        ]
    );
    assert_eq!(
        shown.iter().filter(|(_, state)| state.is_empty()).count(),
        2
    );

    let second = get(&exporter, "/accounts/meta/2");
    assert!(
        second.contains(&format!("{invited}</span>, until: 2061-01-01 00:00:00 UTC")),
        "{second}"
    );
    assert!(
        !second.contains("RESTRICTED_ADD_PHONE_NUMBER_ACTION"),
        "it has ended: {second}"
    );
    let fourth = get(&exporter, "/accounts/meta/4");
    for text in [
        "UNKNOWN</span>, until: nothing says when it ends",
        "1 RED, 0 YELLOW",
        "account_alerts CRITICAL",
        "DISABLED_UPDATE",
        "message_template_quality_update",
    ] {
        assert!(fourth.contains(text), "{text}: {fourth}");
    }
    let rated = json!({"field": "phone_number_quality_update", "wabaId": "1", "event": "FLAGGED",
        "displayPhoneNumber": "2", "qualityRating": "YELLOW"});
    exporter.post("/webhooks/nxcloud", &rated.to_string());
    assert!(get(&exporter, "/numbers/nxcloud/1/2").contains("<dd>YELLOW</dd>"));
}

#[test]
fn documentation_of_this_version_is_linked() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    let page = get(&exporter, "/");
    let links = page.split("href=\"/docs/").skip(1);
    let names: BTreeSet<_> = links.map(|link| link.split_once('"').unwrap().0).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let document = exporter.get(&format!("/docs/{name}"));
        assert_eq!(document.status, 200, "{name}");
        assert_eq!(
            document.headers["content-type"],
            "text/plain; charset=utf-8"
        );
        assert_eq!(document.text(), fixture(&format!("../docs/{name}")));
    }
    for path in ["/docs/", "/docs/none.md", "/docs/..%2FCargo.toml"] {
        assert_eq!(exporter.get(path).status, 404, "{path}");
    }
}

#[test]
fn hostile_values_stay_text_and_the_policy_allows_the_style_alone() {
    let storage = tempfile::tempdir().unwrap();
    let exporter = Exporter::start(storage.path(), &[]);
    let hostile = "\"><script>alert(1)</script>'&";
    send(
        &exporter,
        hostile,
        &[("1\"'&{{7*7}}", "FLAGGED", "TIER_1K", "")],
    );
    let encoded = "%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E%27%26";
    for path in [
        "/".to_owned(),
        format!("/?q={encoded}"),
        format!("/accounts/meta/{encoded}"),
        format!("/numbers/meta/{encoded}/1%22%27%26%7B%7B7*7%7D%7D"),
    ] {
        let answer = exporter.get(&path);
        let page = answer.text();
        assert_eq!(answer.status, 200, "{path}: {page}");
        assert!(!page.contains("<script"), "{path}: {page}");
        assert!(page.contains("&#60;script&#62;alert(1)"), "{path}: {page}");
        let style = page
            .split_once("<style>")
            .unwrap()
            .1
            .split_once("</style>")
            .unwrap()
            .0;
        let hash = STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; \
             frame-ancestors 'none'"
        );
        assert_eq!(answer.headers["content-security-policy"], policy);
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
}

#[test]
fn pseudonyms_are_all_that_pages_show_and_find() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "a long random text").unwrap();
    let key = format!("--privacy.key-file={}", key.display());
    let arguments = [key.as_str(), "--privacy.phone-numbers=hashed"];
    let exporter = Exporter::start(&folder.path().join("data"), &arguments);
    send(&exporter, "1", &[("15550783881", "FLAGGED", "TIER_1K", "")]);
    let page = get(&exporter, "/");
    assert!(!page.contains("15550783881"), "{page}");
    let shown = rows(&page)[0][0].clone();
    assert_eq!(shown.len(), 16);
    assert!(get(&exporter, &format!("/numbers/meta/1/{shown}")).contains("<dd>1K</dd>"));
    assert_eq!(numbers(&exporter, &format!("/?q={}", &shown[4..])), [shown]);
    for path in ["/?q=15550783881", "/?q=0783881"] {
        assert!(numbers(&exporter, path).is_empty(), "{path}");
    }
    // Whoever may not know numbers must not be able to try them.
    assert_eq!(exporter.get("/numbers/meta/1/15550783881").status, 404);
}

#[test]
fn page_says_what_is_missing_at_each_provider() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let storage = tempfile::tempdir().unwrap();
    let secrets = [
        ("WHATSAPP_EXPORTER_META_APP_SECRET", SECRET),
        ("WHATSAPP_EXPORTER_META_VERIFY_TOKEN", "verify"),
        ("WHATSAPP_EXPORTER_8X8_TOKEN", "token"),
    ];
    let arguments = [
        "--webhook.allow-unauthenticated=kaleyra",
        "--webhook.external-url=https://hooks.example.com/whatsapp/",
    ];
    let exporter = Exporter::start_bare(storage.path(), &arguments, &secrets);
    // The title, the proof, what to do, and the URL.
    let standing = |title: &str| {
        let page = get(&exporter, "/");
        let (_, providers) = page.split_once("<h2>Providers</h2>").unwrap();
        let row = rows(providers).into_iter().find(|row| row[0] == title);
        row.unwrap()[1..4].to_vec()
    };
    let is = |title: &str, [proof, advice, url]: [&str; 3]| {
        let standing = standing(title);
        assert_eq!(
            (standing[0].as_str(), standing[2].as_str()),
            (proof, url),
            "{title}"
        );
        assert!(standing[1].contains(advice), "{title}: {}", standing[1]);
    };
    let base = "https://hooks.example.com/whatsapp/webhooks";
    let meta = format!("{base}/meta");
    is("Meta Cloud API", ["signature", "verify it there", &meta]);
    is(
        "8x8",
        [
            "token",
            "try it with whatsapp-quality-exporter send",
            &format!("{base}/8x8/TOKEN"),
        ],
    );
    is(
        "InnoPaaS",
        [
            "off",
            "Set its secret by --innopaas.token-file",
            &format!("{base}/innopaas"),
        ],
    );
    is("Kaleyra", ["nothing", "forge", &format!("{base}/kaleyra")]);
    let signed = |body: &str| {
        let signature = sign(SECRET, body.as_bytes());
        let headers = [("X-Hub-Signature-256", signature.as_str())];
        let answer = request(
            exporter.webhook,
            "POST",
            "/webhooks/meta",
            &headers,
            body.as_bytes(),
        );
        assert_eq!(answer.unwrap().status, 200);
    };
    let handshake = "/webhooks/meta?hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify";
    assert_eq!(
        request(exporter.webhook, "GET", handshake, &[], b"")
            .unwrap()
            .status,
        200
    );
    is("Meta Cloud API", ["signature", "try it with", &meta]);
    signed(r#"{"entry":[{"id":"1","changes":[{"field":"messages","value":{}}]}]}"#);
    is(
        "Meta Cloud API",
        ["signature", "subscribe to the fields", &meta],
    );
    signed(
        r#"{"entry":[{"id":"1","changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"1","event":"FLAGGED"}}]}]}"#,
    );
    is("Meta Cloud API", ["signature", "nothing", &meta]);
}
