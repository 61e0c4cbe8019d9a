//! Against a real Apache Kafka, which the tests start themselves.

mod admin;
mod bad;
mod broker;
mod dead_letter;
mod emitter;
mod source;
mod support;
