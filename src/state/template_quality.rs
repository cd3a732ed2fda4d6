//! The quality of an account's templates: how many reports there were, and how many templates are
//! of medium or low quality.
//!
//! Templates that are or were of such a quality are remembered, with the time, so that a late report
//! does not undo a recovery.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::{
    Account, Dated, Draft, Family, MetricKind, Outcome, Value, base64,
    fold::{Freshness, Received},
    tally::ByValue,
};
use crate::domain::{TemplateId, TemplateQuality, Timestamp};

/// What is known of the quality of an account's templates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TemplateQualities {
    /// Accepted reports by the new quality.
    #[serde(default)]
    pub counts: ByValue<TemplateQuality, u64, { TemplateQuality::ALL.len() }>,
    /// Templates that are or were of medium or low quality.
    #[serde(default)]
    templates: Templates,
}

/// Templates, in no order.
#[derive(Clone, Debug, Default, PartialEq)]
struct Templates(Vec<Template>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Template {
    id: [u8; 8],
    quality: Dated<TemplateQuality>,
    /// Whether it must not be sent, where anything was said of it.
    stopped: Option<Dated<bool>>,
}

/// What became of a report of a template's quality.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reported {
    /// It says nothing that is remembered.
    NotRemembered,
    /// It is remembered.
    New,
    /// A newer one is known.
    Stale,
    /// The template would be one more than are remembered.
    LeftOut,
}

impl Template {
    /// Whether it counts as one of this quality.
    fn counts_as(&self, quality: TemplateQuality) -> bool {
        self.quality.value == quality && !self.stopped.is_some_and(|known| known.value)
    }

    fn is_low(&self) -> bool {
        LOW.into_iter().any(|quality| self.counts_as(quality))
    }

    fn newest(&self) -> Timestamp {
        let stopped = self.stopped.map(|known| known.at);
        self.quality
            .at
            .max(stopped.unwrap_or(Timestamp::BEFORE_ALL))
    }
}

/// The qualities of which templates are counted.
const LOW: [TemplateQuality; 2] = [TemplateQuality::Yellow, TemplateQuality::Red];

impl TemplateQualities {
    /// Templates that are remembered of an account.
    pub const MAX_TEMPLATES: usize = 1000;

    /// How many templates are of this quality and not stopped.
    pub fn templates_of(&self, quality: TemplateQuality) -> u64 {
        let templates = self.templates.0.iter();
        templates
            .filter(|template| template.counts_as(quality))
            .count() as u64
    }

    /// The newest time that is known of a template.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.templates.0.iter().map(Template::newest).max()
    }

    /// Notes that a template is stopped, or may be sent again. Whether that is news; `None` where
    /// the template is not remembered.
    pub(super) fn stop(
        &mut self,
        template: Option<TemplateId>,
        stopped: bool,
        at: Timestamp,
    ) -> Option<bool> {
        let template = self.find(template?)?;
        Some(Dated::set(&mut template.stopped, stopped, at))
    }

    fn find(&mut self, id: TemplateId) -> Option<&mut Template> {
        let mut templates = self.templates.0.iter_mut();
        templates.find(|template| template.id == id.as_hash())
    }

    fn report(
        &mut self,
        template: Option<TemplateId>,
        quality: TemplateQuality,
        at: Timestamp,
    ) -> Reported {
        let Some(id) = template else {
            return Reported::NotRemembered;
        };
        if let Some(known) = self.find(id) {
            if known.quality.at > at {
                return Reported::Stale;
            }
            known.quality = Dated { value: quality, at };
            return Reported::New;
        }
        if !LOW.contains(&quality) {
            return Reported::NotRemembered;
        }
        if !self.has_room() {
            return Reported::LeftOut;
        }
        self.templates.0.push(Template {
            id: id.as_hash(),
            quality: Dated { value: quality, at },
            stopped: None,
        });
        Reported::New
    }

    /// Makes room for a further template: of those that recovered or are stopped, the one of which
    /// nothing was said for the longest time is forgotten.
    fn has_room(&mut self) -> bool {
        let templates = &mut self.templates.0;
        if templates.len() < Self::MAX_TEMPLATES {
            return true;
        }
        let forgettable = templates.iter().enumerate();
        let forgettable = forgettable.filter(|(_, template)| !template.is_low());
        match forgettable.min_by_key(|(_, template)| template.newest()) {
            Some((index, _)) => {
                templates.swap_remove(index);
                true
            }
            None => false,
        }
    }
}

