//! Deliveries as data: what makes one a change of a kind, and where its fields stand.
//!
//! Most providers send one JSON object for each event. Their files say only where what stands; it is
//! read here, and written here for `send`.

use serde_json::{Map, Value as Json, json};

use super::{
    Delivery, Example, InvalidChange, Message, ParseError, Parsed, Provider, Sample, SampleKind,
    health::{AccountEventFields, Common, TemplateFields},
    json::{Fields, Scalar, read_fields},
    quality::{CapabilityFields, QualityFields},
};
use crate::domain::{AccountEvent, Change, PhoneNumber, ProviderName};

/// Where a field may stand: names of objects within one another, joined by dots, with `[]` after that
/// of a list. Of several, the first that holds something counts, and `send` writes the first.
pub(super) type Path = &'static [&'static str];

/// What stands after the name of a list.
const LIST: &str = "[]";

/// A kind of change, as a provider sends it.
pub(super) struct Shape {
    /// What makes a delivery one of this kind: each of these fields has one of its values.
    when: &'static [Condition],
    kind: Kind,
    at: Paths,
}

/// A field, and the values of it that make a delivery one of a kind.
pub(super) type Condition = (Path, &'static [&'static str]);

impl Shape {
    pub(super) const fn new(when: &'static [Condition], kind: Kind, at: Paths) -> Self {
        Self { when, kind, at }
    }
}

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event of a phone number.
    Quality,
    /// The same; without an event it is an observation.
    QualityOrObservation,
    /// An event of a phone number; without a number it is one of its account.
    QualityOrAccount,
    /// What an account may do.
    Capability,
    /// An event of an account.
    Account,
    /// What became of a template.
    TemplateStatus,
    /// The quality of a template.
    TemplateQuality,
}

/// Where the fields of a change stand; a provider leaves out those that it does not send.
#[derive(Clone, Copy)]
pub(super) struct Paths {
    pub(super) waba_id: Path,
    pub(super) delivery_id: Path,
    pub(super) time: Path,
    pub(super) phone_number: Path,
    /// The event of a phone number.
    pub(super) event: Path,
    /// The event of an account.
    pub(super) account_event: Path,
    /// The event of a template.
    pub(super) template_event: Path,
    /// The event of an account, where the kind of delivery itself says it.
    pub(super) implied_event: &'static str,
    pub(super) portfolio_limit: Path,
    pub(super) current_limit: Path,
    pub(super) old_limit: Path,
    pub(super) per_phone_limit: Path,
    pub(super) max_per_business: Path,
    pub(super) max_per_waba: Path,
    pub(super) rating: Path,
    /// The restrictions, or the one.
    pub(super) restrictions: Path,
    /// Within each of them, its type and its end.
    pub(super) restriction: [&'static str; 2],
    pub(super) ban_state: Path,
    pub(super) violation: Path,
    pub(super) template_id: Path,
    pub(super) template_name: Path,
    pub(super) template_language: Path,
    pub(super) quality: Path,
}

impl Paths {
    /// No field stands anywhere.
    pub(super) const NONE: Self = Self {
        waba_id: &[],
        delivery_id: &[],
        time: &[],
        phone_number: &[],
        event: &[],
        account_event: &[],
        template_event: &[],
        implied_event: "",
        portfolio_limit: &[],
        current_limit: &[],
        old_limit: &[],
        per_phone_limit: &[],
        max_per_business: &[],
        max_per_waba: &[],
        rating: &[],
        restrictions: &[],
        restriction: ["", ""],
        ban_state: &[],
        violation: &[],
        template_id: &[],
        template_name: &[],
        template_language: &[],
        quality: &[],
    };

