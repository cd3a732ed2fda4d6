//! Web configuration files as Prometheus' exporter-toolkit reads them: a file that it takes is
//! taken or refused by name, and a file that it refuses is refused.
//!
//! Each case stands for a file of the toolkit's `web/testdata`, or for a sentence of its
//! documentation, written anew.

use std::net::TcpListener;

use crate::{
    support::{allow_all, command, finish, fixture},
    tls::Certificates,
};

/// What the program says to a file: nothing, or a sentence with these words.
type Cases = &'static [(&'static str, Result<(), &'static str>)];

const PAIR: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";
const HASH: &str = "$2y$10$WX2mgRnn4/KHh9IrOVP01exJw2OTpzNKFFToVuX5xyV3fNUXpOLIy";

/// What stands below `tls_server_config`, beside the pair of the server.
const CLIENTS_AND_CIPHERS: Cases = &[
    ("", Ok(())),
    ("client_auth_type: NoClientCert", Ok(())),
    ("client_auth_type: RequestClientCert", Ok(())),
    ("client_auth_type: RequireAnyClientCert", Ok(())),
    ("client_auth_type: RequireClientCert", Ok(())),
    (
        "client_auth_type: RequireAnyClientCert\n  client_ca_file: ca.pem",
        Ok(()),
    ),
    (
        "client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem",
        Ok(()),
    ),
    (
        "client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem",
        Ok(()),
    ),
    // The toolkit takes the system's authorities here.
    (
        "client_auth_type: VerifyClientCertIfGiven",
        Err("client_ca_file: it is missing"),
    ),
    (
        "client_auth_type: RequireAndVerifyClientCert",
        Err("client_ca_file: it is missing"),
    ),
    (
        "client_auth_type: Maybe",
        Err("client_auth_type: expected NoClientCert"),
    ),
    ("client_ca_file: ca.pem", Err("client_ca: client_auth_type")),
    (
        "client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: none.pem",
        Err("none.pem"),
    ),
    (
        "client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: server.key",
        Err("client_ca: there is no certificate"),
    ),
    (
        "client_auth_type: RequireAndVerifyClientCert\n  client_ca: this is no certificate",
        Err("client_ca: there is no certificate"),
    ),
    (
        "client_auth_type: RequireAndVerifyClientCert\n  client_ca: x\n  client_ca_file: ca.pem",
        Err("client_ca_file is given, too"),
    ),
    (
        "client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
         client_allowed_sans: [one, two]",
        Ok(()),
    ),
    (
        "client_auth_type: RequireAnyClientCert\n  client_allowed_sans: [one]",
        Ok(()),
    ),
    (
        "client_allowed_sans: [one]",
        Err("client_allowed_sans: client_auth_type must be"),
    ),
    (
        "client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n  \
         client_allowed_sans: [one]",
        Err("client_allowed_sans: client_auth_type must be"),
    ),
    (
        "client_allowed_common_names: [one]",
        Err("client_allowed_common_names: this key is for"),
    ),
    ("min_version: TLS13", Ok(())),
    ("max_version: TLS12", Ok(())),
    ("min_version: TLS10", Err("min_version: TLS 1.0")),
    ("max_version: TLS11", Err("max_version: TLS 1.0")),
    ("min_version: TLS111", Err("min_version: expected")),
    (
        "min_version: TLS13\n  max_version: TLS12",
        Err("max_version: it is lower"),
    ),
    (
        "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]",
        Ok(()),
    ),
    (
        "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  \
         prefer_server_cipher_suites: false",
        Ok(()),
    ),
    (
        "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, \
         TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, \
         TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, \
         TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256, \
         TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256]",
        Ok(()),
    ),
    // Go has these, rustls has not.
    (
        "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA]",
        Err("cipher_suites: \"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA\" is not offered"),
    ),
    (
        "cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n  max_version: TLS12",
        Err("cipher_suites: \"TLS_RSA_WITH_AES_128_CBC_SHA\" is not offered"),
    ),
    (
        "cipher_suites: [TLS_INVENTED]",
        Err("cipher_suites: \"TLS_INVENTED\" is not offered"),
    ),
    (
        "cipher_suites: [TLS_AES_128_GCM_SHA256]\n  max_version: TLS12",
        Err("cipher_suites: no suite is left"),
    ),
    ("curve_preferences: [X25519, CurveP256, CurveP384]", Ok(())),
    // Go has this one, rustls has not.
    (
        "curve_preferences: [CurveP521]",
        Err("curve_preferences: \"CurveP521\" is not offered"),
    ),
    (
        "curve_preferences: [CurveP257]",
        Err("curve_preferences: \"CurveP257\" is not offered"),
    ),
    ("cert_filse: x", Err("unknown field `cert_filse`")),
    (
        "auth_excluded_paths: [/x]",
        Err("unknown field `auth_excluded_paths`"),
    ),
];

