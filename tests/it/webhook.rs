//! The public listener: who is let in, what is answered, what is counted and what is logged.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use whatsapp_quality_exporter::providers::{self, Example, Proof};

use crate::{
    memory::provider,
    support::{Answer, Exporter, connect, exchange, parse_answer, request, sign, value, wait_for},
};

/// ShardFilter of all that is sent to be refused: no answer may repeat it.
const MARKER: &str = "mArKeR";
const NUMBER: &str = "15550783881";
const SIGNATURE: &str = "X-Hub-Signature-256";
const REQUESTS: &str = "whatsapp_exporter_webhook_requests_total";
const MIB: usize = 1 << 20;

// Signatures

#[test]
fn a_signature_made_by_another_program_is_right() {
    let (_folder, exporter) = start(&[("meta.app-secret", "app secret one")], &[]);
    let body = r#"{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1748454394,"changes":[{"field":"phone_number_quality_update","value":{"display_phone_number":"15550783881","event":"DOWNGRADE","old_limit":"TIER_10K","current_limit":"TIER_1K"}}]}]}"#;
    let signature = "sha256=b6d6ad26961c43bfdcfba0f669dd7666d75da4323db3c183bbff2cc6515907cf";
    let answer = request(
        exporter.webhook,
        "POST",
        "/webhooks/meta",
        &[(SIGNATURE, signature)],
        body.as_bytes(),
    );
    assert_applied(&answer.unwrap(), "openssl's signature");
}

#[test]
fn any_of_two_app_secrets_signs() {
    let (_folder, exporter) = start(
        &[("meta.app-secret", "first"), ("meta.app-secret", "second")],
        &[],
    );
    let body = meta(NUMBER, 1);
    for (secret, status) in [("first", 200), ("second", 200), ("third", 401), ("", 401)] {
        assert_eq!(
            post_signed(&exporter, &body, &sign(secret, body.as_bytes())).status,
            status,
            "{secret}"
        );
    }
}

#[test]
fn a_wrong_signature_changes_nothing() {
    let (_folder, exporter) = start(&[("meta.app-secret", "secret")], &[]);
    let body = meta(NUMBER, 1);
    let right = sign("secret", body.as_bytes());
    let digits = right.strip_prefix("sha256=").unwrap();
    let first_digit_wrong = right.replacen(
        &right[..8],
        if digits.starts_with('0') {
            "sha256=1"
        } else {
            "sha256=0"
        },
        1,
    );
    let wrong = [
        sign("another secret", body.as_bytes()),
        sign("secret", meta(NUMBER, 2).as_bytes()),
        sign("secret", b""),
        first_digit_wrong,
        right[..right.len() - 1].into(),
        format!("{right}0"),
        format!("{right}00"),
        "sha256=".into(),
        format!("sha256={}", "zz".repeat(32)),
        format!("sha256= {digits}"),
        format!("SHA256={digits}"),
        format!("{right}, {right}"),
        format!("sha1={digits}"),
        format!("sha512={digits}{digits}"),
        digits.into(),
        format!("{MARKER}={digits}"),
        String::new(),
    ];
    let mut refusals: Vec<_> = wrong
        .iter()
        .map(|signature| post_signed(&exporter, &body, signature))
        .collect();
    // Two signatures, whichever of them is right.
    for two in [[&right, &wrong[0]], [&wrong[0], &right], [&right, &right]] {
        let headers = two.map(|signature| (SIGNATURE, signature.as_str()));
        let answer = request(
            exporter.webhook,
            "POST",
            "/webhooks/meta",
            &headers,
            body.as_bytes(),
        );
        refusals.push(answer.unwrap());
    }
    let refused_as_wrong = refusals.len() as f64;
    refusals.push(exporter.post("/webhooks/meta", &body));
    for refusal in &mut refusals {
        assert_error(refusal, 401);
        refusal.headers.remove("date").unwrap();
    }
    for refusal in &refusals {
        assert_eq!(
            (&refusal.headers, &refusal.body),
            (&refusals[0].headers, &refusals[0].body)
        );
    }

    let failures = "whatsapp_exporter_webhook_auth_failures_total";
    let counted = |reason| exporter.value(failures, &[("provider", "meta"), ("reason", reason)]);
    assert_eq!(
        (counted("wrong"), counted("missing")),
        (Some(refused_as_wrong), Some(1.0))
    );
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(0.0)
    );
    assert_eq!(
        exporter.value(
            "whatsapp_exporter_webhook_last_accepted_timestamp_seconds",
            &[]
        ),
        None
    );
    // The digits are those of a number, in either case.
    let capitals = format!("sha256={}", digits.to_uppercase());
    assert_applied(
        &post_signed(&exporter, &body, &capitals),
        "the right signature of the same body",
    );
}

#[test]
fn replayed_webhook_changes_nothing() {
    let (_folder, exporter) = start(&[("meta.app-secret", "secret")], &[]);
    let recorded = meta(NUMBER, 1);
    let signature = sign("secret", recorded.as_bytes());
    assert_applied(&post_signed(&exporter, &recorded, &signature), "the first");
    let newer = meta(NUMBER, 2).replace("FLAGGED", "UNFLAGGED");
    let of_newer = sign("secret", newer.as_bytes());
    assert_applied(&post_signed(&exporter, &newer, &of_newer), "a newer one");
    let shown = || -> Vec<_> {
        let samples = exporter.samples().into_iter();
        samples
            .filter(|sample| sample.name.starts_with("whatsapp_phone_number_"))
            .collect()
    };
    let before = shown();
    assert_eq!(
        value(&before, "whatsapp_phone_number_flagged", &[]),
        Some(0.0)
    );
    for _ in 0..3 {
        let answer = post_signed(&exporter, &recorded, &signature);
        assert_tally(&answer, &[("duplicate", 1)]);
        assert_eq!(shown(), before);
    }
}

// Tokens

#[test]
fn a_token_is_taken_from_the_header_and_from_the_path() {
    // With all that a path must escape.
    let token = "a/b c%+é?";
    let escaped = "a%2Fb%20c%25%2B%C3%A9%3F";
    let flags: Vec<_> = token_providers()
        .map(|provider| format!("{provider}.token"))
        .collect();
    let secrets: Vec<_> = flags.iter().map(|flag| (flag.as_str(), token)).collect();
    let (_folder, exporter) = start(&secrets, &[]);
    let bearer = format!("Bearer {token}");
    let cases: [(&str, Option<&str>, u16); 14] = [
        ("", Some(token), 200),
        ("", Some(&bearer), 200),
        (escaped, None, 200),
        (escaped, Some("wrong"), 200),
        ("wrong", Some(token), 200),
        ("", None, 401),
        ("", Some(""), 401),
        ("", Some("wrong"), 401),
        ("", Some("Bearer wrong"), 401),
        ("", Some("Bearer "), 401),
        ("", Some("a/b c%+é?x"), 401),
        ("", Some(escaped), 401),
        ("wrong", None, 401),
        ("a%252Fb%2520c%2525%252B%25C3%25A9%253F", None, 401),
    ];
    for provider in token_providers() {
        for (path, header, status) in cases {
            let headers: Vec<_> = header
                .iter()
                .map(|value| ("Authorization", *value))
                .collect();
            let answer = deliver(&exporter, provider, path, &headers);
            assert_eq!(
                answer.status,
                status,
                "{provider} {path:?} {header:?}: {}",
                answer.text()
            );
        }
    }
}

#[test]
fn token_in_the_path_is_decoded_once_and_compared_whole() {
    let (_folder, exporter) = start(&[("8x8.token", "t0k%41n/")], &[]);
    for (path, status) in [
        ("t0k%2541n%2F", 200),
        ("t0k%2541n/%2F", 401),
        // One slash at the end of the path is not part of the token.
        ("t0k%2541n%2F/", 200),
        ("t0k%2541n//", 200),
        ("t0k%2541n/", 401),
        ("t0k%41n%2F", 401),
        ("t0kAn/", 401),
        ("", 401),
    ] {
        assert_eq!(
            deliver(&exporter, "8x8", path, &[]).status,
            status,
            "{path:?}"
        );
    }
}