    /// The same where the kind of delivery says the event of an account.
    pub(super) const fn implying(self, event: &'static str) -> Self {
        Self {
            implied_event: event,
            ..self
        }
    }
}

/// The account of samples that a test button sends.
pub(super) const TEST_ACCOUNT: &str = "0";

/// Reads a delivery of a provider with shapes.
pub(super) fn read(provider: &Provider, delivery: &Delivery<'_>) -> Result<Parsed, ParseError> {
    let mut document = Document::new(read_fields(delivery.body)?);
    let mut parsed = Parsed::default();
    for shape in provider.shapes {
        if !shape.is_of(&mut document) {
            continue;
        }
        match shape.change(provider.name, &mut document) {
            Ok(Some(change)) => parsed.changes.push(change),
            Ok(None) => parsed.test += 1,
            Err(reason) => parsed.invalid(reason),
        }
    }
    Ok(parsed.or_nothing())
}

/// A delivery, with those of its objects that were looked into.
struct Document<'a>(Vec<(&'static str, Fields<'a>)>);

impl<'a> Document<'a> {
    fn new(fields: Fields<'a>) -> Self {
        Self(vec![("", fields)])
    }

    /// The object at a path; without any fields where it is not there.
    fn object(&mut self, path: &'static str) -> Result<&Fields<'a>, InvalidChange> {
        let mut known = self.0.iter();
        let index = match known.position(|(known, _)| *known == path) {
            Some(index) => index,
            None => {
                let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
                let fields = self.object(parent)?.object(name)?;
                self.0.push((path, fields));
                self.0.len() - 1
            }
        };
        let found = self.0.get(index).map(|(_, fields)| fields);
        found.ok_or(InvalidChange::Shape)
    }

    fn scalar(&mut self, paths: Path) -> Result<Scalar<'a>, InvalidChange> {
        let mut last = Scalar::Absent;
        for path in paths {
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
            last = self.object(parent)?.scalar(name);
            if !last.is_empty() {
                break;
            }
        }
        Ok(last)
    }

    fn objects(&mut self, path: &'static str) -> Result<Option<Vec<Fields<'a>>>, InvalidChange> {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        self.object(parent)?.objects(name)
    }
}

impl Shape {
    fn is_of(&self, document: &mut Document<'_>) -> bool {
        self.when.iter().all(|(path, values)| {
            let found = document.scalar(path);
            // Kinds of delivery are named exactly; in the names of events, case does not matter.
            let is = |value: &str, found: &str| match *path == self.at.account_event {
                true => value.eq_ignore_ascii_case(found),
                false => value == found,
            };
            found.is_ok_and(|found| values.iter().any(|value| is(value, found.as_str())))
        })
    }

    /// The change; `None` where it is of a test button.
    fn change(
        &self,
        provider: ProviderName,
        document: &mut Document<'_>,
    ) -> Result<Option<Change>, InvalidChange> {
        let at = &self.at;
        match self.kind {
            Kind::Quality | Kind::QualityOrObservation => self.quality(provider, document),
            Kind::QualityOrAccount => match document.scalar(at.phone_number)?.is_empty() {
                true => self.capability(provider, document),
                false => self.quality(provider, document),
            },
            Kind::Capability => self.capability(provider, document),
            Kind::Account | Kind::TemplateStatus | Kind::TemplateQuality => {
                let common = Common {
                    waba_id: document.scalar(at.waba_id)?,
                    delivery_id: document.scalar(at.delivery_id)?,
                    time: document.scalar(at.time)?,
                };
                if common.waba_id.as_str() == TEST_ACCOUNT {
                    return Ok(None);
                }
                self.health(provider, &common, document)
            }
        }
        .map(Some)
    }

    fn quality(
        &self,
        provider: ProviderName,
        document: &mut Document<'_>,
    ) -> Result<Change, InvalidChange> {
        let at = &self.at;
        let fields = QualityFields {
            waba_id: document.scalar(at.waba_id)?,
            delivery_id: document.scalar(at.delivery_id)?,
            time: document.scalar(at.time)?,
            phone_number: document.scalar(at.phone_number)?,
            event: document.scalar(at.event)?,
            portfolio_limit: document.scalar(at.portfolio_limit)?,
            current_limit: document.scalar(at.current_limit)?,
            old_limit: document.scalar(at.old_limit)?,
            rating: document.scalar(at.rating)?,
            may_lack_event: self.kind == Kind::QualityOrObservation,
        };
        fields.change(provider)
    }

