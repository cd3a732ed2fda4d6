//! What is wrong with an account, and what was reported of it and its templates.

use super::Moment;
use crate::{
    domain::{BanState, Restriction, RestrictionEnd, TemplateQuality, Timestamp, Vocabulary},
    state::{Account, Tally},
};

/// What is wrong with an account, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AccountState {
    Disabled,
    ToBeDisabled,
    Restricted,
}

/// What was reported of an account and its templates.
#[derive(Default)]
pub(super) struct Health {
    pub(super) restrictions: Vec<RestrictionRow>,
    pub(super) counts: Vec<CountRow>,
    /// Templates of medium and of low quality; `None` where nothing was reported.
    pub(super) low_templates: Option<[u64; 2]>,
}

/// A restriction that has not ended.
pub(super) struct RestrictionRow {
    pub(super) name: &'static str,
    pub(super) until: String,
}

/// How often something was reported.
pub(super) struct CountRow {
    /// The field of the webhook.
    pub(super) field: &'static str,
    pub(super) name: &'static str,
    pub(super) count: u64,
    pub(super) last: Option<Moment>,
}

impl AccountState {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::ToBeDisabled => "to be disabled",
            Self::Restricted => "restricted",
        }
    }

    /// All that is true of an account, worst first.
    pub(super) fn all(account: Option<&Account>, now: Timestamp) -> Vec<Self> {
        let Some(events) = account.and_then(|account| account.events.as_ref()) else {
            return Vec::new();
        };
        let ban = match events.ban_state.map(|known| known.value) {
            Some(BanState::Disable) => Some(Self::Disabled),
            Some(BanState::ScheduleForDisable) => Some(Self::ToBeDisabled),
            Some(BanState::Reinstate) | None => None,
        };
        let mut ends = Restriction::ALL
            .into_iter()
            .filter_map(|of| events.end_of(of));
        let is_restricted = ends.any(|end| !has_ended(end, now));
        let restricted = is_restricted.then_some(Self::Restricted);
        ban.into_iter().chain(restricted).collect()
    }
}

impl Health {
    pub(super) fn of(account: &Account, now: Timestamp) -> Self {
        let mut health = Self::default();
        if let Some(events) = &account.events {
            for restriction in Restriction::ALL {
                let end = events.end_of(restriction);
                health
                    .restrictions
                    .extend(
                        end.filter(|end| !has_ended(*end, now))
                            .map(|end| RestrictionRow {
                                name: restriction.as_str(),
                                until: match end {
                                    RestrictionEnd::At(end) => Moment::new(end, now).exact,
                                    RestrictionEnd::Never => "nothing says when it ends".into(),
                                },
                            }),
                    );
            }
            health.count("account_update", events.counts.iter(), now);
        }
        if let Some(alerts) = &account.alerts {
            health.count("account_alerts", alerts.iter(), now);
        }
        if let Some(events) = &account.template_events {
            health.count("message_template_status_update", events.iter(), now);
        }
        if let Some(qualities) = &account.template_qualities {
            let tally = |total| Tally { total, last: None };
            let counts = qualities.counts.iter();
            let counts = counts.map(|(quality, count)| (quality, tally(count)));
            health.count("message_template_quality_update", counts, now);
            let low = [TemplateQuality::Yellow, TemplateQuality::Red];
            health.low_templates = Some(low.map(|quality| qualities.templates_of(quality)));
        }
        health
    }

    fn count<V: Vocabulary>(
        &mut self,
        field: &'static str,
        tallies: impl Iterator<Item = (V, Tally)>,
        now: Timestamp,
    ) {
        let counted = tallies.filter(|(_, tally)| tally.total > 0);
        self.counts.extend(counted.map(|(value, tally)| CountRow {
            field,
            name: value.name(),
            count: tally.total,
            last: tally.last.map(|at| Moment::new(at, now)),
        }));
    }
}

fn has_ended(end: RestrictionEnd, now: Timestamp) -> bool {
    matches!(end, RestrictionEnd::At(end) if end <= now)
}
