//! Account events: how many there were, what is restricted until when, and whether the account is
//! disabled.
//!
//! Restrictions are reported one at a time, in any order. A later report of one takes the place of
//! an earlier one; a report that lists none lifts all that were reported before it. For example:
//!
//! | happened at | report | then restricted |
//! |---|---|---|
//! | 10 | to open conversations until 90 | to open conversations until 90 |
//! | 30 | to add phone numbers | both |
//! | 20 (arrives late) | an empty list | to add phone numbers |

use serde::{Deserialize, Serialize};

use super::{
    Account, Dated, Draft, Family, MetricKind, Outcome, SampleWriter, Tally, Value,
    fold::{Freshness, Received},
    tally::ByValue,
};
use crate::domain::{
    AccountEvent, BanState, EventName, MessagingLimit, Restriction, RestrictionEnd, Timestamp,
};

/// What is known of an account by its events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountEvents {
    /// Accepted events by kind.
    #[serde(default)]
    pub counts: ByValue<AccountEvent, Tally, { AccountEvent::ALL.len() }>,
    /// Whether the account is disabled, where anything was said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ban_state: Option<Dated<BanState>>,
    /// What was reported as restricted and not lifted since. Of a known kind there is one at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    restrictions: Vec<Restricted>,
    /// When all restrictions were last lifted, by the provider's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifted_at: Option<Timestamp>,
}

/// A restriction as it was reported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Restricted {
    restriction: Restriction,
    end: RestrictionEnd,
    /// When it was imposed, by the provider's time.
    at: Timestamp,
}

impl AccountEvents {
    /// Reports of unknown restrictions that are kept apart. Beyond, the two oldest are one, with the
    /// later end.
    const MAX_UNKNOWN: usize = 16;

    /// When a restriction ends, where it was reported and not lifted since. Of unknown restrictions,
    /// which share one place, the latest end counts.
    pub fn end_of(&self, restriction: Restriction) -> Option<RestrictionEnd> {
        let all = self.restrictions.iter();
        let ends = all.filter(|known| known.restriction == restriction);
        ends.map(|known| known.end).max()
    }

    /// The newest time that is known by the events.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        let restricted = self.restrictions.iter().map(|known| known.at);
        let ban_state = self.ban_state.map(|known| known.at);
        restricted.chain(self.lifted_at).chain(ban_state).max()
    }

    /// Takes a report of a restriction. False where it is stale.
    fn restrict(&mut self, new: Restricted) -> bool {
        let is_unknown = new.restriction == Restriction::Unknown;
        let same = |known: &&Restricted| known.restriction == new.restriction;
        let is_overtaken =
            |known: &Restricted| known.at > new.at && (!is_unknown || known.end >= new.end);
        if self.lifted_at.is_some_and(|lifted_at| new.at < lifted_at)
            || self.restrictions.iter().filter(same).any(is_overtaken)
        {
            return false;
        }
        // An unknown restriction that ends later than this one stands beside it: it may be another.
        self.restrictions.retain(|known| {
            !same(&known) || is_unknown && (known.at > new.at || known.end > new.end)
        });
        self.restrictions.push(new);
        self.join_oldest_unknown();
        true
    }

    fn join_oldest_unknown(&mut self) {
        self.restrictions
            .sort_by_key(|known| (known.restriction, known.at));
        let is_unknown = |known: &Restricted| known.restriction == Restriction::Unknown;
        let first = self.restrictions.iter().position(is_unknown);
        if let Some(first) = first
            && let Some([oldest, next, ..]) = self.restrictions.get_mut(first..)
        {
            let (end, at) = (oldest.end.max(next.end), next.at);
            if self.restrictions.len() - first > Self::MAX_UNKNOWN {
                self.restrictions.remove(first);
                if let Some(joined) = self.restrictions.get_mut(first) {
                    (joined.end, joined.at) = (end, at);
                }
            }
        }
    }

    /// Takes a report that nothing is restricted. False where it is stale.
    fn lift(&mut self, at: Timestamp) -> bool {
        if self.lifted_at.is_some_and(|lifted_at| at < lifted_at) {
            return false;
        }
        self.lifted_at = Some(at);
        self.restrictions.retain(|known| known.at > at);
        true
    }

    fn apply(&mut self, event: &Reported<'_>, at: Timestamp) -> Freshness {
        let mut freshness = Freshness::default();
        if let Some(ban_state) = event.ban_state {
            freshness.note(Dated::set(&mut self.ban_state, ban_state, at));
        }
        match event.restrictions {
            Some([]) => freshness.note(self.lift(at)),
            _ if event.ban_state == Some(BanState::Reinstate) => freshness.note(self.lift(at)),
            _ => {}
        }
        for (restriction, end) in event.restrictions.unwrap_or_default() {
            freshness.note(self.restrict(Restricted {
                restriction: *restriction,
                end: *end,
                at,
            }));
        }
        freshness
    }
}

/// An account event, as a webhook reports it.
pub(super) struct Reported<'a> {
    pub(super) event: AccountEvent,
    pub(super) restrictions: Option<&'a [(Restriction, RestrictionEnd)]>,
    pub(super) ban_state: Option<BanState>,
}

impl Draft<'_> {
    /// Folds an account event into its account.
    pub(super) fn apply_account_event(
        &mut self,
        reported: &Reported<'_>,
        received: &Received<'_>,
    ) -> Outcome {
        self.apply_to_account(received, |account, happened_at| {
            let event = reported.event;
            account.note(EventName::Account(event), happened_at, received.accepted_at);
            let events = account.events.get_or_insert_default();
            events.counts.count_at(event, received.accepted_at);
            events.apply(reported, happened_at)
        })
    }
}