/// Whole files.
const FILES: Cases = &[
    ("", Ok(())),
    ("# nothing\n", Ok(())),
    ("tls_server_config:\n", Ok(())),
    ("hahaha", Err("expected a map of keys")),
    ("- cert_file: server.pem", Err("expected a map of keys")),
    (
        "tls_server_config:\n  cert_filse: server.pem\n",
        Err("at line 2 column 3"),
    ),
    (
        "tls_server_confg: {}\n",
        Err("unknown field `tls_server_confg`"),
    ),
    (
        "rate_limit: {}\n\nrate_limt: {}\n",
        Err("at line 3 column 1"),
    ),
    (
        "tls_server_config: {}\ntls_server_config: {}",
        Err("duplicate field `tls_server_config`"),
    ),
    (
        "tls_server_config: {cert_file: '', key_file: server.key}",
        Err("one of cert and cert_file"),
    ),
    (
        "tls_server_config: {cert: '', key_file: server.key}",
        Err("one of cert and cert_file"),
    ),
    (
        "tls_server_config: {cert_file: server.pem, key_file: ''}",
        Err("one of key and key_file"),
    ),
    (
        "tls_server_config: {cert_file: server.pem, key: ''}",
        Err("one of key and key_file"),
    ),
    (
        "tls_server_config: {cert_file: '', key_file: ''}",
        Err("one of cert and cert_file"),
    ),
    (
        "tls_server_config: {cert_file: none, key_file: server.key}",
        Err("cert_file: cannot read"),
    ),
    (
        "tls_server_config: {cert_file: server.pem, key_file: none}",
        Err("key_file: cannot read"),
    ),
    (
        "tls_server_config: {cert_file: none, key_file: none}",
        Err("cert_file: cannot read"),
    ),
    (
        "tls_server_config: {cert_file: server.key, key_file: server.key}",
        Err("no certificate"),
    ),
    (
        "tls_server_config: {cert_file: server.pem, key_file: server.pem}",
        Err("no private key"),
    ),
    (
        "tls_server_config: {cert_file: server.pem, key_file: other.key}",
        Err("cannot be used together"),
    ),
    (
        "tls_server_config: {min_version: TLS12}",
        Err("one of cert and cert_file"),
    ),
    ("http_server_config: {http2: false}", Ok(())),
    (
        "http_server_config: {http2: maybe}",
        Err("http2: expected a boolean"),
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    \
         Strict-Transport-Security: max-age=31536000; includeSubDomains\n    \
         X-Content-Type-Options: nosniff\n    X-XSS-Protection: 1\n    \
         Content-Security-Policy: \"default-src 'self' *.test.example.net\"\n",
        Ok(()),
    ),
    (
        "http_server_config: {headers: {X-Frame-Options: ''}}",
        Ok(()),
    ),
    (
        "http_server_config: {headers: {X-Content-Type-Options: sniff}}",
        Err("X-Content-Type-Options: the value is not one of nosniff"),
    ),
    (
        "http_server_config: {headers: {X-Frame-Options: foo}}",
        Err("X-Frame-Options: the value is not one of deny, sameorigin"),
    ),
    (
        "http_server_config: {headers: {Server: foo}}",
        Err("headers.Server: this header is not"),
    ),
    (
        "http_server_config: {headers: {X-XSS-Protection: \"1\\n2\"}}",
        Err("X-XSS-Protection: the value cannot stand in a header"),
    ),
    ("basic_auth_users: {}", Ok(())),
    ("basic_auth_users: {dave: HASH, carol: HASH}", Ok(())),
    (
        "basic_auth_users: {dave: HASH, dave: HASH}",
        Err("the user \"dave\" stands twice"),
    ),
    (
        "basic_auth_users: {john: doe}",
        Err("the value of \"john\" is no hash by bcrypt"),
    ),
    (
        "basic_auth_users: HASH",
        Err("expected a map of users and hashes"),
    ),
    ("rate_limit: {}", Ok(())),
    ("rate_limit: {interval: 0, burst: 0}", Ok(())),
    ("rate_limit: {interval: 0s}", Ok(())),
    ("rate_limit: {interval: 1s, burst: 1}", Ok(())),
    ("rate_limit: {interval: 1.5s, burst: 10}", Ok(())),
    (
        "rate_limit: {interval: 1s}",
        Err("rate_limit.burst: expected 1 or more"),
    ),
    (
        "rate_limit: {interval: 1s, burst: -1}",
        Err("burst: expected u32"),
    ),
    (
        "rate_limit: {interval: soon, burst: 1}",
        Err("rate_limit.interval: expected a time"),
    ),
    (
        "rate_limit: {interval: -1s, burst: 1}",
        Err("rate_limit.interval: expected a time"),
    ),
];

