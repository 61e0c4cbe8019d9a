#![doc = include_str!("../README.md")]

mod admin;
mod client;
mod config;
mod emitter;
mod error;
mod source;

pub use admin::{TopicAdmin, TopicDescription, TopicDifference, TopicSpec};
pub use config::KafkaConfig;
pub use emitter::{EmitterConfig, KafkaEmitter};
pub use source::{KafkaSource, SourceOptions};