pub(super) const COUNTS: Family<Account> = Family {
    name: "whatsapp_business_account_events_total",
    kind: MetricKind::Counter,
    help: "Accepted account events by kind; OTHER are those that say nothing of what the account may send.",
    label: Some("event"),
    samples: |account, sample| {
        if let Some(events) = &account.events {
            events.counts.total_samples(sample);
        }
    },
};

pub(super) const LAST: Family<Account> = Family {
    name: "whatsapp_business_account_event_timestamp_seconds",
    kind: MetricKind::Gauge,
    help: "When this exporter accepted the last account event of that kind; absent until then.",
    label: Some("event"),
    samples: |account, sample| {
        if let Some(events) = &account.events {
            events.counts.last_samples(sample);
        }
    },
};

pub(super) const RESTRICTION_END: Family<Account> = Family {
    name: "whatsapp_business_account_restriction_end_timestamp_seconds",
    kind: MetricKind::Gauge,
    help: "When the restriction ends: +Inf where nothing says when, absent where there is none.",
    label: Some("restriction"),
    samples: |account, sample| {
        let Some(events) = &account.events else {
            return;
        };
        for restriction in Restriction::ALL {
            match events.end_of(restriction) {
                Some(RestrictionEnd::At(end)) => sample(restriction.as_str(), Value::Time(end)),
                Some(RestrictionEnd::Never) => {
                    sample(
                        restriction.as_str(),
                        Value::Limit(MessagingLimit::UNLIMITED),
                    );
                }
                None => {}
            }
        }
    },
};

pub(super) const DISABLED: Family<Account> = Family {
    name: "whatsapp_business_account_disabled",
    kind: MetricKind::Gauge,
    help: "1 while the account is disabled, 0 otherwise; absent until anything was said of it.",
    label: None,
    samples: |account, sample| ban_samples(account, BanState::Disable, sample),
};

pub(super) const DISABLE_SCHEDULED: Family<Account> = Family {
    name: "whatsapp_business_account_disable_scheduled",
    kind: MetricKind::Gauge,
    help: "1 while the account is about to be disabled, 0 otherwise; absent until anything was said of it.",
    label: None,
    samples: |account, sample| ban_samples(account, BanState::ScheduleForDisable, sample),
};

fn ban_samples(account: &Account, of: BanState, sample: &mut SampleWriter<'_>) {
    let ban_state = account.events.as_ref().and_then(|events| events.ban_state);
    if let Some(known) = ban_state {
        sample("", Value::Count((known.value == of).into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds).unwrap()
    }

    #[test]
    fn unknown_restrictions_end_with_the_latest_whatever_their_order() {
        let reports = [(10, 70), (20, 90), (30, 50), (40, 60)];
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]];
        for order in orders {
            let mut events = AccountEvents::default();
            for index in order {
                let (said_at, end): (i64, i64) = reports[index];
                events.restrict(Restricted {
                    restriction: Restriction::Unknown,
                    end: RestrictionEnd::At(at(end)),
                    at: at(said_at),
                });
            }
            let end = |events: &AccountEvents| events.end_of(Restriction::Unknown);
            assert_eq!(end(&events), Some(RestrictionEnd::At(at(90))), "{order:?}");
            assert!(events.lift(at(25)), "{order:?}");
            assert_eq!(end(&events), Some(RestrictionEnd::At(at(60))), "{order:?}");
        }
    }

    #[test]
    fn many_unknown_restrictions_take_a_bounded_place_and_none_ends_early() {
        let mut events = AccountEvents::default();
        for step in 1..=100 {
            events.restrict(Restricted {
                restriction: Restriction::Unknown,
                end: RestrictionEnd::At(at(1000 - step)),
                at: at(step),
            });
        }
        assert_eq!(events.restrictions.len(), AccountEvents::MAX_UNKNOWN);
        let end = events.end_of(Restriction::Unknown);
        assert_eq!(end, Some(RestrictionEnd::At(at(999))));
    }

    #[test]
    fn of_a_lift_and_a_restriction_of_equal_time_the_later_to_arrive_counts() {
        let restricted = [(Restriction::AddPhoneNumber, RestrictionEnd::Never)];
        let report = |restrictions, ban_state| Reported {
            event: AccountEvent::Restriction,
            restrictions,
            ban_state,
        };
        let restrict = report(Some(&restricted[..]), None);
        let restrict_in_a_lift = report(Some(&restricted[..]), Some(BanState::Reinstate));
        for lift in [
            report(Some(&[][..]), None),
            report(None, Some(BanState::Reinstate)),
        ] {
            let mut events = AccountEvents::default();
            for (reported, end) in [
                (&restrict, Some(RestrictionEnd::Never)),
                (&lift, None),
                (&restrict, Some(RestrictionEnd::Never)),
                (&lift, None),
                (&restrict_in_a_lift, Some(RestrictionEnd::Never)),
            ] {
                let freshness = events.apply(reported, at(10));
                assert!(matches!(
                    freshness.outcome((None, None)),
                    Outcome::Applied(_)
                ));
                assert_eq!(events.end_of(Restriction::AddPhoneNumber), end);
            }
        }
    }

    #[test]
    fn restriction_without_an_end_is_read_again() {
        let mut events = AccountEvents::default();
        for end in [RestrictionEnd::Never, RestrictionEnd::At(at(90))] {
            events.restrict(Restricted {
                restriction: Restriction::AddPhoneNumber,
                end,
                at: at(10),
            });
            let document = serde_json::to_string(&events).unwrap();
            let read: AccountEvents = serde_json::from_str(&document).unwrap();
            assert_eq!(read.end_of(Restriction::AddPhoneNumber), Some(end));
        }
    }
}
