//! The documentation of this version, for an operator who has the program and not its source.

use super::{Answer, PLAIN, answer, not_found};
use hyper::StatusCode;

/// The name of each page in the path, and its Markdown.
const DOCUMENTS: &[(&str, &str)] = &[
    ("api.md", include_str!("../../docs/api.md")),
    ("commands.md", include_str!("../../docs/commands.md")),
    ("deployment.md", include_str!("../../docs/deployment.md")),
    ("faq.md", include_str!("../../docs/faq.md")),
    ("metrics.md", include_str!("../../docs/metrics.md")),
    ("providers.md", include_str!("../../docs/providers.md")),
    ("runbook.md", include_str!("../../docs/runbook.md")),
    ("scale-out.md", include_str!("../../docs/scale-out.md")),
];

/// Answers a page as plain text, which a person can read, too.
pub(super) fn document(name: &str) -> Answer {
    match DOCUMENTS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => answer(StatusCode::OK, PLAIN, *text),
        None => not_found(),
    }
}