    fn capability(
        &self,
        provider: ProviderName,
        document: &mut Document<'_>,
    ) -> Result<Change, InvalidChange> {
        let at = &self.at;
        let fields = CapabilityFields {
            waba_id: document.scalar(at.waba_id)?,
            delivery_id: document.scalar(at.delivery_id)?,
            time: document.scalar(at.time)?,
            event: match at.event {
                [] => None,
                event => Some(document.scalar(event)?),
            },
            portfolio_limit: document.scalar(at.portfolio_limit)?,
            current_limit: document.scalar(at.current_limit)?,
            old_limit: document.scalar(at.old_limit)?,
            per_phone_limit: document.scalar(at.per_phone_limit)?,
            max_per_business: document.scalar(at.max_per_business)?,
            max_per_waba: document.scalar(at.max_per_waba)?,
        };
        fields.change(provider)
    }

    fn health<'a>(
        &self,
        provider: ProviderName,
        common: &Common<'a>,
        document: &mut Document<'a>,
    ) -> Result<Change, InvalidChange> {
        let at = &self.at;
        if self.kind == Kind::Account {
            let event = match at.implied_event {
                "" => document.scalar(at.account_event)?,
                event => Scalar::Text(event.into()),
            };
            let objects = match at.restrictions {
                [] => None,
                [path, ..] => document.objects(path.trim_end_matches(LIST))?,
            };
            let fields = AccountEventFields {
                event,
                is_event_implied: !at.implied_event.is_empty(),
                restrictions: AccountEventFields::restrictions(objects, at.restriction),
                ban_state: document.scalar(at.ban_state)?,
                violation: document.scalar(at.violation)?,
            };
            return fields.change(provider, common);
        }
        let template = TemplateFields {
            id: document.scalar(at.template_id)?,
            name: document.scalar(at.template_name)?,
            language: document.scalar(at.template_language)?,
        };
        match self.kind {
            Kind::TemplateStatus => {
                template.status(provider, common, &document.scalar(at.template_event)?)
            }
            _ => template.quality(provider, common, &document.scalar(at.quality)?),
        }
    }

