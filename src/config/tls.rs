//! `tls_server_config` of a web configuration file, made into what rustls serves by.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::{TLS12, TLS13},
};
use serde::Deserialize;
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::web::{FileReader, Role};

/// The names of Go's `crypto/tls`, which the toolkit uses, for the suites that rustls has. As in Go,
/// those of TLS 1.3 are always offered.
const CIPHER_SUITES: [(&str, Option<SupportedCipherSuite>); 9] = {
    use aws_lc_rs::cipher_suite::*;
    [
        (
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Some(TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Some(TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            Some(TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        ),
        (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Some(TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ),
        (
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            Some(TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            Some(TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
        ),
        ("TLS_AES_128_GCM_SHA256", None),
        ("TLS_AES_256_GCM_SHA384", None),
        ("TLS_CHACHA20_POLY1305_SHA256", None),
    ]
};

/// The toolkit's names of the groups that rustls has.
const CURVES: [(&str, &dyn SupportedKxGroup); 3] = [
    ("CurveP256", aws_lc_rs::kx_group::SECP256R1),
    ("CurveP384", aws_lc_rs::kx_group::SECP384R1),
    ("X25519", aws_lc_rs::kx_group::X25519),
];

/// The section as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, expecting = "a map of keys")]
pub(super) struct TlsDocument {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    client_ca_file: Option<String>,
    client_auth_type: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    client_allowed_common_names: Option<Vec<String>>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Option<Vec<String>>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Option<Vec<String>>,
}

/// Whether a certificate is valid now, in sentences.
#[derive(Default)]
pub(super) struct Validity {
    /// Why it is not.
    pub(super) warning: Option<String>,
    /// Until when it is.
    pub(super) until: Option<String>,
}

/// What is asked of a client's certificate: Go's `tls.ClientAuthType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAuth {
    No,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl ClientAuth {
    fn read(name: Option<&str>) -> Result<Self, String> {
        match name.unwrap_or_default() {
            "" | "NoClientCert" => Ok(Self::No),
            "RequestClientCert" => Ok(Self::Request),
            // The toolkit takes its first name of this mode, too.
            "RequireAnyClientCert" | "RequireClientCert" => Ok(Self::RequireAny),
            "VerifyClientCertIfGiven" => Ok(Self::VerifyIfGiven),
            "RequireAndVerifyClientCert" => Ok(Self::RequireAndVerify),
            _ => Err(
                "tls_server_config.client_auth_type: expected NoClientCert, \
                 RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven or \
                 RequireAndVerifyClientCert"
                    .into(),
            ),
        }
    }

    const fn is_mandatory(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }

    const fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }
}

/// What the section says.
pub(super) fn server_config(
    role: Role,
    document: TlsDocument,
    http2: bool,
    files: &mut FileReader<'_>,
    validity: &mut Validity,
) -> Result<Arc<ServerConfig>, String> {
    let chain = pem_of("cert", document.cert, document.cert_file, files)?;
    let chain = chain.ok_or("tls_server_config: one of cert and cert_file is missing")?;
    let key = pem_of("key", document.key, document.key_file, files)?;
    let key = key.ok_or("tls_server_config: one of key and key_file is missing")?;
    let chain = certificates("cert", &chain)?;
    *validity = chain.first().and_then(validity_of).unwrap_or_default();
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
        format!("tls_server_config.key: there is no private key in PEM format: {error}")
    })?;
    let provider = Arc::new(provider(
        document.cipher_suites.as_deref().unwrap_or_default(),
        document.curve_preferences.as_deref().unwrap_or_default(),
    )?);
    let authorities = pem_of(
        "client_ca",
        document.client_ca,
        document.client_ca_file,
        files,
    )?;
    let auth = ClientAuth::read(document.client_auth_type.as_deref())?;
    let names = AllowedNames::new(
        role,
        auth,
        document.client_allowed_sans,
        document.client_allowed_common_names,
    )?;
    let verifier = client_verifier(auth, authorities, names, &provider)?;
    let versions = versions(
        document.min_version.as_deref(),
        document.max_version.as_deref(),
    )?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| {
            format!("tls_server_config.cipher_suites: no suite is left for this version: {error}")
        })?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!("tls_server_config: the certificate and the key cannot be used together: {error}")
    })?;
    config.ignore_client_order = document.prefer_server_cipher_suites.unwrap_or(true);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(Arc::new(config))
}

