//! Which phone number or account a path names.

use percent_encoding::percent_decode_str;

use crate::{
    domain::{AccountKey, NumberKey, PhoneNumber, WabaId},
    providers,
    state::Table,
};

/// What stands in a path in the place of an account that is empty.
pub(super) const EMPTY: &str = "-";

/// The phone number at `PROVIDER/WABA_ID/PHONE_NUMBER`: as it is shown, or in any spelling of the
/// number itself.
pub(super) fn number(table: &Table, segments: &[&str]) -> Option<NumberKey> {
    let (account, shown) = parts(segments)?;
    let of = |phone_number| NumberKey::of(&account, &phone_number);
    let parsed = PhoneNumber::parse(&shown).map(of);
    let as_given = of(PhoneNumber::from_stored(&shown));
    let mut given = [as_given].into_iter().chain(parsed);
    let key = given.find(|key| table.numbers.get(key).is_some());
    key.or_else(|| by_pseudonym(table, &account, &shown))
}

/// As [`number`], but where numbers are shown by pseudonyms, only by these: a reader of the pages
/// must not be able to try numbers.
pub(super) fn shown_number(table: &Table, segments: &[&str]) -> Option<NumberKey> {
    if !table.has_pseudonyms() {
        return number(table, segments);
    }
    let (account, shown) = parts(segments)?;
    by_pseudonym(table, &account, &shown)
}

fn parts(segments: &[&str]) -> Option<(AccountKey, String)> {
    let [provider, waba_id, phone_number] = segments else {
        return None;
    };
    Some((account_key(provider, waba_id)?, decoded(phone_number)?))
}

fn by_pseudonym(table: &Table, account: &AccountKey, shown: &str) -> Option<NumberKey> {
    let mut all = table.numbers.iter_after(None).map(|(key, _)| key);
    let is_shown = |key: &NumberKey| table.shown(key).last().is_some_and(|last| *last == shown);
    let is_wanted = |key: &NumberKey| key.account == *account && is_shown(key);
    table.has_pseudonyms().then(|| all.find(is_wanted))?
}

/// The account at `PROVIDER/WABA_ID`.
pub(super) fn account(segments: &[&str]) -> Option<AccountKey> {
    let [provider, waba_id] = segments else {
        return None;
    };
    account_key(provider, waba_id)
}

fn account_key(provider: &str, waba_id: &str) -> Option<AccountKey> {
    let waba_id = match decoded(waba_id)?.as_str() {
        EMPTY => WabaId::from_stored(""),
        waba_id => WabaId::from_stored(waba_id),
    };
    Some(AccountKey {
        provider: providers::by_name(&decoded(provider)?)?.name,
        waba_id,
    })
}

/// A segment of a path without its percent-encoding; nothing where it is empty or is not text.
fn decoded(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    (!text.is_empty()).then(|| text.into_owned())
}
