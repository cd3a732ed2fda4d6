//! The exporter's own metrics, in the registry of the client library.

use std::{sync::OnceLock, time::SystemTime};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, process_collector::ProcessCollector, proto::MetricFamily,
};

use crate::{
    domain::{ProviderName, Timestamp, UnknownField, Vocabulary},
    providers::{self, Provider},
};

/// A label value for requests to a path that names no provider.
const NO_PROVIDER: &str = "none";

/// The answers that the webhook listener gives.
const CODES: [u16; 9] = [200, 400, 401, 404, 405, 408, 413, 415, 503];
/// What only a handshake is answered.
const FORBIDDEN: u16 = 403;

const REQUEST_SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];
const SCRAPE_SECONDS: [f64; 11] = [
    0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];
/// From a second to the 7 days for which Meta retries.
const DELAY_SECONDS: [f64; 13] = [
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0,
];

/// The exporter's own metrics.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    providers: Vec<ProviderMetrics>,
    requests: IntCounterVec,
    secret_last_used: GaugeVec,
    /// Scrapes of `/metrics`.
    pub scrape_duration: Histogram,
    /// Numbers known.
    pub phone_numbers: IntGauge,
    /// Numbers there may be.
    pub phone_numbers_max: IntGauge,
    /// Changes refused for the cap.
    pub phone_numbers_refused: IntCounter,
    /// The storage.
    pub storage: StorageMetrics,
    /// Readings of the configuration.
    pub reload: ReloadMetrics,
}

/// What is counted of a provider.
#[derive(Debug)]
pub struct ProviderMetrics {
    name: ProviderName,
    answered: Vec<(u16, IntCounter)>,
    /// When a delivery was last accepted.
    pub last_accepted: TimeGauge,
    /// When a delivery last held a change.
    pub last_change: TimeGauge,
    /// When a handshake was last answered with its challenge.
    pub last_handshake: TimeGauge,
    /// Whether its webhooks are received.
    pub on: IntGauge,
    /// Changes by what became of them.
    pub changes: ChangeMetrics,
    /// Requests that carried no proof of who sent them.
    pub auth_missing: IntCounter,
    /// Requests that carried a false one.
    pub auth_wrong: IntCounter,
    /// Handshakes without the right verify token; `None` where the provider makes none.
    pub auth_handshake: Option<IntCounter>,
    /// Values that this version does not know, by where they stood.
    unknown: [IntCounter; UnknownField::ALL.len()],
    /// From the request's head to the answer, in seconds.
    pub duration: Histogram,
    /// From the event to its acceptance, in seconds.
    pub delivery_delay: Histogram,
}

/// Changes by outcome.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the outcomes of the contract")]
pub struct ChangeMetrics {
    pub applied: IntCounter,
    pub duplicate: IntCounter,
    pub stale: IntCounter,
    pub ignored: IntCounter,
    pub invalid: IntCounter,
    pub test: IntCounter,
}

/// What is counted of the storage.
#[derive(Debug)]
pub struct StorageMetrics {
    /// Whether the storage took the last commit, or its probe since.
    pub up: IntGauge,
    /// When it last took a commit.
    pub last_commit: Gauge,
    /// Its size in bytes.
    pub size: IntGauge,
    /// Commits, in seconds.
    pub commit_duration: Histogram,
    /// Failed attempts to write the log into the database.
    pub checkpoint_errors: IntCounter,
    /// Failed commits.
    pub commit_errors: IntCounter,
    /// Failed readings of the size.
    pub size_errors: IntCounter,
}

/// What is shown of a storage that replicas share.
#[cfg(feature = "etcd")]
#[derive(Clone, Debug)]
pub struct ReplicationMetrics {
    /// The revision up to which everything is shown.
    pub revision: IntGauge,
    /// How far that is behind, in seconds.
    pub watch_lag: Gauge,
}