#[test]
fn slash_at_the_end_of_a_path_changes_nothing() {
    let (_folder, exporter) = start(&[("meta.verify-token", "verify")], &[]);
    for provider in names() {
        let (method, query, body) = delivery(provider);
        let target = format!("/webhooks/{provider}/{query}");
        let answer = request(exporter.webhook, method, &target, &[], body.as_bytes()).unwrap();
        assert_applied(&answer, provider);
        let answer = request(
            exporter.webhook,
            method,
            &format!("/webhooks/{provider}//{query}"),
            &[],
            body.as_bytes(),
        );
        assert_error(&answer.unwrap(), 404);
    }
    let query = "/?hub.mode=subscribe&hub.challenge=7&hub.verify_token=verify";
    assert_eq!(handshake(&exporter, query).text(), "7");
}

#[test]
fn secret_that_proved_a_webhook_is_shown_with_its_number() {
    let secrets = [
        ("meta.app-secret", "first"),
        ("meta.app-secret", "second"),
        ("8x8.token", "one"),
        ("8x8.token", "two"),
    ];
    let (_folder, exporter) = start(&secrets, &[]);
    let used = |provider, secret: &str| {
        let labels = [("provider", provider), ("secret", secret)];
        exporter.value(
            "whatsapp_exporter_webhook_secret_last_used_timestamp_seconds",
            &labels,
        )
    };
    let body = meta(NUMBER, 1);
    assert_eq!(
        post_signed(&exporter, &body, &sign("third", body.as_bytes())).status,
        401
    );
    assert_eq!(deliver(&exporter, "8x8", "three", &[]).status, 401);
    assert_eq!(
        ["1", "2"].map(|secret| (used("meta", secret), used("8x8", secret))),
        [(None, None); 2]
    );
    assert_eq!(
        post_signed(&exporter, &body, &sign("second", body.as_bytes())).status,
        200
    );
    assert_eq!(deliver(&exporter, "8x8", "two", &[]).status, 200);
    assert!(used("meta", "1").is_none() && used("8x8", "1").is_none());
    assert!(used("meta", "2").is_some() && used("8x8", "2").is_some());
    assert_eq!(
        post_signed(&exporter, &body, &sign("first", body.as_bytes())).status,
        200
    );
    assert_eq!(
        deliver(&exporter, "8x8", "", &[("Authorization", "one")]).status,
        200
    );
    assert!(used("meta", "1") >= used("meta", "2") && used("8x8", "1") >= used("8x8", "2"));
}

#[test]
fn both_tokens_are_taken_while_one_replaces_the_other() {
    let (_folder, exporter) = start(&[("innopaas.token", "old"), ("innopaas.token", "new")], &[]);
    for (token, status) in [("old", 200), ("new", 200), ("oldnew", 401), ("other", 401)] {
        assert_eq!(
            deliver(&exporter, "innopaas", "", &[("Authorization", token)]).status,
            status,
            "{token}"
        );
        assert_eq!(
            deliver(&exporter, "innopaas", token, &[]).status,
            status,
            "{token} in the path"
        );
    }
}

#[test]
fn the_token_of_one_provider_opens_no_other() {
    let (_folder, exporter) = start(&[("8x8.token", "eight"), ("innopaas.token", "inno")], &[]);
    assert_error(
        &deliver(
            &exporter,
            "innopaas",
            "eight",
            &[("Authorization", "eight")],
        ),
        401,
    );
    assert_eq!(deliver(&exporter, "innopaas", "inno", &[]).status, 200);
}

#[test]
fn every_refusal_is_the_same_bytes() {
    let flags: Vec<_> = token_providers()
        .map(|provider| format!("{provider}.token"))
        .collect();
    let tokens = flags.iter().map(|flag| (flag.as_str(), "token"));
    let (_folder, guarded) = start(
        &tokens
            .chain([("meta.app-secret", "secret")])
            .collect::<Vec<_>>(),
        &[],
    );
    let mut refusals = vec![
        guarded.post("/webhooks/meta", MARKER),
        post_signed(&guarded, MARKER, &sign("another", MARKER.as_bytes())),
        post_signed(&guarded, MARKER, "sha256=no digits"),
    ];
    for provider in token_providers() {
        refusals.push(deliver(&guarded, provider, "", &[]));
        refusals.push(deliver(
            &guarded,
            provider,
            "",
            &[("Authorization", MARKER)],
        ));
        refusals.push(deliver(&guarded, provider, MARKER, &[]));
    }
    for answer in &mut refusals {
        assert_error(answer, 401);
        answer.headers.remove("date").unwrap();
    }
    for answer in &refusals {
        assert_eq!(
            (&answer.headers, answer.text()),
            (&refusals[0].headers, refusals[0].text())
        );
    }
}

#[test]
fn path_below_a_provider_without_a_token_is_not_found() {
    let (_folder, open) = start(&[], &[]);
    for provider in names() {
        for below in [MARKER, "a/b", "%20"] {
            assert_error(&deliver(&open, provider, below, &[]), 404);
        }
        assert_error(
            &request(
                open.webhook,
                "POST",
                &format!("/webhooks/{provider}//"),
                &[],
                b"{}",
            )
            .unwrap(),
            404,
        );
    }
    // Meta has a secret, which is no token.
    let (_other_folder, signing) = start(
        &[
            ("meta.app-secret", "secret"),
            ("meta.verify-token", "verify"),
        ],
        &[],
    );
    let body = meta(NUMBER, 1);
    for below in ["secret", "verify"] {
        let signature = sign("secret", body.as_bytes());
        let path = format!("/webhooks/meta/{below}");
        let answer = request(
            signing.webhook,
            "POST",
            &path,
            &[(SIGNATURE, &signature)],
            body.as_bytes(),
        );
        assert_error(&answer.unwrap(), 404);
    }
    assert_error(
        &handshake(
            &signing,
            "/verify?hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify",
        ),
        404,
    );
}

// Meta's handshake

