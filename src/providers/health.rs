//! From the fields of a webhook to a change of an account or of its templates, under whatever names
//! the provider has for them.

use super::{
    InvalidChange,
    json::{Fields, Scalar},
    quality::identity,
};
use crate::domain::{
    AccountEvent, AccountKey, AlertSeverity, BanState, Change, ChangeKind, InvalidKey,
    ProviderName, Restriction, RestrictionEnd, TemplateEvent, TemplateId, TemplateQuality,
    UnknownField, UnknownValue, WabaId,
};

/// What every delivery has.
#[derive(Default)]
pub(super) struct Common<'a> {
    pub(super) waba_id: Scalar<'a>,
    pub(super) delivery_id: Scalar<'a>,
    pub(super) time: Scalar<'a>,
}

/// The fields of an account event.
#[derive(Default)]
pub(super) struct AccountEventFields<'a> {
    pub(super) event: Scalar<'a>,
    /// Whether the kind of delivery says the event. Of Meta's events, only one has a ban state.
    pub(super) is_event_implied: bool,
    /// Each with its type and its end; `None` where there is no list.
    pub(super) restrictions: Option<Vec<[Scalar<'a>; 2]>>,
    pub(super) ban_state: Scalar<'a>,
    pub(super) violation: Scalar<'a>,
}

/// The fields of an account alert.
pub(super) struct AlertFields<'a> {
    pub(super) severity: Scalar<'a>,
    pub(super) alert_type: Scalar<'a>,
    pub(super) entity_type: Scalar<'a>,
    pub(super) entity_id: Scalar<'a>,
}

/// What names a template.
#[derive(Default)]
pub(super) struct TemplateFields<'a> {
    pub(super) id: Scalar<'a>,
    pub(super) name: Scalar<'a>,
    pub(super) language: Scalar<'a>,
}

impl<'a> AccountEventFields<'a> {
    /// The restrictions of a list of objects, whose fields have these names.
    pub(super) fn restrictions(
        objects: Option<Vec<Fields<'a>>>,
        [name, end]: [&str; 2],
    ) -> Option<Vec<[Scalar<'a>; 2]>> {
        let pair = |fields: &Fields<'a>| [fields.scalar(name), fields.scalar(end)];
        objects.map(|objects| objects.iter().map(pair).collect())
    }

    /// The change of an account.
    pub(super) fn change(
        &self,
        provider: ProviderName,
        common: &Common<'a>,
    ) -> Result<Change, InvalidChange> {
        let mut unknown = Vec::new();
        let event = AccountEvent::parse(self.event.as_str());
        if event == AccountEvent::Unknown {
            unknown.push(UnknownValue::new(
                UnknownField::AccountEvent,
                self.event.to_log(),
            ));
        }
        let restrictions = match event {
            AccountEvent::Restriction => self.restrictions.as_ref(),
            _ => None,
        };
        let mut read = |[name, end]: &[Scalar<'a>; 2]| {
            let restriction = Restriction::parse(name.as_str());
            if restriction == Restriction::Unknown {
                unknown.push(UnknownValue::new(UnknownField::Restriction, name.to_log()));
            }
            (
                restriction,
                end.time().map_or(RestrictionEnd::Never, RestrictionEnd::At),
            )
        };
        let restrictions = restrictions.map(|all| all.iter().map(&mut read).collect());
        let mut ban_state = None;
        let may_say = event == AccountEvent::Disabled || self.is_event_implied;
        if may_say && !self.ban_state.is_empty() {
            ban_state = BanState::parse(self.ban_state.as_str());
            if ban_state.is_none() {
                unknown.push(UnknownValue::new(
                    UnknownField::BanState,
                    self.ban_state.to_log(),
                ));
            }
        }
        let listed = self.restrictions.iter().flatten().flatten();
        let sent = [&self.event, &self.ban_state, &self.violation];
        let kind = ChangeKind::Account {
            event,
            restrictions,
            ban_state,
        };
        common.change(
            provider,
            "account_update",
            sent.into_iter().chain(listed),
            unknown,
            kind,
        )
    }
}

impl<'a> AlertFields<'a> {
    /// The change of an account.
    pub(super) fn change(
        &self,
        provider: ProviderName,
        common: &Common<'a>,
    ) -> Result<Change, InvalidChange> {
        let severity = AlertSeverity::parse(self.severity.as_str());
        let unknown = match severity {
            AlertSeverity::Unknown => {
                vec![UnknownValue::new(
                    UnknownField::Severity,
                    self.severity.to_log(),
                )]
            }
            _ => Vec::new(),
        };
        let sent = [
            &self.severity,
            &self.alert_type,
            &self.entity_type,
            &self.entity_id,
        ];
        let kind = ChangeKind::AccountAlert(severity);
        common.change(provider, "account_alerts", sent, unknown, kind)
    }
}

impl<'a> TemplateFields<'a> {
    fn template(&self) -> Option<TemplateId> {
        TemplateId::of(self.id.as_str(), self.name.as_str(), self.language.as_str())
    }

