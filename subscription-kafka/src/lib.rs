#![doc = include_str!("../README.md")]

mod config;
mod emitter;
mod error;

pub use config::KafkaConfig;
pub use emitter::{EmitterConfig, KafkaEmitter};