impl Telemetry {
    /// Registers what only a storage has that replicas share.
    ///
    /// # Errors
    ///
    /// Where it is registered already.
    #[cfg(feature = "etcd")]
    pub fn replication(&self) -> prometheus::Result<ReplicationMetrics> {
        let make = Make(&self.registry);
        Ok(ReplicationMetrics {
            revision: make.int_gauge(
                "whatsapp_exporter_storage_revision",
                "Revision of etcd up to which this replica shows everything.",
            )?,
            watch_lag: make.gauge(
                "whatsapp_exporter_storage_watch_lag_seconds",
                "How long this replica has not shown what is newest in etcd; 0 while it does.",
            )?,
        })
    }

    /// Registers everything.
    ///
    /// # Errors
    ///
    /// Where a name or a bucket is not valid: a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Make(&registry);
        register_constants(&make)?;
        let families = ProviderFamilies::register(&make)?;
        families.requests.with_label_values(&[NO_PROVIDER, "404"]);
        let telemetry = Self {
            providers: providers::ALL
                .iter()
                .map(|provider| families.of(provider))
                .collect(),
            requests: families.requests,
            secret_last_used: make.gauge_vec(
                "whatsapp_exporter_webhook_secret_last_used_timestamp_seconds",
                "When a secret last proved a webhook since this process began; absent until then. \
                 The secrets of a provider are numbered from 1 in the order given, files first, \
                 then the environment.",
                &["provider", "secret"],
            )?,
            scrape_duration: make.histogram(
                "whatsapp_exporter_scrape_duration_seconds",
                "Time to make an answer to a scrape.",
                &SCRAPE_SECONDS,
            )?,
            phone_numbers: make
                .int_gauge("whatsapp_exporter_phone_numbers", "Phone numbers known.")?,
            phone_numbers_max: make.int_gauge(
                "whatsapp_exporter_phone_numbers_max",
                "Phone numbers there may be (--limits.max-phone-numbers).",
            )?,
            phone_numbers_refused: make.counter(
                "whatsapp_exporter_phone_numbers_refused_total",
                "Changes refused because they would have added a phone number or an account \
                 beyond the cap.",
            )?,
            storage: StorageMetrics::register(&make)?,
            reload: ReloadMetrics::register(&make)?,
            registry: registry.clone(),
        };
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(telemetry)
    }

    /// The metrics of a provider.
    pub fn provider(&self, name: ProviderName) -> Option<&ProviderMetrics> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// Counts an answer of the webhook listener. `provider` is `None` where the path names none.
    pub fn answered(&self, provider: Option<&ProviderMetrics>, code: u16) {
        let mut known = provider.iter().flat_map(|provider| &provider.answered);
        match known.find(|(known, _)| *known == code) {
            Some((_, counter)) => counter.inc(),
            None => {
                let name = provider.map_or(NO_PROVIDER, |provider| provider.name.as_str());
                self.requests
                    .with_label_values(&[name, code.to_string().as_str()])
                    .inc();
            }
        }
    }

    /// When a secret of a provider last proved a webhook. Secrets are numbered from 1 in the order
    /// given.
    pub fn secret_last_used(&self, provider: ProviderName, number: usize) -> TimeGauge {
        TimeGauge::new(
            &self.secret_last_used,
            &[provider.as_str(), &number.to_string()],
        )
    }

    /// Forgets when each secret was used, because others may have their numbers now.
    pub fn forget_secrets(&self) {
        self.secret_last_used.reset();
    }

    /// The metrics as they stand.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

impl ProviderMetrics {
    /// Counts a value that this version does not know.
    pub fn count_unknown(&self, field: UnknownField) {
        if let Some(counter) = self.unknown.get(field.index()) {
            counter.inc();
        }
    }
}