    /// What became of the template.
    pub(super) fn status(
        &self,
        provider: ProviderName,
        common: &Common<'a>,
        event: &Scalar<'a>,
    ) -> Result<Change, InvalidChange> {
        let name = event.as_str();
        let mut unknown = Vec::new();
        let kind = TemplateEvent::parse(name);
        if kind == TemplateEvent::Unknown {
            unknown.push(UnknownValue::new(
                UnknownField::TemplateEvent,
                event.to_log(),
            ));
        }
        let kind = ChangeKind::TemplateStatus {
            template: self.template(),
            event: kind,
        };
        let sent = [event, &self.id, &self.name, &self.language];
        common.change(
            provider,
            "message_template_status_update",
            sent,
            unknown,
            kind,
        )
    }

    /// The template's quality.
    pub(super) fn quality(
        &self,
        provider: ProviderName,
        common: &Common<'a>,
        quality: &Scalar<'a>,
    ) -> Result<Change, InvalidChange> {
        let mut unknown = Vec::new();
        let known = TemplateQuality::parse(quality.as_str());
        if known.is_none() {
            unknown.push(UnknownValue::new(UnknownField::Quality, quality.to_log()));
        }
        let kind = ChangeKind::TemplateQuality {
            template: self.template(),
            quality: known.unwrap_or(TemplateQuality::Unknown),
        };
        let sent = [quality, &self.id, &self.name, &self.language];
        common.change(
            provider,
            "message_template_quality_update",
            sent,
            unknown,
            kind,
        )
    }
}

impl<'a> Common<'a> {
    /// A change of an account with this identity: that of the kind, and of the fields as sent.
    fn change<'b>(
        &'b self,
        provider: ProviderName,
        name: &'static str,
        sent: impl IntoIterator<Item = &'b Scalar<'a>>,
        unknown: Vec<UnknownValue>,
        kind: ChangeKind,
    ) -> Result<Change, InvalidChange>
    where
        'a: 'b,
    {
        let waba_id = WabaId::parse(self.waba_id.id()?)?;
        if waba_id.is_empty() {
            return Err(InvalidKey::AccountEmpty.into());
        }
        let common = [&self.waba_id, &self.delivery_id, &self.time].into_iter();
        let fields = common.chain(sent).map(Scalar::as_str);
        let fields = std::iter::once(name).chain(fields);
        Ok(Change {
            identity: identity(&self.delivery_id, &self.time, fields),
            account: AccountKey { provider, waba_id },
            time: self.time.time(),
            unknown,
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const PROVIDER: ProviderName = ProviderName::new("example");

    /// Each of the fields tells one change from another; the same fields make the same change.
    fn all_tell_apart<const N: usize>(change: impl Fn([Scalar<'static>; N]) -> Change) {
        let sent = |changed: Option<usize>| {
            let field = |index| if Some(index) == changed { "2" } else { "1" };
            let fields = std::array::from_fn(|index| Scalar::Text(field(index).into()));
            change(fields).identity.unwrap()
        };
        let identities: HashSet<_> = std::iter::once(None)
            .chain((0..N).map(Some))
            .map(sent)
            .collect();
        assert_eq!(identities.len(), N + 1);
        assert_eq!(sent(None), sent(None));
    }

    #[test]
    fn every_field_that_is_read_tells_a_change_from_another() {
        all_tell_apart(
            |[
                waba_id,
                delivery_id,
                time,
                event,
                name,
                end,
                ban_state,
                violation,
            ]| {
                let fields = AccountEventFields {
                    event,
                    is_event_implied: false,
                    restrictions: Some(vec![[name, end]]),
                    ban_state,
                    violation,
                };
                let common = common([waba_id, delivery_id, time]);
                fields.change(PROVIDER, &common).unwrap()
            },
        );
        all_tell_apart(
            |[
                waba_id,
                delivery_id,
                time,
                severity,
                alert_type,
                entity_type,
                entity_id,
            ]| {
                let fields = AlertFields {
                    severity,
                    alert_type,
                    entity_type,
                    entity_id,
                };
                let common = common([waba_id, delivery_id, time]);
                fields.change(PROVIDER, &common).unwrap()
            },
        );
        all_tell_apart(|[waba_id, delivery_id, time, event, id, name, language]| {
            let fields = TemplateFields { id, name, language };
            let common = common([waba_id, delivery_id, time]);
            fields.status(PROVIDER, &common, &event).unwrap()
        });
        all_tell_apart(
            |[waba_id, delivery_id, time, quality, id, name, language]| {
                let fields = TemplateFields { id, name, language };
                let common = common([waba_id, delivery_id, time]);
                fields.quality(PROVIDER, &common, &quality).unwrap()
            },
        );
    }

    fn common([waba_id, delivery_id, time]: [Scalar<'static>; 3]) -> Common<'static> {
        Common {
            waba_id,
            delivery_id,
            time,
        }
    }
}
