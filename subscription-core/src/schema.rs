//! The event contract as a JSON Schema.

/// The JSON Schema (draft 2020-12) of the usage event, `schemas/api_usage_event.schema.json`: the contract between those
/// who emit events and the platform. Formats are to be asserted.
///
/// ```
/// let schema: serde_json::Value = serde_json::from_str(subscription_core::EVENT_SCHEMA).unwrap();
/// assert_eq!(schema["properties"]["response_status_code"]["maximum"], 599);
/// ```
pub const EVENT_SCHEMA: &str = include_str!("../schemas/api_usage_event.schema.json");