/// The text of a key that may stand in the file itself or in a file of its own.
fn pem_of(
    key: &str,
    inline: Option<String>,
    file: Option<String>,
    files: &mut FileReader<'_>,
) -> Result<Option<Vec<u8>>, String> {
    let is_given = |text: &String| !text.is_empty();
    let key = format!("tls_server_config.{key}");
    match (inline.filter(is_given), file.filter(is_given)) {
        (Some(_), Some(_)) => Err(format!(
            "{key}: {key}_file is given, too; leave one of them out"
        )),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(path)) => files.read(&format!("{key}_file"), &path).map(Some),
        (None, None) => Ok(None),
    }
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!(
            "tls_server_config.{key}: there is no certificate in PEM format"
        )),
        Err(error) => Err(format!(
            "tls_server_config.{key}: the PEM format is broken: {error}"
        )),
    }
}

/// A sentence where clients will refuse the certificate because of its dates.
fn validity_of(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let now = std::time::SystemTime::now();
    let (from, until) = (validity.not_before, validity.not_after);
    let warning = if until.to_system_time() < now {
        Some(format!(
            "the certificate has expired ({until}), so clients refuse it"
        ))
    } else if from.to_system_time() > now {
        Some(format!(
            "the certificate is valid from {from} on, so clients refuse it until then"
        ))
    } else {
        None
    };
    let is_valid = warning.is_none();
    Some(Validity {
        warning,
        until: is_valid.then(|| format!("the certificate is valid until {until}")),
    })
}

/// The suites and groups that are asked for, or all that rustls takes by default.
fn provider(suites: &[String], curves: &[String]) -> Result<CryptoProvider, String> {
    let mut provider = aws_lc_rs::default_provider();
    if !suites.is_empty() {
        let is_tls13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
        provider.cipher_suites.retain(is_tls13);
        for name in suites {
            let known = CIPHER_SUITES.iter().find(|(known, _)| known == name);
            let (_, suite) =
                known.ok_or_else(|| not_offered("cipher_suites", name, &CIPHER_SUITES))?;
            provider.cipher_suites.extend(*suite);
        }
    }
    if !curves.is_empty() {
        provider.kx_groups.clear();
        for name in curves {
            let known = CURVES.iter().find(|(known, _)| known == name);
            let (_, group) =
                known.ok_or_else(|| not_offered("curve_preferences", name, &CURVES))?;
            provider.kx_groups.push(*group);
        }
    }
    Ok(provider)
}

fn not_offered<T>(key: &str, name: &str, offered: &[(&str, T)]) -> String {
    let offered: Vec<_> = offered.iter().map(|(name, _)| *name).collect();
    format!(
        "tls_server_config.{key}: {name:?} is not offered; the TLS library, rustls, has {}",
        offered.join(", ")
    )
}

fn versions(
    min: Option<&str>,
    max: Option<&str>,
) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let version = |key: &str, name: Option<&str>, default: u8| match name {
        None => Ok(default),
        Some("TLS12") => Ok(12),
        Some("TLS13") => Ok(13),
        Some("TLS10" | "TLS11") => Err(format!(
            "tls_server_config.{key}: TLS 1.0 and 1.1 are not offered, because they are broken; \
             use TLS12 or TLS13"
        )),
        Some(_) => Err(format!("tls_server_config.{key}: expected TLS12 or TLS13")),
    };
    let min = version("min_version", min, 12)?;
    let max = version("max_version", max, 13)?;
    if min > max {
        return Err("tls_server_config.max_version: it is lower than min_version".into());
    }
    let all = [(12, &TLS12), (13, &TLS13)].into_iter();
    let wanted = all.filter(|(version, _)| (min..=max).contains(version));
    Ok(wanted.map(|(_, version)| version).collect())
}

/// The names of which a client's certificate must have one; `None` where any will do.
#[derive(Debug)]
struct AllowedNames {
    subject_alternative: Option<Vec<String>>,
    common: Option<Vec<String>>,
}

