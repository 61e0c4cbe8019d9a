//! Against a real Apache Kafka, which the tests start themselves.

mod admin;
mod bad;
mod broker;
mod emitter;
mod source;
mod support;