#[test]
fn the_handshake_is_answered_with_the_challenge_and_nothing_else() {
    let (_folder, exporter) = start(
        &[
            ("meta.verify-token", "old token"),
            ("meta.verify-token", "new&token"),
        ],
        &[],
    );
    for (challenge, body) in [
        ("1158201444", "1158201444"),
        ("a%2Bb%20%3Cc%3E%22", "a+b <c>\""),
        ("", ""),
    ] {
        for token in ["old%20token", "old+token", "new%26token"] {
            let query =
                format!("?hub.mode=subscribe&hub.challenge={challenge}&hub.verify_token={token}");
            let answer = handshake(&exporter, &query);
            assert_eq!((answer.status, answer.text()), (200, body), "{query}");
            assert!(
                answer.headers["content-type"].starts_with("text/plain"),
                "{answer:?}"
            );
            // A browser must not take a challenge for a page.
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
    }
    let shuffled = "?x=y&hub.verify_token=old%20token&hub.challenge=7&hub.mode=subscribe";
    assert_eq!(handshake(&exporter, shuffled).text(), "7");
    assert_error(
        &handshake(
            &exporter,
            "?hub.mode=subscribe&hub.verify_token=old%20token",
        ),
        400,
    );
}

#[test]
fn a_handshake_without_the_token_is_forbidden() {
    let (_folder, exporter) = start(
        &[
            ("meta.app-secret", "secret"),
            ("meta.verify-token", "verify"),
        ],
        &[],
    );
    for query in [
        "?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=wrong",
        "?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=verif",
        "?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=secret",
        "?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=",
        "?hub.mode=subscribe&hub.challenge=mArKeR",
        "?hub.mode=unsubscribe&hub.challenge=mArKeR&hub.verify_token=verify",
        "?hub.mode=&hub.challenge=mArKeR&hub.verify_token=verify",
        "?hub.challenge=mArKeR&hub.verify_token=verify",
        "?mArKeR",
        "",
    ] {
        assert_error(&handshake(&exporter, query), 403);
    }
    assert_eq!(
        exporter.value(REQUESTS, &[("provider", "meta"), ("code", "403")]),
        Some(10.0)
    );
    let failures = |reason| {
        exporter.value(
            "whatsapp_exporter_webhook_auth_failures_total",
            &[("provider", "meta"), ("reason", reason)],
        )
    };
    assert_eq!(
        ["wrong", "missing", "handshake"].map(failures),
        [0.0, 0.0, 7.0].map(Some)
    );
}

#[test]
fn answered_handshake_is_shown_also_after_a_kill() {
    let (_folder, exporter) = start(
        &[
            ("meta.app-secret", "secret"),
            ("meta.verify-token", "verify"),
        ],
        &[],
    );
    let last = |exporter: &Exporter, what: &str| {
        let name = format!("whatsapp_exporter_webhook_last_{what}_timestamp_seconds");
        exporter.value(&name, &[("provider", "meta")])
    };
    assert_eq!(
        handshake(
            &exporter,
            "?hub.mode=subscribe&hub.challenge=7&hub.verify_token=no"
        )
        .status,
        403
    );
    assert_eq!(last(&exporter, "handshake"), None);
    assert_eq!(
        handshake(
            &exporter,
            "?hub.mode=subscribe&hub.challenge=7&hub.verify_token=verify"
        )
        .status,
        200
    );
    let shown = last(&exporter, "handshake");
    assert!(shown.is_some());
    let exporter = exporter.kill_and_restart();
    assert_eq!(last(&exporter, "handshake"), shown);
    assert_eq!(
        [last(&exporter, "accepted"), last(&exporter, "change")],
        [None; 2]
    );
}

#[test]
fn webhook_without_a_change_moves_last_accepted_alone() {
    let (_folder, exporter) = start(&[], &["--limits.max-phone-numbers=1"]);
    let last = |what: &str, provider| {
        let name = format!("whatsapp_exporter_webhook_last_{what}_timestamp_seconds");
        exporter.value(&name, &[("provider", provider)])
    };
    let ignored = of_account(1, &[json!({"field": "messages", "value": {}})]);
    assert_tally(
        &exporter.post("/webhooks/meta", &ignored),
        &[("ignored", 1)],
    );
    assert!(last("accepted", "meta").is_some() && last("change", "meta").is_none());
    assert_tally(
        &exporter.post("/webhooks/meta", &meta(NUMBER, 1)),
        &[("applied", 1)],
    );
    let applied = last("change", "meta");
    assert!(applied.is_some());
    for (body, outcome) in [(meta(NUMBER, 1), "duplicate"), (meta(NUMBER, 0), "stale")] {
        assert_tally(&exporter.post("/webhooks/meta", &body), &[(outcome, 1)]);
        assert!(last("change", "meta") >= applied, "{outcome}");
    }
    assert_eq!(
        deliver(&exporter, "8x8", "", &[]).json()["invalid"],
        1,
        "beyond the cap"
    );
    assert!(last("accepted", "8x8").is_some() && last("change", "8x8").is_none());
}

#[test]
fn without_a_verify_token_every_handshake_is_forbidden() {
    let (_folder, exporter) = start(&[("meta.app-secret", "secret")], &[]);
    for token in ["", "&hub.verify_token=", "&hub.verify_token=secret"] {
        assert_error(
            &handshake(
                &exporter,
                &format!("?hub.mode=subscribe&hub.challenge=mArKeR{token}"),
            ),
            403,
        );
    }
}

// Proxies

/// What proxies, content networks and browsers add.
const OF_A_PROXY: [(&str, &str); 6] = [
    ("X-Forwarded-For", "192.0.2.1"),
    ("Forwarded", "for=192.0.2.1"),
    ("Via", "1.1 edge"),
    ("X-Real-IP", "192.0.2.1"),
    ("CF-Connecting-IP", "192.0.2.1"),
    ("Origin", "https://panel.example"),
];

#[test]
fn provider_without_a_secret_is_off_on_loopback_and_behind_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let token = [("WHATSAPP_EXPORTER_8X8_TOKEN", "token")];
    let exporter = Exporter::start_bare(folder.path(), &[], &token);
    for provider in names() {
        let (on, status) = if provider == "8x8" {
            (1.0, 401)
        } else {
            (0.0, 404)
        };
        assert_error(&deliver(&exporter, provider, "", &[]), status);
        assert_error(&deliver(&exporter, provider, "", &OF_A_PROXY), status);
        assert_eq!(
            exporter.value("whatsapp_exporter_provider_on", &[("provider", provider)]),
            Some(on),
            "{provider}"
        );
    }
    assert_applied(&deliver(&exporter, "8x8", "token", &[]), "8x8");
}

#[test]
fn signature_of_a_time_and_the_body_or_a_token_proves_a_webhook() {
    let secrets = [
        ("ycloud.secret", "whsec_1"),
        ("ycloud.secret", "whsec_2"),
        ("ycloud.token", "t0ken"),
    ];
    let (_folder, exporter) = start(&secrets, &[]);
    let Example::Json(body) = provider("ycloud").example else {
        panic!("YCloud sends JSON");
    };
    let post = |path: &str, headers: &[(&str, &str)]| {
        let answer = request(exporter.webhook, "POST", path, headers, body.as_bytes());
        answer.unwrap().status
    };
    let value = |secret: &str, signed: &str, said: &str| {
        let signature = sign(secret, format!("{signed}.{body}").as_bytes());
        format!("t={said},s={}", signature.strip_prefix("sha256=").unwrap())
    };
    let good = value("whsec_1", "1700000000", "1700000000");
    for (value, status) in [
        (good.clone(), 200),
        (value("whsec_2", "1", "1"), 200),
        (value("whsec_3", "1", "1"), 401),
        (value("t0ken", "1", "1"), 401),
        (value("whsec_1", "1700000000", "1700000001"), 401),
        (value("whsec_1", "", ""), 401),
        (format!("{good},s=00"), 401),
        (good.replace("t=1700000000,", ""), 401),
        (sign("whsec_1", body.as_bytes()), 401),
    ] {
        let header = ("YCloud-Signature", value.as_str());
        assert_eq!(post("/webhooks/ycloud", &[header]), status, "{value}");
        // Beside a signature, a token proves nothing.
        let token = ("Authorization", "t0ken");
        assert_eq!(
            post("/webhooks/ycloud", &[header, token]),
            status,
            "{value}"
        );
    }
    assert_eq!(post("/webhooks/ycloud", &[("Authorization", "t0ken")]), 200);
    assert_eq!(post("/webhooks/ycloud/t0ken", &[]), 200);
    assert_eq!(
        post("/webhooks/ycloud", &[("Authorization", "whsec_1")]),
        401
    );
    assert_eq!(post("/webhooks/ycloud/whsec_1", &[]), 401);
    assert_eq!(post("/webhooks/ycloud", &[]), 401);
    for secret in ["1", "2", "3"] {
        let labels = [("provider", "ycloud"), ("secret", secret)];
        let family = "whatsapp_exporter_webhook_secret_last_used_timestamp_seconds";
        assert!(exporter.value(family, &labels).is_some(), "secret {secret}");
    }
}

#[test]
fn address_of_a_subscription_is_shown_and_never_opened() {
    let (_folder, exporter) = start(&[], &[]);
    let confirmation = |url: &str| {
        let body = json!({"Type": "SubscriptionConfirmation", "SubscribeURL": url}).to_string();
        assert_tally(&exporter.post("/webhooks/aws", &body), &[("ignored", 1)]);
    };
    let opened = TcpListener::bind("127.0.0.1:0").unwrap();
    opened.set_nonblocking(true).unwrap();
    confirmation(&format!(
        "https://{}/elsewhere",
        opened.local_addr().unwrap()
    ));
    confirmation("https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=1");
    wait_for("the address in the log", || {
        exporter
            .log()
            .contains("https://sns.eu-west-1.amazonaws.com/?Action")
    });
    assert!(!exporter.log().contains("elsewhere"), "{}", exporter.log());
    assert!(opened.accept().is_err(), "the address was opened");
}

#[test]
fn allowed_or_proven_webhook_may_come_through_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let secret = [("WHATSAPP_EXPORTER_META_APP_SECRET", "secret")];
    let exporter = Exporter::start_bare(
        folder.path(),
        &["--webhook.allow-unauthenticated=meta,kaleyra"],
        &secret,
    );
    assert_applied(&deliver(&exporter, "kaleyra", "", &OF_A_PROXY), "kaleyra");
    let body = meta(NUMBER, 1);
    // A secret that is there counts, although its provider is named.
    assert_error(
        &request(
            exporter.webhook,
            "POST",
            "/webhooks/meta",
            &OF_A_PROXY,
            body.as_bytes(),
        )
        .unwrap(),
        401,
    );
    let signature = sign("secret", body.as_bytes());
    let signed = [&OF_A_PROXY[..], &[(SIGNATURE, signature.as_str())]].concat();
    assert_applied(
        &request(
            exporter.webhook,
            "POST",
            "/webhooks/meta",
            &signed,
            body.as_bytes(),
        )
        .unwrap(),
        "meta",
    );
}

// Answers