impl Draft<'_> {
    /// Folds a report of a template's quality into its account.
    pub(super) fn apply_template_quality(
        &mut self,
        template: Option<TemplateId>,
        quality: TemplateQuality,
        received: &Received<'_>,
    ) -> Outcome {
        self.apply_to_account(received, |account, happened_at| {
            let qualities = account.template_qualities.get_or_insert_default();
            qualities.counts.count(quality);
            let mut freshness = Freshness::default();
            match qualities.report(template, quality, happened_at) {
                Reported::NotRemembered => {}
                Reported::New => freshness.note(true),
                Reported::Stale => freshness.note(false),
                Reported::LeftOut => freshness.is_template_left_out = true,
            }
            freshness
        })
    }
}

impl Serialize for Templates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = postcard::to_allocvec(&self.0).map_err(ser::Error::custom)?;
        base64::serialize(&bytes, serializer)
    }
}

impl<'de> Deserialize<'de> for Templates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = base64::deserialize(deserializer)?;
        match postcard::take_from_bytes(&bytes) {
            Ok((templates, [])) => Ok(Self(templates)),
            _ => Err(de::Error::custom("not a list of templates")),
        }
    }
}

pub(super) const COUNTS: Family<Account> = Family {
    name: "whatsapp_business_account_template_quality_events_total",
    kind: MetricKind::Counter,
    help: "Accepted reports of a template's quality, by the new quality.",
    label: Some("quality"),
    samples: |account, sample| {
        if let Some(qualities) = &account.template_qualities {
            qualities.counts.total_samples(sample);
        }
    },
};

pub(super) const TEMPLATES: Family<Account> = Family {
    name: "whatsapp_business_account_templates",
    kind: MetricKind::Gauge,
    help: "Templates of medium (YELLOW) or low (RED) quality that are not stopped.",
    label: Some("quality"),
    samples: |account, sample| {
        if let Some(qualities) = &account.template_qualities {
            for quality in LOW {
                sample(
                    quality.as_str(),
                    Value::Count(qualities.templates_of(quality)),
                );
            }
        }
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds).unwrap()
    }

    fn id(number: u64) -> Option<TemplateId> {
        Some(TemplateId::from_hash(number.to_be_bytes()))
    }

    #[test]
    fn recovered_and_stopped_templates_make_room_the_oldest_first() {
        use TemplateQuality::{Green, Red, Yellow};
        let mut qualities = TemplateQualities::default();
        for number in 0..1000 {
            assert_eq!(qualities.report(id(number), Red, at(100)), Reported::New);
        }
        assert_eq!(qualities.report(id(1000), Red, at(100)), Reported::LeftOut);
        assert_eq!(
            qualities.report(id(2000), Green, at(100)),
            Reported::NotRemembered
        );
        assert_eq!(qualities.templates_of(Red), 1000);

        assert_eq!(qualities.report(id(1), Green, at(300)), Reported::New);
        assert_eq!(qualities.stop(id(2), true, at(200)), Some(true));
        assert_eq!(qualities.report(id(1000), Yellow, at(100)), Reported::New);
        assert_eq!(
            qualities.stop(id(2), false, at(400)),
            None,
            "it is forgotten"
        );
        assert_eq!(qualities.report(id(1), Red, at(299)), Reported::Stale);
        assert_eq!(qualities.report(id(1001), Yellow, at(100)), Reported::New);
        assert_eq!(qualities.report(id(1), Red, at(299)), Reported::LeftOut);
        assert_eq!(qualities.templates_of(Red), 998);
        assert_eq!(qualities.templates_of(Yellow), 2);
    }

    #[test]
    fn templates_are_read_again_as_they_were() {
        let mut qualities = TemplateQualities::default();
        qualities.report(id(1), TemplateQuality::Red, at(100));
        qualities.report(id(2), TemplateQuality::Yellow, at(200));
        qualities.stop(id(2), true, at(300));
        let document = serde_json::to_string(&qualities).unwrap();
        let read: TemplateQualities = serde_json::from_str(&document).unwrap();
        assert_eq!(read, qualities);

        let stored = r#"{"templates":"AQAAAAAAAAABAoDAypqFkwUAAAE="}"#;
        serde_json::from_str::<TemplateQualities>(stored).unwrap_err();
    }
}
