//! Findings while one object is translated: they become diagnostics and the messages of conditions.

use crate::diagnostic::{Diagnostic, Severity};
use crate::objects::ObjectKey;

/// Characters of one message. An Event's message may have 1,024 in all.
const MESSAGE_MAX_CHARS: usize = 700;
/// Findings that one condition's message spells out.
const SUMMARY_MAX: usize = 8;

/// A finding about a field of the object that is being translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) field: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) severity: Severity,
}

impl Finding {
    pub(crate) fn error(
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Finding {
        Finding::new(field, reason, message, Severity::Error)
    }

    pub(crate) fn warning(
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Finding {
        Finding::new(field, reason, message, Severity::Warning)
    }

    pub(crate) fn info(
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Finding {
        Finding::new(field, reason, message, Severity::Info)
    }

    fn new(
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
        severity: Severity,
    ) -> Finding {
        let mut message = message.into();
        if let Some((cut, _)) = message.char_indices().nth(MESSAGE_MAX_CHARS) {
            message.truncate(cut);
            message.push('…');
        }
        Finding { field: field.into(), reason, message, severity }
    }

    pub(crate) fn diagnostic(self, object: &ObjectKey) -> Diagnostic {
        Diagnostic {
            object: object.clone(),
            field: self.field,
            reason: self.reason,
            message: self.message,
            severity: self.severity,
        }
    }
}

/// The message of a condition that rests on `findings`.
pub(crate) fn summary<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut text = String::new();
    let mut more = 0;
    for (index, finding) in findings.into_iter().enumerate() {
        if index >= SUMMARY_MAX {
            more += 1;
            continue;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&finding.field);
        text.push_str(": ");
        text.push_str(&finding.message);
    }
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// `a`, `a and b`, `a, b and c`; at most `max` items are spelled out.
pub(crate) fn list(items: &[String], max: usize) -> String {
    let shown = items.len().min(max);
    let mut parts: Vec<String> = items[..shown].to_vec();
    if items.len() > shown {
        parts.push(format!("{} more", items.len() - shown));
    }
    match parts.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_a_sentence_and_stay_short() {
        let items: Vec<String> = ["a", "b", "c", "d"].iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(list(&items[..0], 3), "");
        assert_eq!(list(&items[..1], 3), "a");
        assert_eq!(list(&items[..2], 3), "a and b");
        assert_eq!(list(&items[..3], 3), "a, b and c");
        assert_eq!(list(&items, 2), "a, b and 2 more");
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let finding = Finding::error("spec", "Reason", "é".repeat(5_000));
        assert_eq!(finding.message.chars().count(), MESSAGE_MAX_CHARS + 1);
    }
}