/// Registers what does not change while the process runs.
fn register_constants(make: &Make<'_>) -> prometheus::Result<()> {
    let build_info = make.gauge_vec(
        "whatsapp_exporter_build_info",
        "1, with the version, the revision and the compiler of the running binary as labels.",
        &["version", "revision", "rustc"],
    )?;
    build_info
        .with_label_values(&[
            env!("CARGO_PKG_VERSION"),
            env!("BUILD_REVISION"),
            env!("BUILD_RUSTC"),
        ])
        .set(1.0);
    Ok(())
}

/// The families that have a child for each provider.
struct ProviderFamilies {
    on: IntGaugeVec,
    requests: IntCounterVec,
    changes: IntCounterVec,
    auth_failures: IntCounterVec,
    unknown: IntCounterVec,
    last_accepted: GaugeVec,
    last_change: GaugeVec,
    last_handshake: GaugeVec,
    duration: HistogramVec,
    delay: HistogramVec,
}

impl ProviderFamilies {
    fn register(make: &Make<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            on: make.int_gauge_vec(
                "whatsapp_exporter_provider_on",
                "1 where the provider's webhooks are received, 0 where its paths are 404.",
                &["provider"],
            )?,
            requests: make.counter_vec(
                "whatsapp_exporter_webhook_requests_total",
                "Answers of the webhook listener.",
                &["provider", "code"],
            )?,
            changes: make.counter_vec(
                "whatsapp_exporter_webhook_changes_total",
                "Changes in authentic webhooks, by what became of them.",
                &["provider", "outcome"],
            )?,
            auth_failures: make.counter_vec(
                "whatsapp_exporter_webhook_auth_failures_total",
                "Webhook requests without a valid signature or token.",
                &["provider", "reason"],
            )?,
            unknown: make.counter_vec(
                "whatsapp_exporter_webhook_unknown_values_total",
                "Names, limits and other values in webhooks that this version does not know.",
                &["provider", "field"],
            )?,
            last_accepted: make.gauge_vec(
                "whatsapp_exporter_webhook_last_accepted_timestamp_seconds",
                "When a webhook of the provider was last accepted; absent until the first. A \
                 handshake does not count.",
                &["provider"],
            )?,
            last_change: make.gauge_vec(
                "whatsapp_exporter_webhook_last_change_timestamp_seconds",
                "When a webhook of the provider last held a change that was applied, stale or a \
                 duplicate; absent until the first. A webhook of which all was ignored does not \
                 count.",
                &["provider"],
            )?,
            last_handshake: make.gauge_vec(
                "whatsapp_exporter_webhook_last_handshake_timestamp_seconds",
                "When a handshake of the provider was last answered 200; absent until the first.",
                &["provider"],
            )?,
            duration: make.histogram_vec(
                "whatsapp_exporter_webhook_duration_seconds",
                "Time from a webhook request's head to its answer.",
                &REQUEST_SECONDS,
            )?,
            delay: make.histogram_vec(
                "whatsapp_exporter_webhook_delivery_delay_seconds",
                "Time from an event, as the provider dates it, to its acceptance.",
                &DELAY_SECONDS,
            )?,
        })
    }

    fn of(&self, provider: &Provider) -> ProviderMetrics {
        let name = provider.name.as_str();
        let forbidden = provider.handshake.then_some(FORBIDDEN);
        let answered = CODES.into_iter().chain(forbidden).map(|code| {
            (
                code,
                self.requests
                    .with_label_values(&[name, code.to_string().as_str()]),
            )
        });
        let change = |outcome| self.changes.with_label_values(&[name, outcome]);
        let failure = |reason| self.auth_failures.with_label_values(&[name, reason]);
        ProviderMetrics {
            name: provider.name,
            answered: answered.collect(),
            last_accepted: TimeGauge::new(&self.last_accepted, &[name]),
            last_change: TimeGauge::new(&self.last_change, &[name]),
            last_handshake: TimeGauge::new(&self.last_handshake, &[name]),
            on: self.on.with_label_values(&[name]),
            changes: ChangeMetrics {
                applied: change("applied"),
                duplicate: change("duplicate"),
                stale: change("stale"),
                ignored: change("ignored"),
                invalid: change("invalid"),
                test: change("test"),
            },
            auth_missing: failure("missing"),
            auth_wrong: failure("wrong"),
            auth_handshake: provider.handshake.then(|| failure("handshake")),
            unknown: UnknownField::ALL
                .map(|field| self.unknown.with_label_values(&[name, field.as_str()])),
            duration: self.duration.with_label_values(&[name]),
            delivery_delay: self.delay.with_label_values(&[name]),
        }
    }
}

