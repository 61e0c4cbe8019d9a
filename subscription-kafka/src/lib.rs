#![doc = include_str!("../README.md")]

mod admin;
mod client;
mod config;
mod dead_letter;
mod emitter;
mod error;
mod source;

pub use admin::{TopicAdmin, TopicDescription, TopicDifference, TopicSpec};
pub use config::KafkaConfig;
pub use dead_letter::{DeadLetterConfig, KafkaDeadLetters};
pub use emitter::{EmitterConfig, KafkaEmitter};
pub use source::{KafkaSource, SourceOptions};
