//! Whose event it is, and which of theirs.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::event::ApiUsageEvent;

/// The most characters that an `emitter_id` may have.
const MAX_ID: usize = 128;

/// Makes payloads that carry an emitter's id and a number: for those who write an [`EventEmitter`](crate::EventEmitter).
///
/// The number is written last, so that only that is left to do where calls are put in order.
///
/// ```
/// use subscription_core::{EmitterStamp, Judged, judge, testkit::samples};
/// # fn main() -> subscription_core::Result<()> {
/// let stamp = EmitterStamp::new("gateway-3")?;
/// let draft = stamp.draft(&samples::usage_event(7, "acme"));
/// let payload = draft.numbered(41);
/// let Judged::Valid(event) = judge(payload.as_bytes()) else { panic!() };
/// assert_eq!((event.emitter_id.as_deref(), event.emitter_sequence), (Some(stamp.id()), Some(41)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct EmitterStamp {
    id: String,
    /// What is written behind the event's own members.
    members: String,
}

/// A payload that lacks its number.
#[derive(Debug)]
pub struct Draft(String);

impl EmitterStamp {
    /// A stamp with an id of its own: `name`, a slash, and a random UUID, since no start may have that of another.
    ///
    /// # Errors
    /// `Configuration`, where the name is empty or has more than 91 characters.
    pub fn new(name: &str) -> Result<Self> {
        let id = format!("{name}/{}", Uuid::new_v4());
        if name.is_empty() || id.chars().count() > MAX_ID {
            return Err(Error::new(ErrorKind::Configuration, "an emitter cannot have this name")
                .with("name", name)
                .with_help("give 1 to 91 characters that tell this process from others, such as its host's name"));
        }
        let quoted = serde_json::Value::from(id.as_str());
        Ok(Self { members: format!(",\"emitter_id\":{quoted},\"emitter_sequence\":"), id })
    }

    /// The `emitter_id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The event's payload, but for its number. An origin that the event has already is not kept.
    pub fn draft(&self, event: &ApiUsageEvent<'_>) -> Draft {
        // Room for most events and what is added.
        let mut payload = event.to_json_without_origin(1_024);
        payload.pop();
        payload.push_str(&self.members);
        Draft(payload)
    }
}

impl Draft {
    /// The payload of the event with this number.
    pub fn numbered(self, sequence: u64) -> String {
        let mut payload = self.0;
        // Writing to a string does not fail.
        let _ = write!(payload, "{sequence}}}");
        payload
    }
}
