#![doc = include_str!("../README.md")]

mod config;
mod connection;
mod counters;
mod error;
mod keys;
mod script;

pub use config::RedisConfig;
pub use counters::RedisCounters;
