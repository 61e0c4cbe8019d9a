//! Sample rows.