    /// What a delivery of this shape holds where this happened, and where; `None` where it cannot
    /// say that.
    fn says(&self, kind: SampleKind) -> Option<Vec<(Path, Json)>> {
        use SampleKind::{
            Account, BanState, Capability, Quality, Rating, Restriction, Template, TemplateQuality,
        };
        let at = &self.at;
        let event = kind.account_event().map_or("", AccountEvent::as_str);
        let account = (at.account_event, json!(event));
        let template = (at.template_id, json!(Sample::TEMPLATE));
        let [name, _] = at.restriction;
        let held = match (self.kind, kind) {
            (
                Kind::Quality | Kind::QualityOrObservation | Kind::QualityOrAccount,
                Quality(event),
            ) => vec![(at.event, json!(event))],
            (Kind::QualityOrObservation, Rating(rating)) => vec![(at.rating, json!(rating))],
            (Kind::Capability, Capability) => vec![],
            (Kind::Account, Account(_)) if at.implied_event == event => vec![],
            (Kind::Account, _) if !at.implied_event.is_empty() => return None,
            (Kind::Account, Account(_)) => vec![account],
            (Kind::Account, Restriction(restriction)) => {
                vec![account, (at.restrictions, json!({name: restriction}))]
            }
            (Kind::Account, BanState(state)) => vec![account, (at.ban_state, json!(state))],
            (Kind::TemplateStatus, Template(event)) => {
                vec![template, (at.template_event, json!(event))]
            }
            (Kind::TemplateQuality, TemplateQuality(quality)) => {
                vec![template, (at.quality, json!(quality))]
            }
            _ => return None,
        };
        let has_places = held.iter().all(|(path, _)| !path.is_empty());
        has_places.then_some(held)
    }
}

/// Writes a delivery of a provider with shapes.
pub(super) fn write(provider: &Provider, sample: &Sample) -> Option<Message> {
    // Of two shapes that can say it, the later is the one that says little else.
    let mut shapes = provider.shapes.iter().rev();
    let (shape, held) = shapes.find_map(|shape| Some((shape, shape.says(sample.kind)?)))?;
    let at = &shape.at;
    let mut document = Json::Object(Map::new());
    for (path, values) in shape.when {
        put(&mut document, path, values.first().copied());
    }
    put(&mut document, at.waba_id, Some(sample.waba_id.as_str()));
    put(&mut document, at.delivery_id, Some(sample.id()));
    let time = match time_of_example(provider, at.time) {
        Scalar::Number(_) => json!(sample.at.as_unix_milliseconds()),
        _ => json!(sample.at.to_iso()),
    };
    put(&mut document, at.time, Some(time));
    let number = sample.phone_number.as_ref().map(PhoneNumber::as_str);
    put(&mut document, at.phone_number, number);
    for (path, value) in held {
        put(&mut document, path, Some(value));
    }
    let tier = |limit: Option<_>| limit.map(Sample::tier);
    // A phone number's limit, or what the provider sends of an account's.
    let limits = [at.current_limit, at.portfolio_limit, at.per_phone_limit];
    let limit = limits.into_iter().find(|path| !path.is_empty());
    put(&mut document, limit.unwrap_or_default(), tier(sample.limit));
    put(&mut document, at.old_limit, tier(sample.old_limit));
    Some(Message::Json(document))
}

/// The time in the provider's example, which shows how it writes one.
fn time_of_example(provider: &Provider, paths: Path) -> Scalar<'static> {
    let Example::Json(example) = provider.example else {
        return Scalar::Absent;
    };
    let fields = read_fields(example.as_bytes()).unwrap_or_default();
    Document::new(fields).scalar(paths).unwrap_or_default()
}

/// Puts a value, where there is one, at the first of the paths, where there is one.
fn put(document: &mut Json, paths: Path, value: Option<impl Into<Json>>) {
    let (Some(path), Some(value)) = (paths.first(), value) else {
        return;
    };
    let mut place = document;
    for name in path.trim_end_matches(LIST).split('.') {
        if !place.is_object() {
            *place = Json::Object(Map::new());
        }
        let Some(object) = place.as_object_mut() else {
            return;
        };
        place = object.entry(name).or_insert(Json::Null);
    }
    *place = match path.ends_with(LIST) {
        true => json!([value.into()]),
        false => value.into(),
    };
}

#[cfg(test)]
mod tests {
    use super::super::by_name;
    use super::*;
    use crate::domain::{BanState, MessagingLimit, Restriction, Timestamp, WabaId};

    fn written(provider: &str, kind: SampleKind) -> Json {
        let sample = Sample {
            waba_id: WabaId::parse("1").unwrap(),
            phone_number: None,
            kind,
            old_limit: None,
            limit: MessagingLimit::parse("1K"),
            at: Timestamp::from_unix_seconds(1_748_454_394).unwrap(),
        };
        match by_name(provider).unwrap().write(&sample) {
            Some(Message::Json(json)) => json,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn time_is_written_as_in_the_example() {
        let json = written("gupshup", SampleKind::Capability);
        assert_eq!(json["timestamp"], json!(1_748_454_394_000_u64));
        let json = written("8x8", SampleKind::BanState(BanState::Disable));
        assert_eq!(json["timestamp"], json!("2025-05-28T17:46:34.000Z"));
    }

    #[test]
    fn restriction_is_written_in_a_list_or_alone() {
        let kind = SampleKind::Restriction(Restriction::AddPhoneNumber);
        let name = "RESTRICTED_ADD_PHONE_NUMBER_ACTION";
        let json = written("8x8", kind);
        let listed = json!([{"restrictionType": name}]);
        assert_eq!(json["eventDetails"]["restrictionInfo"], listed);
        let json = written("nxcloud", kind);
        assert_eq!(json["restrictions"], json!({"restriction_type": name}));
    }
}
