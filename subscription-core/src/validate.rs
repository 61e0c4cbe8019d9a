//! What a payload is: a dead letter, an invalid event or a valid one.

use crate::event::ApiUsageEvent;

/// The judgement of a payload by itself: groups 1 and 2 of the validation (schema and values).
#[derive(Debug, Clone, PartialEq)]
pub enum Judged<'a> {
    /// No JSON object: a dead letter.
    Dead {
        /// `empty_payload`, `invalid_utf8`, `not_json` or `not_an_object`.
        code: &'static str,
        /// What was wrong, and where.
        error: String,
    },
    /// A JSON object that is no event: quarantine.
    Invalid(Invalid),
    /// An event that the schema accepts.
    Valid(Box<ApiUsageEvent<'a>>),
}

/// What is known of an event that failed validation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalid {
    /// `event_id` as given, where it is a string.
    pub event_id: Option<String>,
    /// `tenant_id` as given, where it is a string.
    pub tenant_id: Option<String>,
    /// `code:field`, sorted, all of the first failing group.
    pub errors: Vec<String>,
}