/// What is known of the last reading of the configuration.
#[derive(Debug)]
pub struct ReloadMetrics {
    successful: IntGauge,
    success_time: Gauge,
}

impl ReloadMetrics {
    fn register(make: &Make<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            successful: make.int_gauge(
                "whatsapp_exporter_config_last_reload_successful",
                "Whether secrets and web configurations were last read with success.",
            )?,
            success_time: make.gauge(
                "whatsapp_exporter_config_last_reload_success_timestamp_seconds",
                "When secrets and web configurations were last read with success.",
            )?,
        };
        metrics.note(true);
        Ok(metrics)
    }

    /// Notes a reading.
    pub fn note(&self, is_successful: bool) {
        self.successful.set(is_successful.into());
        if is_successful {
            self.success_time
                .set(Timestamp::from(SystemTime::now()).as_seconds());
        }
    }
}

impl StorageMetrics {
    fn register(make: &Make<'_>) -> prometheus::Result<Self> {
        let errors = make.counter_vec(
            "whatsapp_exporter_storage_errors_total",
            "Failed operations of the storage.",
            &["operation"],
        )?;
        let error = |operation| errors.with_label_values(&[operation]);
        Ok(Self {
            up: make.int_gauge(
                "whatsapp_exporter_storage_up",
                "Whether the storage takes commits.",
            )?,
            last_commit: make.gauge(
                "whatsapp_exporter_storage_last_commit_timestamp_seconds",
                "When the storage last took a commit; 0 before the first of this process.",
            )?,
            size: make.int_gauge(
                "whatsapp_exporter_storage_size_bytes",
                "Size of the storage.",
            )?,
            commit_duration: make.histogram(
                "whatsapp_exporter_storage_commit_duration_seconds",
                "Time of a commit, with its fsync.",
                &REQUEST_SECONDS,
            )?,
            checkpoint_errors: error("checkpoint"),
            commit_errors: error("commit"),
            size_errors: error("size"),
        })
    }
}

/// A gauge of a time, absent until the first.
#[derive(Debug)]
pub struct TimeGauge {
    family: GaugeVec,
    labels: Vec<String>,
    gauge: OnceLock<Gauge>,
}

impl TimeGauge {
    fn new(family: &GaugeVec, labels: &[&str]) -> Self {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self {
            family: family.clone(),
            labels,
            gauge: OnceLock::new(),
        }
    }

    /// The time, to the second.
    pub fn get(&self) -> Option<Timestamp> {
        let seconds = self.gauge.get()?.get();
        Timestamp::from_unix_seconds(seconds as i64)
    }

    /// Sets the time.
    pub fn set(&self, at: Timestamp) {
        self.gauge().set(at.as_seconds());
    }

    /// Sets the time where it is later than the one before.
    pub fn raise(&self, at: Timestamp) {
        let gauge = self.gauge();
        gauge.set(gauge.get().max(at.as_seconds()));
    }

    fn gauge(&self) -> &Gauge {
        self.gauge
            .get_or_init(|| self.family.with_label_values(&self.labels))
    }
}

/// Makes metrics and registers them.
struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn register<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: M,
    ) -> prometheus::Result<M> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help)?)
    }

    fn counter_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(Gauge::new(name, help)?)
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn int_gauge_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn int_gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.register(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        )?)
    }

    fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, &["provider"])?)
    }
}