/// Files of the webhook listener.
const WEBHOOK_FILES: Cases = &[
    ("http_server_config: {http2: false}", Ok(())),
    (
        "http_server_config: {http2: true}",
        Err("webhooks are received by HTTP/1.1"),
    ),
    ("rate_limit: {interval: 1s, burst: 1}", Ok(())),
    (
        "basic_auth_users: {dave: HASH}",
        Err("a provider proves its webhooks by a signature"),
    ),
    (
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  \
         client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
         client_allowed_common_names: [one]",
        Ok(()),
    ),
    (
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  \
         client_auth_type: RequireAnyClientCert\n  client_allowed_common_names: [one]",
        Err("client_allowed_common_names: client_auth_type must be RequireAndVerifyClientCert"),
    ),
];

#[test]
fn files_of_the_toolkit_are_taken_or_refused_by_name() {
    let program = Program::new();
    for (below, expected) in CLIENTS_AND_CIPHERS {
        program.check("web", &format!("{PAIR}  {below}\n"), *expected);
    }
    for (text, expected) in FILES {
        program.check("web", text, *expected);
    }
    for (text, expected) in WEBHOOK_FILES {
        program.check("webhook", text, *expected);
    }
    let read = |name| std::fs::read_to_string(program.certificates.path(name)).unwrap();
    let indented = |name| read(name).replace('\n', "\n    ");
    let (certificate, key) = (indented("server.pem"), indented("server.key"));
    let inline = format!("tls_server_config:\n  cert: |\n    {certificate}\n  key: |\n    {key}\n");
    program.check("web", &inline, Ok(()));
    let key_inline = format!("tls_server_config:\n  cert_file: server.pem\n  key: |\n    {key}\n");
    program.check("web", &key_inline, Ok(()));
}

#[test]
fn files_of_the_documentation_are_taken() {
    let program = Program::new();
    let authority = std::fs::read(program.certificates.path("ca.pem")).unwrap();
    std::fs::write(program.certificates.path("meta-ca.pem"), authority).unwrap();
    let documentation = fixture("../docs/deployment.md");
    let blocks: Vec<_> = documentation.split("```yaml\n").skip(1).collect();
    let blocks = blocks
        .iter()
        .map(|block| block.split("```").next().unwrap());
    let roles = ["web", "webhook"];
    assert_eq!(blocks.len(), roles.len());
    for (role, block) in roles.iter().zip(blocks) {
        program.check(role, block, Ok(()));
    }
}

#[test]
fn file_that_is_not_there_is_refused() {
    let program = Program::new();
    let flag = "--web.config.file=none.yml".to_owned();
    let (status, said) = program.run(flag);
    assert_eq!(status, Some(2), "{said}");
    assert!(
        said.contains("--web.config.file (none.yml): cannot read the file"),
        "{said}"
    );
}

/// The program, and files that it reads.
struct Program {
    certificates: Certificates,
    /// The program ends by this, where it takes the file: its address is in use.
    _in_use: TcpListener,
    address: String,
}

impl Program {
    fn new() -> Self {
        let certificates = Certificates::new();
        certificates.issue("other", |_| {});
        let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("--web.listen-address={}", in_use.local_addr().unwrap());
        Self {
            certificates,
            _in_use: in_use,
            address,
        }
    }

    fn check(&self, role: &str, text: &str, expected: Result<(), &str>) {
        let text = text.replace("HASH", HASH);
        let file = self.certificates.write("file.yml", &text);
        let flag = format!("--{role}.config.file={}", file.display());
        let (status, said) = self.run(flag);
        match expected {
            Ok(()) => {
                assert_eq!(status, Some(1), "{text}\n{said}");
                assert!(said.contains("cannot listen on"), "{text}\n{said}");
            }
            Err(words) => {
                assert_eq!(status, Some(2), "{text}\n{said}");
                let start = format!("error: --{role}.config.file (");
                assert!(
                    said.starts_with(&start) && said.contains(words),
                    "{text}\n{said}"
                );
                assert!(!said.contains(HASH) && !said.contains("doe"), "{said}");
            }
        }
    }

    fn run(&self, flag: String) -> (Option<i32>, String) {
        let mut command = command();
        command.args([&self.address, &flag, &allow_all()]);
        let output = finish(command);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }
}
