//! Amazon SNS, which asks for a confirmation before it delivers.
//!
//! Source: the developer guide's page "Subscription confirmation message format".

/// The address with which a subscription is confirmed, where it is one of Amazon SNS: a person is
/// shown it, and must not be led elsewhere.
pub(super) fn subscribe_url(url: &str) -> Option<String> {
    const MAX_LENGTH: usize = 2048;
    let (region, _) = url
        .strip_prefix("https://sns.")?
        .split_once(".amazonaws.com/")?;
    let is_region = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_of_a_region = !region.is_empty() && region.bytes().all(is_region);
    let is_plain = url.len() <= MAX_LENGTH && url.bytes().all(|byte| byte.is_ascii_graphic());
    (is_of_a_region && is_plain).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_amazon_sns_are_shown() {
        let good = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=1";
        assert_eq!(subscribe_url(good).as_deref(), Some(good));
        for bad in [
            "",
            "http://sns.us-east-1.amazonaws.com/",
            "https://sns.us-east-1.amazonaws.com",
            "https://sns..amazonaws.com/",
            "https://sns.us-east-1.amazonaws.com@example.com/",
            "https://sns.example.com/.amazonaws.com/",
            "https://sns.a@example.com/x.amazonaws.com/",
            "https://sns.us-east-1.amazonaws.com.example.com/",
            "https://sns.us-east-1.amazonaws.com/ x",
            "https://sns.us-east-1.amazonaws.com/\u{202e}x",
        ] {
            assert_eq!(subscribe_url(bad), None, "{bad}");
        }
    }
}