#[test]
fn an_accepted_delivery_is_answered_with_what_became_of_it() {
    let (_folder, exporter) = start(&[], &[]);
    for provider in names() {
        assert_applied(&deliver(&exporter, provider, "", &[]), provider);
    }
    // Kaleyra sends neither an id nor a time, so that each of its deliveries is a new one.
    for (provider, outcome) in [
        ("meta", "duplicate"),
        ("8x8", "duplicate"),
        ("innopaas", "duplicate"),
    ] {
        assert_tally(&deliver(&exporter, provider, "", &[]), &[(outcome, 1)]);
    }
    assert_tally(
        &exporter.post("/webhooks/meta", &meta(NUMBER, 2)),
        &[("applied", 1)],
    );
    let older = meta(NUMBER, 0);
    assert_tally(&exporter.post("/webhooks/meta", &older), &[("stale", 1)]);
    let test = older.replace("102290129340398", "0");
    assert_tally(&exporter.post("/webhooks/meta", &test), &[("test", 1)]);

    let changes = |provider, outcome| {
        let labels = [("provider", provider), ("outcome", outcome)];
        exporter
            .value("whatsapp_exporter_webhook_changes_total", &labels)
            .unwrap()
    };
    let counted = [
        "applied",
        "duplicate",
        "stale",
        "ignored",
        "invalid",
        "test",
    ]
    .map(|outcome| changes("meta", outcome));
    assert_eq!(counted, [2.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    assert_eq!(
        (changes("8x8", "applied"), changes("8x8", "duplicate")),
        (1.0, 1.0)
    );
}

#[test]
fn webhook_of_another_kind_is_accepted_and_ignored() {
    let (_folder, exporter) = start(&[], &[]);
    for body in [
        r#"{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{"messages":[{"from":"16315551181"}]}}]}]}"#,
        r#"{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"message_template_components_update","value":{"event":"FLAGGED"}}]}]}"#,
        r#"{"object":"whatsapp_business_account","entry":[]}"#,
        r#"{"object":"page","entry":[{"id":"1","changes":[{"field":"phone_number_quality_update","value":{}}]}]}"#,
        "{}",
    ] {
        assert_tally(&exporter.post("/webhooks/meta", body), &[("ignored", 1)]);
    }
    for (path, body) in [
        (
            "/webhooks/8x8",
            r#"{"eventType":"inbound_message_received"}"#,
        ),
        ("/webhooks/innopaas", r#"{"type":"whatsapp_message"}"#),
        (
            "/webhooks/kaleyra",
            r#"{"from":"16315551181","body":"hello"}"#,
        ),
    ] {
        assert_tally(&exporter.post(path, body), &[("ignored", 1)]);
    }
    let incoming = request(
        exporter.webhook,
        "GET",
        "/webhooks/kaleyra?from=16315551181&event=",
        &[],
        b"",
    )
    .unwrap();
    assert_tally(&incoming, &[("ignored", 1)]);
    let samples = exporter.samples();
    assert_eq!(
        value(&samples, "whatsapp_exporter_phone_numbers", &[]),
        Some(0.0)
    );
    let ignored = [("provider", "meta"), ("outcome", "ignored")];
    assert_eq!(
        value(
            &samples,
            "whatsapp_exporter_webhook_changes_total",
            &ignored
        ),
        Some(5.0)
    );
}

#[test]
fn one_bad_change_does_not_spoil_its_batch() {
    let (_folder, mut exporter) = start(&[], &[]);
    let change = |number: &str| {
        format!(
            r#"{{"field":"phone_number_quality_update","value":{{"display_phone_number":{number},"event":"FLAGGED"}}}}"#
        )
    };
    let changes = [
        change(r#""15550000001""#),
        change(r#""<mArKeR>""#),
        change(r#"{"mArKeR":1}"#),
        r#""mArKeR""#.into(),
        change(r#""15550000002""#),
    ];
    let body = format!(
        r#"{{"entry":[{{"id":"1","time":1748454394,"changes":[{}]}}]}}"#,
        changes.join(",")
    );
    assert_tally(
        &exporter.post("/webhooks/meta", &body),
        &[("applied", 2), ("invalid", 3)],
    );

    let samples = exporter.samples();
    let flagged = |number| {
        value(
            &samples,
            "whatsapp_phone_number_flagged",
            &[("phone_number", number)],
        )
    };
    assert_eq!(
        (flagged("15550000001"), flagged("15550000002")),
        (Some(1.0), Some(1.0))
    );
    assert_eq!(
        value(&samples, "whatsapp_exporter_phone_numbers", &[]),
        Some(2.0)
    );
    let invalid = [("provider", "meta"), ("outcome", "invalid")];
    assert_eq!(
        value(
            &samples,
            "whatsapp_exporter_webhook_changes_total",
            &invalid
        ),
        Some(3.0)
    );
    exporter.end("TERM");
    let log = exporter.log();
    assert!(
        log.contains("invalid changes in a webhook") && !log.contains(MARKER),
        "{log}"
    );
}

#[test]
fn body_that_no_provider_sends_is_a_bad_request() {
    let (_folder, exporter) = start(&[], &[]);
    let bodies: [&[u8]; 11] = [
        b"",
        b"mArKeR",
        b"{\"mArKeR\":",
        b"{\"mArKeR\":1}}",
        b"{\"mArKeR\":\"\xff\"}",
        b"[{\"mArKeR\":1}]",
        b"\"mArKeR\"",
        b"null",
        b"true",
        b"17",
        b"mArKeR=1&x=2",
    ];
    for provider in names() {
        let path = format!("/webhooks/{provider}");
        for body in bodies {
            assert_error(
                &request(exporter.webhook, "POST", &path, &[], body).unwrap(),
                400,
            );
        }
        let counted = exporter.value(REQUESTS, &[("provider", provider), ("code", "400")]);
        assert_eq!(counted, Some(bodies.len() as f64), "{provider}");
    }
    // Who is not known is told nothing about the body.
    let (_other_folder, guarded) = start(&[("8x8.token", "token")], &[]);
    assert_error(&guarded.post("/webhooks/8x8", MARKER), 401);
}

#[test]
fn an_unknown_path_is_not_found() {
    let (_folder, exporter) = start(&[("8x8.token", "token")], &[]);
    let paths = [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks//",
        "/webhooks/mArKeR",
        "/webhooks/mArKeR/token",
        "/webhooks/META",
        "/webhooks/8X8/token",
        "/webhooks/%6deta",
        "//webhooks/meta",
        "/mArKeR/webhooks/meta",
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE"] {
            assert_error(
                &request(exporter.webhook, method, path, &[], MARKER.as_bytes()).unwrap(),
                404,
            );
        }
    }
    let counted = exporter.value(REQUESTS, &[("provider", "none"), ("code", "404")]);
    assert_eq!(counted, Some(3.0 * paths.len() as f64));
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let (_folder, exporter) = start(&[], &[]);
    for (provider, methods, allowed) in [
        (
            "meta",
            &["PUT", "DELETE", "PATCH", "OPTIONS", "mArKeR"][..],
            "GET, POST",
        ),
        ("8x8", &["GET", "PUT", "DELETE", "mArKeR"], "POST"),
        ("innopaas", &["GET", "PUT", "DELETE", "mArKeR"], "POST"),
        (
            "kaleyra",
            &["PUT", "DELETE", "OPTIONS", "mArKeR"],
            "GET, POST",
        ),
    ] {
        for method in methods {
            let answer = request(
                exporter.webhook,
                method,
                &format!("/webhooks/{provider}"),
                &[],
                b"mArKeR",
            )
            .unwrap();
            assert_error(&answer, 405);
            assert_eq!(answer.headers["allow"], allowed, "{provider}");
        }
        assert_eq!(
            request(
                exporter.webhook,
                "HEAD",
                &format!("/webhooks/{provider}"),
                &[],
                b""
            )
            .unwrap()
            .status,
            405
        );
    }
}

#[test]
fn compressed_body_is_refused_and_identity_names_no_compression() {
    let (_folder, exporter) = start(&[("8x8.token", "token")], &[]);
    let body = meta(NUMBER, 1);
    for (codings, status) in [
        (&["gzip"][..], 415),
        (&["br"], 415),
        (&["identity, gzip"], 415),
        (&["identity", "deflate"], 415),
        (&["identity"], 200),
        (&["Identity"], 200),
        (&[""], 200),
    ] {
        let headers: Vec<_> = codings
            .iter()
            .map(|coding| ("Content-Encoding", *coding))
            .collect();
        let answer = request(
            exporter.webhook,
            "POST",
            "/webhooks/meta",
            &headers,
            body.as_bytes(),
        )
        .unwrap();
        assert_eq!(answer.status, status, "{codings:?}: {}", answer.text());
        if status == 415 {
            assert_error(&answer, 415);
            assert_eq!(answer.headers["accept-encoding"], "identity");
        }
    }
    assert_error(
        &deliver(&exporter, "8x8", "", &[("Content-Encoding", "gzip")]),
        401,
    );
    assert_error(
        &deliver(&exporter, "8x8", "token", &[("Content-Encoding", "gzip")]),
        415,
    );
}

#[test]
fn request_of_http_1_1_names_one_host() {
    let (_folder, exporter) = start(&[], &[]);
    let body = meta(NUMBER, 1);
    let send = |address, head: &str| {
        let length = body.len();
        let request = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        exchange(address, request.as_bytes()).unwrap()
    };
    for (head, status) in [
        ("POST /webhooks/meta HTTP/1.1\r\n", 400),
        (
            "POST /webhooks/meta HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
            400,
        ),
        ("POST /webhooks/meta HTTP/1.1\r\nHost: a\r\n", 200),
        ("POST /webhooks/meta HTTP/1.0\r\n", 200),
    ] {
        assert_eq!(send(exporter.webhook, head).status, status, "{head:?}");
    }
    assert_eq!(
        exporter.value(REQUESTS, &[("provider", "meta"), ("code", "400")]),
        Some(2.0)
    );
    assert_eq!(send(exporter.web, "GET /-/ready HTTP/1.1\r\n").status, 400);
    assert_eq!(send(exporter.web, "GET /-/ready HTTP/1.0\r\n").status, 200);
}

#[test]
fn list_of_millions_takes_little_memory_and_a_list_at_the_top_none() {
    let (_folder, exporter) = start(&[], &[]);
    let memory = || {
        exporter
            .value("process_resident_memory_bytes", &[])
            .unwrap()
    };
    let filled = |begin: &str, part: &str, end: &str| {
        let parts = (4 * MIB - begin.len() - end.len()) / part.len();
        format!("{begin}{}0{end}", part.repeat(parts - 1))
    };
    assert_eq!(
        exporter.post("/webhooks/meta", &meta(NUMBER, 1)).status,
        200
    );
    // What is no object is counted, what is empty is passed over, and neither is kept.
    for (body, status) in [
        (filled("[", "0,", "]"), 400),
        (filled("{\"entry\":[", "0,", "]}"), 200),
        (filled("{\"entry\":[", "{},", "]}"), 200),
        (filled("{\"entry\":[", "[],", "]}"), 200),
        (filled("{\"entry\":[{\"changes\":[", "0,", "]}]}"), 200),
        (filled("{\"entry\":[{\"changes\":[", "{},", "]}]}"), 200),
        (
            filled(
                "{\"entry\":[{\"changes\":[{\"field\":\"phone_number_quality_update\",\"value\":{",
                "\"\":0,",
                "}}]}]}",
            )
            .replace(",0}", "}"),
            200,
        ),
    ] {
        let before = memory();
        let answer = exporter.post("/webhooks/meta", &body);
        assert_eq!(answer.status, status, "{}", answer.text());
        let grown = (memory() - before) / MIB as f64;
        assert!(grown < 24.0, "{}… took {grown} MiB", &body[..40]);
    }
    let zeros = exporter.post(
        "/webhooks/meta",
        r#"{"entry":[0,[],{"changes":[0,{"field":"messages"}]}]}"#,
    );
    assert_tally(&zeros, &[("invalid", 3), ("ignored", 1)]);
}

#[test]
fn a_body_of_4_mib_is_the_largest() {
    let (_folder, exporter) = start(&[], &[]);
    let post = |length: usize, pieces: Option<usize>| {
        // White space after the object belongs to no change, but to the body.
        let mut body = meta(NUMBER, 1).into_bytes();
        body.resize(length, b' ');
        match pieces {
            Some(pieces) => post_in_pieces(&exporter, &body, pieces),
            None => request(exporter.webhook, "POST", "/webhooks/meta", &[], &body).unwrap(),
        }
    };
    for pieces in [None, Some(100_000)] {
        for length in [4 * MIB + 1, 5 * MIB] {
            assert_error(&post(length, pieces), 413);
        }
    }
    assert_eq!(
        exporter.value("whatsapp_exporter_phone_numbers", &[]),
        Some(0.0)
    );
    assert_eq!(
        exporter.value(REQUESTS, &[("provider", "meta"), ("code", "413")]),
        Some(4.0)
    );
    assert_tally(&post(4 * MIB, None), &[("applied", 1)]);
    assert_tally(&post(4 * MIB, Some(100_000)), &[("duplicate", 1)]);
}

#[test]
fn a_body_in_many_pieces_is_read_whole() {
    let (_folder, exporter) = start(&[("meta.app-secret", "secret")], &[]);
    let changes: Vec<_> = (0..1000)
        .map(|number| quality(&format!("1555{number:07}")))
        .collect();
    // Meta's largest: 1000 changes, 3 MiB.
    let mut batch = of_account(1, &changes).into_bytes();
    batch.resize(3 * MIB, b' ');
    let signature = sign("secret", &batch);
    let answer = request(
        exporter.webhook,
        "POST",
        "/webhooks/meta",
        &[(SIGNATURE, &signature)],
        &batch,
    )
    .unwrap();
    assert_tally(&answer, &[("applied", 1000)]);
    for pieces in [1000, 5000, 70_000] {
        assert_tally(
            &post_in_pieces(&exporter, &batch, pieces),
            &[("duplicate", 1000)],
        );
    }
    let small = meta(NUMBER, 1).into_bytes();
    assert_tally(&post_in_pieces(&exporter, &small, 1), &[("applied", 1)]);
    for pieces in [2, 3, 50, 100, 200, 1000] {
        assert_tally(
            &post_in_pieces(&exporter, &small, pieces),
            &[("duplicate", 1)],
        );
    }
}

#[test]
fn a_head_that_is_too_large_or_none_is_no_request() {
    let (_folder, exporter) = start(&[], &[]);
    let mut long = b"POST /webhooks/meta HTTP/1.1\r\nX-Long: ".to_vec();
    // Exactly what the listener reads before it gives up, so that no byte is in the way of its
    // answer.
    long.resize(64 << 10, b'a');
    assert_eq!(
        exchange(exporter.webhook, &long).unwrap().status,
        431,
        "one long header"
    );
    for (headers, status) in [(90, 200), (101, 431), (1000, 431)] {
        let many = format!(
            "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: 2\r\n{}\r\n{{}}",
            "X-Many: 1\r\n".repeat(headers)
        );
        let answer = exchange(exporter.webhook, many.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{headers} headers");
    }
    for malformed in [
        "mArKeR\r\n\r\n",
        "GET /<mArKeR> HTTP/1.1\r\n\r\n",
        "POST /webhooks/meta HTTP/1.1\r\nX y\r\n\r\n",
    ] {
        let answer = exchange(exporter.webhook, malformed.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.text()), (400, ""), "{malformed:?}");
    }
    assert_eq!(
        exporter.post("/webhooks/meta", "{}").status,
        200,
        "afterwards"
    );
}

#[test]
fn body_that_never_comes_is_not_waited_for() {
    let (_folder, exporter) = start(&[], &[]);
    let unfinished = |bytes: &'static [u8]| {
        let mut stream = connect(exporter.webhook).unwrap();
        thread::spawn(move || {
            stream.write_all(bytes).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        })
    };
    let bodies = [
        unfinished(b"POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"mArKeR\":"),
        unfinished(b"POST /webhooks/8x8 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"mAr"),
    ];
    let heads = [
        unfinished(b""),
        unfinished(b"POST /webhooks/meta HTTP/1.1\r\nHost: x\r\n"),
    ];
    for body in bodies {
        let answer = parse_answer(&body.join().unwrap()).unwrap();
        assert_error(&answer, 408);
        assert_eq!(answer.headers["connection"], "close");
    }
    for head in heads {
        assert_eq!(head.join().unwrap(), b"", "who sends no head is hung up on");
    }
    for provider in ["meta", "8x8"] {
        assert_eq!(
            exporter.value(REQUESTS, &[("provider", provider), ("code", "408")]),
            Some(1.0),
            "{provider}"
        );
    }
}

#[test]
fn too_many_large_bodies_at_a_time_are_put_off() {
    const AT_A_TIME: usize = 16;
    let (_folder, exporter) = start(&[], &[]);
    let mut large = meta(NUMBER, 1).into_bytes();
    large.resize(200 << 10, b' ');
    let head = format!(
        "POST /webhooks/meta HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        large.len()
    );
    let begin = || -> TcpStream {
        let mut stream = connect(exporter.webhook).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&large[..100 << 10]).unwrap();
        stream
    };
    let post = || request(exporter.webhook, "POST", "/webhooks/meta", &[], &large).unwrap();
    let mut held = Vec::new();
    let mut refused = None;
    wait_for("large bodies to be refused", || {
        // Again, should a busy machine have let the first time out.
        held = (0..AT_A_TIME).map(|_| begin()).collect();
        refused = (0..10).map(|_| post()).find(|answer| answer.status != 200);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_error(&refused, 503);
    assert_retry_after(&refused);
    assert_eq!(
        exporter.post("/webhooks/meta", &meta(NUMBER, 2)).status,
        200,
        "a small one"
    );
    drop(held);
    wait_for("large bodies to be taken again", || post().status == 200);
}

// The two listeners

#[test]
fn nothing_private_is_reachable_through_the_public_listener() {
    let (_folder, exporter) = start(&[], &["--web.telemetry-path=/private"]);
    let web = exporter.web;
    assert_eq!(
        exporter.post("/webhooks/meta", &meta(NUMBER, 1)).status,
        200
    );
    for path in [
        "/private",
        "/",
        "/-/healthy",
        "/-/ready",
        "/api/v1/phone_numbers",
        "/api/v1/accounts",
    ] {
        assert_eq!(
            exporter.get(path).status,
            200,
            "{path} on the private listener"
        );
        for target in [
            path.to_owned(),
            format!("{path}?provider=meta"),
            format!("//{path}"),
            format!("/webhooks/..{path}"),
            format!("/webhooks/meta/../..{path}"),
            format!("/webhooks/meta{path}/x"),
            format!("http://{web}{path}"),
        ] {
            let answer = request(
                exporter.webhook,
                "GET",
                &target,
                &[("X-Forwarded-Host", &web.to_string())],
                b"",
            );
            assert_error(&answer.unwrap(), 404);
        }
    }
    for target in ["/metrics", "/-/reload", "/-/quit", "/debug/pprof/", "*"] {
        assert_error(
            &request(exporter.webhook, "GET", target, &[], b"").unwrap(),
            404,
        );
    }
}

#[test]
fn no_webhook_is_taken_by_the_private_listener() {
    let (_folder, exporter) = start(&[("meta.verify-token", "verify")], &[]);
    for provider in names() {
        let (method, query, body) = delivery(provider);
        let target = format!("/webhooks/{provider}{query}");
        assert_error(
            &request(exporter.web, method, &target, &[], body.as_bytes()).unwrap(),
            404,
        );
    }
    let handshake =
        "/webhooks/meta?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=verify";
    assert_error(
        &request(exporter.web, "GET", handshake, &[], b"").unwrap(),
        404,
    );
    let samples = exporter.samples();
    assert_eq!(
        value(&samples, "whatsapp_exporter_phone_numbers", &[]),
        Some(0.0)
    );
    assert!(
        samples
            .iter()
            .filter(|sample| sample.name == REQUESTS)
            .all(|sample| sample.value == 0.0)
    );
}

// Counters

#[test]
fn every_answer_is_counted_by_provider_and_code() {
    let (_folder, exporter) = start(
        &[
            ("meta.app-secret", "secret"),
            ("meta.verify-token", "verify"),
            ("8x8.token", "token"),
        ],
        &[],
    );
    let counted = || -> BTreeMap<(String, String), f64> {
        let samples = exporter
            .samples()
            .into_iter()
            .filter(|sample| sample.name == REQUESTS);
        samples
            .map(|mut s| {
                (
                    (
                        s.labels.remove("provider").unwrap(),
                        s.labels.remove("code").unwrap(),
                    ),
                    s.value,
                )
            })
            .collect()
    };
    let zero = counted();
    assert!(zero.values().all(|count| *count == 0.0), "{zero:?}");
    for provider in names() {
        for code in [
            "200", "400", "401", "404", "405", "408", "413", "415", "503",
        ] {
            assert!(
                zero.contains_key(&(provider.into(), code.into())),
                "{provider} {code} is not there from the start"
            );
        }
    }
    for key in [("meta", "403"), ("none", "404")] {
        assert!(
            zero.contains_key(&(key.0.into(), key.1.into())),
            "{key:?} is not there from the start"
        );
    }

    let body = meta(NUMBER, 1);
    let signature = sign("secret", body.as_bytes());
    let large = vec![b' '; 4 * MIB + 1];
    let send = |method, target, headers: &[(&str, &str)], body: &[u8]| {
        request(exporter.webhook, method, target, headers, body)
            .unwrap()
            .status
    };
    let token = [("Authorization", "token")];
    let sent = [
        (
            "meta",
            send(
                "POST",
                "/webhooks/meta",
                &[(SIGNATURE, &signature)],
                body.as_bytes(),
            ),
        ),
        (
            "meta",
            send(
                "POST",
                "/webhooks/meta",
                &[(SIGNATURE, &signature)],
                body.as_bytes(),
            ),
        ),
        (
            "meta",
            send(
                "POST",
                "/webhooks/meta",
                &[(SIGNATURE, &sign("secret", b"[]"))],
                b"[]",
            ),
        ),
        ("meta", send("POST", "/webhooks/meta", &[], body.as_bytes())),
        ("meta", send("GET", "/webhooks/meta", &[], b"")),
        (
            "meta",
            send(
                "GET",
                "/webhooks/meta?hub.mode=subscribe&hub.challenge=1&hub.verify_token=verify",
                &[],
                b"",
            ),
        ),
        ("meta", send("POST", "/webhooks/meta/secret", &[], b"")),
        ("meta", send("PUT", "/webhooks/meta", &[], b"")),
        (
            "meta",
            send("POST", "/webhooks/meta", &[(SIGNATURE, &signature)], &large),
        ),
        ("8x8", send("POST", "/webhooks/8x8", &token, b"{}")),
        ("8x8", send("POST", "/webhooks/8x8/token", &[], b"{}")),
        ("8x8", send("POST", "/webhooks/8x8/wrong", &[], b"{}")),
        ("8x8", send("GET", "/webhooks/8x8", &token, b"")),
        ("8x8", send("POST", "/webhooks/8x8", &token, &large)),
        ("innopaas", send("POST", "/webhooks/innopaas/x", &[], b"{}")),
        (
            "innopaas",
            send("POST", "/webhooks/innopaas", &[], b"no JSON"),
        ),
        ("kaleyra", send("GET", "/webhooks/kaleyra", &[], b"")),
        ("kaleyra", send("POST", "/webhooks/kaleyra", &[], b"{}")),
        ("none", send("GET", "/metrics", &[], b"")),
        ("none", send("POST", "/webhooks/nobody", &[], b"{}")),
        ("none", send("POST", "/webhooks/nobody/token", &[], b"{}")),
    ];
    let codes = sent.map(|(_, code)| code);
    assert_eq!(
        codes,
        [
            200, 200, 400, 401, 403, 200, 404, 405, 413, 200, 200, 401, 405, 413, 404, 400, 200,
            200, 404, 404, 404
        ]
    );
    let mut want = zero;
    for (provider, code) in sent {
        *want.get_mut(&(provider.into(), code.to_string())).unwrap() += 1.0;
    }
    assert_eq!(counted(), want);
}

// The log

#[test]
fn the_log_holds_no_secret_no_body_and_no_whole_number() {
    let secrets = [
        ("meta.app-secret", "s3cret-of-the-app"),
        ("meta.verify-token", "s3cret-of-the-handshake"),
        ("8x8.token", "s3cret-of-8x8"),
        ("innopaas.token", "s3cret-of-innopaas"),
    ];
    let (_folder, mut exporter) = start(
        &secrets,
        &["--log.level=debug", "--limits.max-phone-numbers=4"],
    );
    let signed = |body: &str| {
        post_signed(&exporter, body, &sign("s3cret-of-the-app", body.as_bytes())).status
    };
    let send = |method, target: &str, headers: &[(&str, &str)], body: &str| {
        request(exporter.webhook, method, target, headers, body.as_bytes())
            .unwrap()
            .status
    };
    let eight = |number: &str| {
        json!({"eventType": "phone_number_quality_update", "mArKeR": "mArKeR", "businessAccountId": "7001",
            "eventDetails": {"displayPhoneNumber": number, "meta": {"event": {"mArKeR": 1}, "currentLimit": ["mArKeR"]}}})
        .to_string()
    };
    let token = [("Authorization", "Bearer s3cret-of-8x8")];
    let messages = r#"{"entry":[{"id":"1","changes":[{"field":"messages","value":{"messages":[{"from":"16315550001","text":"mArKeR"}],"statuses":[{"recipient_id":"16315550002"}]}}]}]}"#;

    assert_eq!(signed(&meta("15550783881", 1)), 200);
    assert_eq!(signed(messages), 200);
    assert_eq!(signed(r#"{"mArKeR":"15550783801"#), 400);
    assert_eq!(signed(&meta("<15550783802>", 1)), 200);
    assert_eq!(
        post_signed(&exporter, &meta("15550783803", 1), "sha256=5ec7e7").status,
        401
    );
    assert_eq!(
        handshake(
            &exporter,
            "?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=s3cret-wrong"
        )
        .status,
        403
    );
    let right = "?hub.mode=subscribe&hub.challenge=mArKeR&hub.verify_token=s3cret-of-the-handshake";
    assert_eq!(handshake(&exporter, right).status, 200);
    assert_eq!(
        send("POST", "/webhooks/8x8", &token, &eight("+1 (555) 078-3882")),
        200
    );
    assert_eq!(
        send(
            "POST",
            "/webhooks/8x8/s3cret-of-8x8",
            &[],
            &eight("15550783883")
        ),
        200
    );
    assert_eq!(
        send(
            "POST",
            "/webhooks/8x8/s3cret-wrong",
            &[],
            &eight("15550783804")
        ),
        401
    );
    assert_eq!(
        send(
            "POST",
            "/webhooks/8x8",
            &[("Authorization", "s3cret-wrong")],
            &eight("15550783805")
        ),
        401
    );
    assert_eq!(
        send(
            "POST",
            "/webhooks/innopaas/s3cret-of-innopaas",
            &[],
            "mArKeR 15550783806"
        ),
        400
    );
    assert_eq!(
        send("POST", "/webhooks/kaleyra/s3cret-of-8x8", &[], "mArKeR"),
        404
    );
    assert_eq!(
        send(
            "GET",
            "/webhooks/kaleyra?display_phone_number=+15550783884&event=FLAGGED&mArKeR=1",
            &[],
            ""
        ),
        200
    );
    assert_eq!(
        send(
            "GET",
            "/webhooks/kaleyra?phone_no=15550783807&event=FLAGGED",
            &[],
            ""
        ),
        200,
        "beyond the cap"
    );
    assert_eq!(
        send("POST", "/s3cret-wrong/mArKeR", &[], "15550783808"),
        404
    );
    assert_eq!(
        exchange(exporter.webhook, b"mArKeR s3cret 15550783809\r\n\r\n")
            .unwrap()
            .status,
        400
    );

    exporter.end("TERM");
    let log = exporter.log();
    for masked in ["*******3881", "*******3882", "*******3883", "*******3884"] {
        assert!(
            log.contains(&format!("\"{masked}\"")),
            "{masked} is not in\n{log}"
        );
    }
    assert!(log.contains("change refused"), "{log}");
    for needle in [
        "155507838",
        "55507838",
        "078-38",
        "5550783",
        "163155500",
        MARKER,
        "s3cret",
        "5ec7e7",
    ] {
        assert!(!log.contains(needle), "{needle} is in\n{log}");
    }
}

#[test]
fn the_log_holds_whole_numbers_where_that_is_asked_for() {
    let (_folder, mut exporter) = start(&[], &["--log.phone-numbers"]);
    assert_eq!(
        exporter
            .post("/webhooks/meta", &meta("+1 555-078-3881", 1))
            .status,
        200
    );
    exporter.end("TERM");
    let accepted = accepted_in_json(&exporter.log());
    assert_eq!(accepted["phone_number"], NUMBER, "{accepted}");
}

/// An account and a number that try to look like lines of the log.
const FORGED_ACCOUNT: &str = "1\"{\"level\":\"ERROR\"} ts=0 level=error message=\"forged\" x='\\";
const FORGED_NUMBER: &str = "1555ts=0level=errormessage=forged\"";
/// An event that tries the same; what is not printable does not reach the log.
const FORGED_EVENT: &str =
    "A\"\n{\"level\":\"ERROR\"}\r\nts=0 level=error\u{1b}[31m message=\"forged\"";

fn forge(exporter: &Exporter) {
    let body = json!({"eventType": "phone_number_quality_update", "businessAccountId": FORGED_ACCOUNT,
        "eventDetails": {"displayPhoneNumber": FORGED_NUMBER, "meta": {"event": FORGED_EVENT}}});
    assert_tally(
        &exporter.post("/webhooks/8x8", &body.to_string()),
        &[("applied", 1)],
    );
}

#[test]
fn a_json_log_cannot_be_forged() {
    let (_folder, mut exporter) = start(&[], &["--log.format=json", "--log.phone-numbers"]);
    forge(&exporter);
    exporter.end("TERM");
    let log = exporter.log();
    assert!(
        log.lines()
            .all(|line| serde_json::from_str::<Json>(line).is_ok_and(|event| event.is_object())),
        "{log}"
    );
    assert!(
        !log.lines().any(|line| line.contains("\"level\":\"ERROR\"")),
        "{log}"
    );
    let accepted = accepted_in_json(&log);
    assert_eq!(accepted["waba_id"], FORGED_ACCOUNT);
    assert_eq!(accepted["phone_number"], FORGED_NUMBER);
    let events: Vec<Json> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let unknown: Vec<_> = events
        .iter()
        .filter(|event| event["message"] == "unknown value in a webhook")
        .collect();
    let [unknown] = unknown.as_slice() else {
        panic!("not one unknown value in\n{log}")
    };
    let value = "A\"{\"level\":\"ERROR\"}ts=0 level=error[31m message=\"forged\"";
    assert_eq!(
        (&unknown["field"], &unknown["value"]),
        (&"event".into(), &value.into())
    );
}

#[test]
fn a_logfmt_log_cannot_be_forged() {
    let (_folder, mut exporter) = start(&[], &["--log.format=logfmt", "--log.phone-numbers"]);
    forge(&exporter);
    exporter.end("TERM");
    let log = exporter.log();
    for line in log.lines() {
        let rest = line
            .strip_prefix("ts=2")
            .unwrap_or_else(|| panic!("{line:?} begins with no time in\n{log}"));
        let (_, rest) = rest.split_once(' ').unwrap();
        assert!(
            rest.starts_with("level=info ") || rest.starts_with("level=warn "),
            "{line:?} in\n{log}"
        );
    }
    let accepted: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" message=\"webhook change accepted\""))
        .collect();
    let [accepted] = accepted.as_slice() else {
        panic!("not one change accepted in\n{log}")
    };
    assert!(
        accepted
            .contains(r#" waba_id="1\"{\"level\":\"ERROR\"} ts=0 level=error message=\"forged\""#),
        "{log}"
    );
    assert!(
        accepted.contains(r#" phone_number="1555ts=0level=errormessage=forged\"""#),
        "{log}"
    );
}

#[test]
fn flood_of_strangers_is_ten_lines_a_second() {
    let (_folder, mut exporter) = start(
        &[("8x8.token", "token"), ("meta.app-secret", "secret")],
        &[],
    );
    let began = std::time::Instant::now();
    const SENT: usize = 300;
    for index in 0..SENT / 3 {
        assert_eq!(deliver(&exporter, "8x8", "wrong", &[]).status, 401);
        assert_eq!(
            post_signed(&exporter, "{}", &sign("wrong", b"{}")).status,
            401
        );
        assert_eq!(handshake(&exporter, &format!("?{index}")).status, 403);
    }
    let seconds = began.elapsed().as_secs() + 2;
    exporter.end("TERM");
    let log = exporter.log();
    let events = log
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap());
    let rejected: Vec<_> = events
        .filter(|event| event["message"] == "webhook rejected")
        .collect();
    assert!(
        rejected.len() as u64 <= 10 * seconds,
        "{} lines in {seconds} s",
        rejected.len()
    );
    let counted: u64 = rejected
        .iter()
        .map(|event| 1 + event["suppressed"].as_u64().unwrap_or(0))
        .sum();
    assert!(counted > 0 && counted <= SENT as u64, "{counted}");
}

#[test]
fn unknown_value_is_logged_once_and_holds_no_number() {
    let (_folder, mut exporter) = start(&[], &[]);
    let value = json!({"display_phone_number": NUMBER, "event": "RESTRICTED", "current_limit": "TIER_PLENTY",
        "old_limit": "+15550783881"});
    let value_with_a_number = json!({"display_phone_number": NUMBER, "event": "+1 555-078-3881"});
    for (time, value) in [(1, &value), (1, &value), (2, &value_with_a_number)] {
        let body = of_account(
            time,
            &[json!({"field": "phone_number_quality_update", "value": value})],
        );
        assert_eq!(exporter.post("/webhooks/meta", &body).status, 200);
    }
    exporter.end("TERM");
    let log = exporter.log();
    let events = log
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap());
    let unknown: Vec<_> = events
        .filter(|event| event["message"] == "unknown value in a webhook")
        .map(|event| {
            (
                event["field"].as_str().unwrap().to_owned(),
                event["value"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let want = [
        ("event", "RESTRICTED"),
        ("limit", "TIER_PLENTY"),
        ("limit", "+***********"),
        ("event", "+* ***-***-****"),
    ];
    assert_eq!(
        unknown,
        want.map(|(field, value)| (field.to_owned(), value.to_owned()))
    );
    assert!(!log.contains(NUMBER), "{log}");
}

#[test]
fn a_flood_is_counted_in_the_log_and_not_written_out() {
    let (_folder, exporter) = start(&[], &["--log.format=json"]);
    let send = |numbers: std::ops::Range<u64>| {
        let value = |number| json!({"display_phone_number": format!("1555{number:07}"), "event": "FLAGGED"});
        let changes: Vec<Json> = numbers
            .map(|number| json!({"field": "phone_number_quality_update", "value": value(number)}))
            .collect();
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "time": 1, "changes": changes}]});
        assert_tally(
            &exporter.post("/webhooks/meta", &body.to_string()),
            &[("applied", changes.len() as u64)],
        );
    };
    let accepted = || -> Vec<Option<u64>> {
        let log = exporter.log();
        let events = log
            .lines()
            .map(|line| serde_json::from_str::<Json>(line).unwrap());
        let accepted = events.filter(|event| event["message"] == "webhook change accepted");
        accepted.map(|event| event["suppressed"].as_u64()).collect()
    };
    // The changes of one delivery are accepted at one moment.
    send(0..1500);
    wait_for("the lines of the first delivery", || {
        accepted().len() >= 1000
    });
    assert_eq!(accepted(), [None; 1000]);
    let mut sent = 1500;
    wait_for("a line of the next second", || {
        send(sent..sent + 1);
        sent += 1;
        accepted().len() > 1000
    });
    wait_for("all that was sent to be in a line or counted", || {
        accepted()
            .iter()
            .map(|suppressed| 1 + suppressed.unwrap_or(0))
            .sum::<u64>()
            == sent
    });
}

// What these tests share

/// An exporter with these secrets, each in a file of its own, that are given as `--FLAG-file`.
fn start(secrets: &[(&str, &str)], arguments: &[&str]) -> (TempDir, Exporter) {
    let folder = tempfile::tempdir().unwrap();
    let mut all: Vec<String> = arguments
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect();
    for (index, (flag, secret)) in secrets.iter().enumerate() {
        let file = folder.path().join(format!("secret-{index}"));
        fs::write(&file, secret).unwrap();
        all.push(format!("--{flag}-file={}", file.display()));
    }
    let exporter = Exporter::start(
        &folder.path().join("data"),
        &all.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    (folder, exporter)
}

/// A change of a number by Meta; another one where `time` is another.
fn meta(number: &str, time: u64) -> String {
    of_account(time, &[quality(number)])
}

fn of_account(time: u64, changes: &[Json]) -> String {
    json!({"object": "whatsapp_business_account",
        "entry": [{"id": "102290129340398", "time": 1_748_454_394 + time, "changes": changes}]})
    .to_string()
}

fn quality(number: &str) -> Json {
    json!({"field": "phone_number_quality_update",
        "value": {"display_phone_number": number, "event": "FLAGGED", "current_limit": "TIER_10K"}})
}

/// Sends a body to Meta's path without saying how long it is; signed with "secret".
fn post_in_pieces(exporter: &Exporter, body: &[u8], bytes: usize) -> Answer {
    let head = "POST /webhooks/meta HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked";
    let mut request =
        format!("{head}\r\n{SIGNATURE}: {}\r\n\r\n", sign("secret", body)).into_bytes();
    for piece in body.chunks(bytes) {
        write!(request, "{:x}\r\n", piece.len()).unwrap();
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    exchange(exporter.webhook, &request).unwrap()
}

fn names() -> impl Iterator<Item = &'static str> {
    providers::ALL.iter().map(|provider| provider.name.as_str())
}

/// Every provider that proves itself with a token.
fn token_providers() -> impl Iterator<Item = &'static str> {
    providers::ALL
        .iter()
        .filter(|provider| provider.proof == Proof::Token)
        .map(|provider| provider.name.as_str())
}

/// A provider's delivery of a change, with a mark in it: method, query and body.
fn delivery(name: &str) -> (&'static str, String, String) {
    match provider(name).example {
        Example::Query(query) => ("GET", format!("?{MARKER}={MARKER}&{query}"), String::new()),
        Example::Json(body) => (
            "POST",
            String::new(),
            body.replacen('{', r#"{"mArKeR":"mArKeR","#, 1),
        ),
    }
}

/// Delivers a change, to the path below the provider's where that is not empty.
fn deliver(exporter: &Exporter, provider: &str, below: &str, headers: &[(&str, &str)]) -> Answer {
    let (method, query, body) = delivery(provider);
    let separator = if below.is_empty() { "" } else { "/" };
    let target = format!("/webhooks/{provider}{separator}{below}{query}");
    request(exporter.webhook, method, &target, headers, body.as_bytes()).unwrap()
}

fn post_signed(exporter: &Exporter, body: &str, signature: &str) -> Answer {
    request(
        exporter.webhook,
        "POST",
        "/webhooks/meta",
        &[(SIGNATURE, signature)],
        body.as_bytes(),
    )
    .unwrap()
}

fn handshake(exporter: &Exporter, rest: &str) -> Answer {
    request(
        exporter.webhook,
        "GET",
        &format!("/webhooks/meta{rest}"),
        &[],
        b"",
    )
    .unwrap()
}

#[track_caller]
fn assert_applied(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, answer.text().contains(r#""applied":1,"#)),
        (200, true),
        "{what}: {}",
        answer.text()
    );
}

/// Whether the answer is the whole counts, with zeros but for `want`.
#[track_caller]
fn assert_tally(answer: &Answer, want: &[(&str, u64)]) {
    let outcomes = [
        "applied",
        "duplicate",
        "stale",
        "ignored",
        "invalid",
        "test",
    ];
    let count = |outcome| {
        want.iter()
            .find(|(wanted, _)| *wanted == outcome)
            .map_or(0, |(_, count)| *count)
    };
    let counts: serde_json::Map<_, _> = outcomes
        .into_iter()
        .map(|outcome| (outcome.to_owned(), count(outcome).into()))
        .collect();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json(), Json::Object(counts));
    assert_eq!(answer.headers["content-type"], "application/json");
}

/// Whether the answer is an error, in a sentence that repeats nothing of what was sent.
#[track_caller]
fn assert_error(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/json");
    let body = answer.json();
    let keys: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["error"]);
    assert!(
        body["error"]
            .as_str()
            .is_some_and(|sentence| sentence.contains(' ')),
        "{body}"
    );
    assert!(!answer.text().contains(MARKER), "{body}");
}

#[track_caller]
fn assert_retry_after(answer: &Answer) {
    let seconds: u64 = answer.headers["retry-after"].parse().unwrap();
    assert!(seconds > 0);
}

/// The one event of the log that tells of a change.
fn accepted_in_json(log: &str) -> Json {
    let events = log
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap());
    let accepted: Vec<_> = events
        .filter(|event| event["message"] == "webhook change accepted")
        .collect();
    let [accepted] = accepted.as_slice() else {
        panic!("not one change accepted in\n{log}")
    };
    accepted.clone()
}
