#![doc = include_str!("../README.md")]

mod config;
mod error;

pub use config::KafkaConfig;