impl AllowedNames {
    fn new(
        role: Role,
        auth: ClientAuth,
        subject_alternative: Option<Vec<String>>,
        common: Option<Vec<String>>,
    ) -> Result<Self, String> {
        if subject_alternative.is_some() && !auth.is_mandatory() {
            return Err(
                "tls_server_config.client_allowed_sans: client_auth_type must be \
                 RequireAndVerifyClientCert or RequireAnyClientCert, because otherwise a \
                 client without a certificate would be let in"
                    .into(),
            );
        }
        if common.is_some() && role == Role::Web {
            return Err(
                "tls_server_config.client_allowed_common_names: this key is for \
                 --webhook.config.file; use client_allowed_sans"
                    .into(),
            );
        }
        if common.is_some() && auth != ClientAuth::RequireAndVerify {
            return Err(
                "tls_server_config.client_allowed_common_names: client_auth_type must be \
                 RequireAndVerifyClientCert, because otherwise anybody can write the name"
                    .into(),
            );
        }
        Ok(Self {
            subject_alternative,
            common,
        })
    }

    fn allow(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.subject_alternative.is_none() && self.common.is_none() {
            return true;
        }
        let Ok(certificate) = Certificate::from_der(certificate) else {
            return false;
        };
        let is_among = |allowed: &Option<Vec<String>>, names: &[String]| {
            allowed
                .as_ref()
                .is_none_or(|allowed| names.iter().any(|name| allowed.contains(name)))
        };
        is_among(
            &self.subject_alternative,
            &subject_alternative_names(&certificate),
        ) && is_among(&self.common, &common_name(&certificate))
    }
}

/// The DNS names, addresses of mail and machines, and URIs for which a certificate stands.
fn subject_alternative_names(certificate: &Certificate) -> Vec<String> {
    let extension = certificate
        .tbs_certificate()
        .get_extension::<SubjectAltName>();
    let Ok(Some((_, names))) = extension else {
        return Vec::new();
    };
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name)
        | GeneralName::Rfc822Name(name)
        | GeneralName::UniformResourceIdentifier(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => ip_address(address.as_bytes()),
        _ => None,
    };
    names.0.iter().filter_map(name).collect()
}

fn ip_address(octets: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(std::net::Ipv4Addr::from(octets).to_string());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(std::net::Ipv6Addr::from(octets).to_string())
}

fn common_name(certificate: &Certificate) -> Vec<String> {
    let name = certificate.tbs_certificate().subject().common_name();
    let name = name.ok().flatten();
    name.map(|name| name.value().into_owned())
        .into_iter()
        .collect()
}

/// Checks the certificates of clients.
#[derive(Debug)]
struct ClientVerifier {
    auth: ClientAuth,
    /// Checks that an authority has signed a certificate; `None` where any certificate will do.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    names: AllowedNames,
    provider: Arc<CryptoProvider>,
}

fn client_verifier(
    auth: ClientAuth,
    authorities: Option<Vec<u8>>,
    names: AllowedNames,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    if auth == ClientAuth::No {
        return match authorities {
            None => Ok(None),
            Some(_) => Err(
                "tls_server_config.client_ca: client_auth_type says that no client \
                 needs a certificate; set it to RequireAndVerifyClientCert"
                    .into(),
            ),
        };
    }
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &authorities {
        for certificate in certificates("client_ca", pem)? {
            roots.add(certificate).map_err(|error| {
                format!("tls_server_config.client_ca: a certificate cannot be used: {error}")
            })?;
        }
    }
    if auth.verifies() && roots.is_empty() {
        return Err(
            "tls_server_config.client_ca_file: it is missing, and client_auth_type wants \
                 certificates verified; the system's authorities are not used, because anybody \
                 can have a certificate of theirs"
                .into(),
        );
    }
    let chain = if auth.verifies() {
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let chain = builder.build().map_err(|error| {
            format!("tls_server_config.client_ca: the certificates cannot be used: {error}")
        })?;
        Some(chain)
    } else {
        None
    };
    Ok(Some(Arc::new(ClientVerifier {
        auth,
        chain,
        names,
        provider: Arc::clone(provider),
    })))
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth.is_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        let chain = self.chain.as_ref();
        chain.map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        if self.names.allow(end_entity) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
